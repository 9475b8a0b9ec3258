//! Ternary weights with one scale, stored once more for processors with AVX-512 VBMI: a fifth of a byte for each and nothing
//! else, so that a token reads a fifth less than of TQ2_0, and 5% less than of TQ1_0.
//!
//! A code is a byte: five weights of a row, those from 5 g on, as a number in balanced base 3 (the first of them is its lowest
//! digit; behind the end of the row are zeros): bit 7 is its sign, the rest its magnitude, at most 121. A matrix is
//! divided into blocks of `height` rows, the last of them perhaps lower; a block has its codes by group g, then by 64
//! rows, then by [`position`].
//!
//! For one token, or a few, what a code's weights sum up to is found in a table of the group's activations ([`tables`],
//! [`lookup`]). For many, 64 rows are unpacked and multiplied ([`product`]). Sums are exact, so the bits are those of the file's
//! own blocks.

#[cfg(target_arch = "x86_64")]
mod lookup;
#[cfg(target_arch = "x86_64")]
pub(super) mod product;
#[cfg(target_arch = "x86_64")]
mod tables;

#[cfg(target_arch = "x86_64")]
use super::{
    Job,
    act::{I8Tail, absmax, quantize},
    amx,
};
use super::{QK_K, TernaryType, WeightKind};
use crate::simd::SimdLevel;
use ggml_ops::quants::{BlockTq1_0, BlockTq2_0, Ternary};
#[cfg(target_arch = "x86_64")]
use std::sync::atomic::{AtomicU64, Ordering};

/// Weights of a code.
const GROUP: usize = 5;
/// Rows of a vector of codes.
pub(crate) const ROWS: usize = 64;
/// Vectors that are looked up together, at most: what reads memory fastest.
const MAX_VECTORS: usize = 4;
/// Tokens whose products are looked up; to unpack the weights pays for more.
const MAX_LOOKED_UP: usize = 1;

/// Whether this processor multiplies packed weights at this level.
pub(crate) fn supported(level: SimdLevel) -> bool {
    #[cfg(target_arch = "x86_64")]
    let vbmi = is_x86_feature_detected!("avx512vbmi");
    #[cfg(not(target_arch = "x86_64"))]
    let vbmi = false;
    vbmi && matches!(level, SimdLevel::Avx512Vnni | SimdLevel::Amx)
}

/// Codes of a row of `k` weights.
pub(crate) fn groups(k: usize) -> usize {
    k.div_ceil(GROUP)
}

/// Rows of a block in a matrix of `rows`: many, as long as there are some blocks for each thread.
pub(crate) fn height(rows: usize, threads: usize) -> usize {
    let enough = |vectors: &usize| rows >= 3 * threads * vectors * ROWS;
    [MAX_VECTORS, 2].into_iter().find(enough).unwrap_or(1) * ROWS
}

/// The place of a row within its vector of 64: [`product`] unpacks it to the order of the rows.
fn position(row: usize) -> usize {
    let (vector, pair, odd) = (row / 16, row % 16 / 2, row % 2);
    8 * pair + 2 * vector + odd
}

/// Packs rows of `k` weights, a multiple of [`ROWS`] of them; `dst` has [`groups`] bytes for each.
///
/// False, and `dst` is to be thrown away, where a weight is none of -1, 0 and 1: two bits of TQ2_0 may say 2.
pub(crate) fn pack(ty: TernaryType, k: usize, height: usize, src: &[u8], dst: &mut [u8]) -> bool {
    match ty {
        TernaryType::Tq1_0 => pack_blocks::<BlockTq1_0>(k, height, bytemuck::cast_slice(src), dst),
        TernaryType::Tq2_0 => pack_blocks::<BlockTq2_0>(k, height, bytemuck::cast_slice(src), dst),
    }
}

fn pack_blocks<B: Ternary>(k: usize, height: usize, src: &[B], dst: &mut [u8]) -> bool {
    /// Blocks of the file that hold whole groups.
    const RUN: usize = GROUP;
    /// As a factor of a number whose bytes are five digits: byte 4 of the product is their value in base 3.
    const POWERS: u64 = 81 | 27 << 8 | 9 << 16 | 3 << 24 | 1 << 32;
    const ZEROS: i32 = 121;
    let codes: [u8; 256] = std::array::from_fn(|v| {
        let v = v as i32 - ZEROS;
        v.unsigned_abs() as u8 & 0x7f | if v < 0 { 0x80 } else { 0 }
    });
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
            for (digits, block) in digits.as_chunks_mut::<QK_K>().0.iter_mut().zip(run) {
                for (digit, w) in digits.iter_mut().zip(block.weights()) {
                    *digit = (w + 1) as u8;
                    largest = largest.max(*digit);
                }
            }
            for (g, to) in (0..groups(run.len() * QK_K)).zip(&mut to) {
                let five = u64::from_le_bytes(*digits[GROUP * g..].first_chunk().expect("8 bytes more than digits"));
                *to = codes[(five.wrapping_mul(POWERS) >> 32 & 0xff) as usize];
            }
        }
    }
    largest <= 2
}

/// Bytes of a prepared token.
#[cfg(target_arch = "x86_64")]
pub(super) fn record_size(k: usize) -> usize {
    product::padded(k) + size_of::<I8Tail>()
}

/// Prepares one of `n` tokens: its int8 in the order of the product, or their own if they are looked up, with zeros behind them.
///
/// # Safety
/// The processor is [`supported`]; `dst` has room for a record and is aligned to 64 bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn token(n: usize, x: &[f32], dst: *mut u8) {
    static IDS: AtomicU64 = AtomicU64::new(1);
    let a = absmax(x).max(1e-5);
    let e = 127.0 / a;
    let mut sum = 0i32;
    // SAFETY: the record has `padded` bytes, then a tail.
    unsafe {
        let values = std::slice::from_raw_parts_mut(dst.cast::<i8>(), product::padded(x.len()));
        values[x.len()..].fill(0);
        for (block, values) in x.chunks_exact(QK_K).zip(values.as_chunks_mut::<QK_K>().0) {
            *values = quantize(block, e);
            sum = values.iter().map(|&q| i32::from(q)).sum::<i32>().wrapping_add(sum);
        }
        if n > MAX_LOOKED_UP {
            product::reorder(values);
        }
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        dst.add(values.len()).cast::<I8Tail>().write(I8Tail { scale: a / 127.0, sum, id });
    }
}

/// Bytes that a thread keeps from one step to the next for the tables of a token.
pub(crate) fn tables_size(kind: WeightKind, k: usize, n: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if let WeightKind::TernaryPacked { .. } = kind
        && n <= MAX_LOOKED_UP
    {
        return lookup::tables_size(k);
    }
    let _ = (kind, k, n);
    0
}

/// `job.scratch` has [`tables_size`] bytes, zeros or what a call before left there, or if that is 0, the kind's scratch.
///
/// # Safety
/// As [`super::mul_mat`]; the processor is [`supported`].
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn mul_mat(d: f32, height: usize, job: &Job) {
    // SAFETY: the caller's promises.
    unsafe {
        if job.n <= MAX_LOOKED_UP {
            lookup::mul_mat(d, height, job);
        } else if amx::takes(job.level, job.n) {
            amx::packed(d, height, job);
        } else {
            product::mul_mat(d, height, job);
        }
    }
}
