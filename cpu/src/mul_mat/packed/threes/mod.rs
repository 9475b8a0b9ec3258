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
use super::ROWS;
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
    let mut largest = 0;
    for (rows, dst) in src.chunks_exact(ROWS * k / QK_K).zip(dst.chunks_exact_mut(ROWS * row_bytes(k))) {
        for (r, row) in rows.chunks_exact(k / QK_K).enumerate() {
            let (vector, place) = (r / LANES, position(r % LANES));
            let mut units = dst.chunks_exact_mut(UNITS);
            for run in row.chunks(RUN) {
                let mut weights = [0i8; RUN * QK_K];
                for (weights, block) in weights.as_chunks_mut::<QK_K>().0.iter_mut().zip(run) {
                    *weights = block.weights();
                }
                let steps = (run.len() * QK_K).div_ceil(STEP);
                for (step, unit) in weights.as_chunks::<STEP>().0[..steps].iter().zip(&mut units) {
                    let unit = &mut unit[UNIT * vector..UNIT * (vector + 1)];
                    let mut signs = 0;
                    for (g, w) in step.as_chunks::<GROUP>().0.iter().enumerate() {
                        largest = largest.max(w[0]).max(w[1]).max(w[2]);
                        let v = w[0] + 3 * w[1] + 9 * w[2];
                        unit[LANES * (g / 2) + place] |= (v.unsigned_abs() & 15) << (g % 2 * 4);
                        signs |= u8::from(v < 0) << (7 - g);
                    }
                    unit[4 * LANES + place] = signs;
                }
            }
        }
    }
    largest <= 1
}
