//! Three weights in five bits, for AVX2: 1.67 bits for each.
//!
//! A code is three weights of a row, those from 3 g on, as a number in balanced base 3 (the first is its lowest digit): four bits of
//! magnitude, at most 13, and one of sign. A block is 64 rows; it has its codes by eight groups, then by 32 rows: 4 x 32 bytes of
//! magnitudes, those of groups 2 i and 2 i + 1 in the low and high halves of the i-th 32, then 32 bytes of signs, that of
//! group j in bit 7 - j. Rows have the places of [`position`].

#[cfg(target_arch = "x86_64")]
pub(super) mod lookup;
#[cfg(target_arch = "x86_64")]
pub(super) mod product;

use super::super::QK_K;
use super::{ROWS, codes};
use ggml_ops::quants::Ternary;

/// Weights of a code.
const GROUP: usize = 3;
/// Groups whose signs are a byte.
const GROUPS: usize = 8;
/// Weights of a row that lie together.
const STEP: usize = GROUP * GROUPS;
/// Rows of a vector of codes.
const LANES: usize = 32;
/// Bytes of [`STEP`] weights of [`LANES`] rows: magnitudes, then signs.
const UNIT: usize = 5 * LANES;
/// Those of [`ROWS`] rows.
const UNITS: usize = UNIT * ROWS / LANES;

/// Bytes of a row of `k` weights.
pub(super) fn row_bytes(k: usize) -> usize {
    k.div_ceil(STEP) * UNITS / ROWS
}

/// The place of a row within its vector of 32: [`product`] unpacks it to the order of the rows.
fn position(row: usize) -> usize {
    let (vector, i) = (row / 8, row % 8);
    4 * vector + i % 4 + 16 * (i / 4)
}

/// As [`super::pack`].
pub(super) fn pack<B: Ternary>(k: usize, src: &[B], dst: &mut [u8]) -> bool {
    /// Blocks of the file that hold whole steps.
    const RUN: usize = 3;
    /// As a factor of a number whose bytes are three digits: byte 2 of the product is their value in base 3.
    const POWERS: u32 = 9 | 3 << 8 | 1 << 16;
    const CODES: [u8; 256] = codes(13);
    let mut largest = 0;
    for (rows, dst) in src.chunks_exact(ROWS * k / QK_K).zip(dst.chunks_exact_mut(ROWS * row_bytes(k))) {
        for (r, row) in rows.chunks_exact(k / QK_K).enumerate() {
            let (vector, place) = (r / LANES, position(r % LANES));
            let mut units = dst.chunks_exact_mut(UNITS);
            for run in row.chunks(RUN) {
                // Digits 0..=2, a 1 behind the end: a weight 0.
                let mut digits = [1u8; RUN * QK_K];
                largest = largest.max(super::digits(run, &mut digits));
                let steps = (run.len() * QK_K).div_ceil(STEP);
                for (step, unit) in (0..steps).zip(&mut units) {
                    let unit = &mut unit[UNIT * vector..UNIT * (vector + 1)];
                    let digits: &[u8; STEP] = digits[STEP * step..].first_chunk().expect("whole steps");
                    let mut signs = 0;
                    for pair in 0..GROUPS / 2 {
                        let [a, b] = [2 * pair, 2 * pair + 1].map(|g| {
                            let at = GROUP * g;
                            let three = u32::from_le_bytes([digits[at], digits[at + 1], digits[at + 2], 0]);
                            CODES[(three.wrapping_mul(POWERS) >> 16 & 0xff) as usize]
                        });
                        unit[LANES * pair + place] = a & 15 | b << 4;
                        signs = signs << 2 | (a >> 7) << 1 | b >> 7;
                    }
                    unit[4 * LANES + place] = signs;
                }
            }
        }
    }
    largest <= 2
}
