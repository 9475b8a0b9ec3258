//! Five weights in a byte, for AVX-512 VBMI: 1.6 bits for each.
//!
//! A code is five weights of a row, those from 5 g on, as a number in balanced base 3 (the first is its lowest digit; behind the end of
//! the row are zeros): bit 7 is its sign, the rest its magnitude, at most 121. A matrix is divided into blocks of `height`
//! rows, the last of them perhaps lower; a block has its codes by group g, then by 64 rows, then by [`position`].

#[cfg(target_arch = "x86_64")]
pub(super) mod lookup;
#[cfg(target_arch = "x86_64")]
pub(in super::super) mod product;
#[cfg(target_arch = "x86_64")]
mod tables;

use super::super::QK_K;
use super::{ROWS, codes};
use ggml_ops::quants::Ternary;

/// Weights of a code.
const GROUP: usize = 5;
/// Vectors of 64 rows that are looked up together, at most: what reads memory fastest.
const MAX_VECTORS: usize = 4;

/// Codes of a row of `k` weights.
pub(super) fn groups(k: usize) -> usize {
    k.div_ceil(GROUP)
}

/// Rows of a block in a matrix of `rows`: many, as long as there are some blocks for each thread.
pub(super) fn height(rows: usize, threads: usize) -> usize {
    let enough = |vectors: &usize| rows >= 3 * threads * vectors * ROWS;
    [MAX_VECTORS, 2].into_iter().find(enough).unwrap_or(1) * ROWS
}

/// The place of a row within its vector of 64: [`product`] unpacks it to the order of the rows.
fn position(row: usize) -> usize {
    let (vector, pair, odd) = (row / 16, row % 16 / 2, row % 2);
    8 * pair + 2 * vector + odd
}

/// As [`super::pack`].
pub(super) fn pack<B: Ternary>(k: usize, height: usize, src: &[B], dst: &mut [u8]) -> bool {
    /// Blocks of the file that hold whole groups.
    const RUN: usize = GROUP;
    /// As a factor of a number whose bytes are five digits: byte 4 of the product is their value in base 3.
    const POWERS: u64 = 81 | 27 << 8 | 9 << 16 | 3 << 24 | 1 << 32;
    const CODES: [u8; 256] = codes(121);
    let mut largest = 0;
    let rows = src.chunks_exact(k / QK_K);
    for (r, row) in rows.enumerate() {
        let (block, in_block) = (r / height, r % height);
        let first = block * height;
        let height = height.min(dst.len() / groups(k) - first);
        let place = in_block / ROWS * ROWS + position(in_block % ROWS);
        let mut to = dst[first * groups(k) + place..].iter_mut().step_by(height);
        for run in row.chunks(RUN) {
            // Digits 0..=2, a 1 behind the end: a weight 0.
            let mut digits = [1u8; RUN * QK_K + 8];
            largest = largest.max(super::digits(run, &mut digits));
            for (g, to) in (0..groups(run.len() * QK_K)).zip(&mut to) {
                let five = u64::from_le_bytes(*digits[GROUP * g..].first_chunk().expect("8 bytes more than digits"));
                *to = CODES[(five.wrapping_mul(POWERS) >> 32 & 0xff) as usize];
            }
        }
    }
    largest <= 2
}
