//! Ternary weights with one scale, many tokens: AMX's int8 tiles.
//!
//! A tile of activations is 16 tokens x 64 int8 as they lie in memory; a tile of weights is 16 rows x 64 codes in the
//! order that the instructions want: bytes 4 q .. 4 q + 4 of row r at 64 q + 4 r. The blocks of 16 rows are brought into
//! that order while they are packed (a quarter or fifth of the work), then unpacked plane by plane. So the activations
//! follow the planes of the blocks (`act::I8Order`), and a tile of results lies as `y` wants it: tokens, then rows.
//!
//! Packed weights are unpacked to the same lines, of 64 rows side by side.
//!
//! The sums are exact, so the bits are those of every other level.

use std::arch::x86_64::*;
use std::ops::Range;

use gguf::GgmlType;

use super::act::I8Tail;
use super::fetch::Ahead;
use super::packed::{self, QUAD, fives::product};
use super::vector::Simd;
use super::{Job, QK_K, TernaryType};
#[cfg(not(test))]
use crate::amx::Amx;
use crate::amx::{LINES, Panel, Tiles, Two};
use crate::simd::SimdLevel;

const TQ1: usize = GgmlType::TQ1_0.type_size();
const TQ2: usize = GgmlType::TQ2_0.type_size();

/// Tokens of a tile; the buffer of activations has room for a multiple of them.
pub(super) const TOKENS: usize = LINES;
/// Tokens that pay for the order of the weights.
const MIN_TOKENS: usize = 8;
/// Rows that are unpacked together: two tiles.
const ROWS: usize = 32;
/// Bytes of a tile.
const TILE: usize = 1024;
/// Tiles of a block of 256 in 16 rows.
const STEPS: usize = QK_K / 64;
/// Tokens whose sums are kept while the weights go by: two tiles each.
const GROUPS: usize = 4;
/// Tiles of weights, of each 16 rows, that are used for all groups before the next, about: what the L1 cache holds.
const CHUNK: usize = 12;

/// What unpacks the weights, beside the tiles that multiply them.
pub(super) trait Unpack: Tiles {
    /// The vectors.
    type S: Simd;

    /// The 64 bytes at each pointer: four bytes of all rows, then the next four.
    ///
    /// # Safety
    /// The processor has the features of `S`; 64 bytes can be read at each pointer.
    unsafe fn transpose(rows: [*const u8; 16]) -> [<Self::S as Simd>::B; 16];
}

#[cfg(not(test))]
impl Unpack for Amx {
    type S = super::vector_avx512::Avx512Vnni;

    #[inline(always)]
    unsafe fn transpose(rows: [*const u8; 16]) -> [__m512i; 16] {
        // SAFETY: the caller's promises.
        unsafe { transpose(rows) }
    }
}

/// Whether tiles multiply this many tokens. The order of the activations depends on it.
pub(super) fn takes(level: SimdLevel, n: usize) -> bool {
    level == SimdLevel::Amx && n >= MIN_TOKENS
}

/// Bytes of the sums that scratch memory begins with.
pub(super) const SUMS_SIZE: usize = GROUPS * (packed::ROWS / ROWS) * size_of::<Panel<i32>>();

/// Bytes of scratch memory: sums, then unpacked rows.
pub(super) fn scratch_size(k: usize) -> usize {
    SUMS_SIZE + ROWS * k
}

/// One scale in the whole tensor.
///
/// # Safety
/// As [`super::mul_mat`]; [`takes`] is true.
#[cfg(not(test))]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn uniform(ty: TernaryType, d: f32, job: &Job) {
    // SAFETY: the caller's promises.
    unsafe { run::<Amx>(ty, d, job) }
}

/// In unit tests, on any processor with AVX2.
#[cfg(test)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn uniform(ty: TernaryType, d: f32, job: &Job) {
    // SAFETY: the caller's promises.
    unsafe { run::<crate::amx::emulated::Tiles>(ty, d, job) }
}

/// As [`uniform`], of packed weights.
///
/// # Safety
/// As [`uniform`]; the processor has AVX-512 VBMI.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni")]
pub(super) unsafe fn packed(d: f32, height: usize, job: &Job) {
    #[cfg(not(test))]
    type T = Amx;
    #[cfg(test)]
    type T = crate::amx::emulated::Tiles;
    let mut ahead = Ahead::new(job);
    // SAFETY: the caller's promises; the scratch memory has room for sums and 64 rows.
    unsafe {
        let weights = job.scratch.add(SUMS_SIZE);
        let tiles = T::configure();
        for r in (job.r0..job.r1).step_by(packed::ROWS) {
            product::unpack::<true>(height, job, r, weights, &mut ahead);
            let k = product::padded(job.k);
            let mut pairs = [Two { at: [weights.cast_const(); 2], line: 64, next: LINES * QUAD }; packed::ROWS / ROWS];
            for (i, at) in pairs.iter_mut().flat_map(|pair| &mut pair.at).enumerate() {
                *at = weights.add(i * TILE);
            }
            multiply(&tiles, d, job, r..r + packed::ROWS, k, &pairs);
        }
    }
}

#[inline(always)]
unsafe fn run<T: Unpack>(ty: TernaryType, d: f32, job: &Job) {
    let steps = job.k / 64;
    let mut ahead = Ahead::new(job);
    // SAFETY: the caller has AMX, where T needs it; rows are below r1, and tokens below n or in the room that act_size
    // leaves after them.
    unsafe {
        let weights = job.scratch.add(SUMS_SIZE);
        let tiles = T::configure();
        for r0 in (job.r0..job.r1).step_by(ROWS) {
            let rows = ROWS.min(job.r1 - r0);
            unpack::<T>(ty, job, r0, weights, &mut ahead);
            unpack::<T>(ty, job, job.r1.min(r0 + 16), weights.add(steps * TILE), &mut ahead);
            let at = [weights.cast_const(), weights.add(steps * TILE)];
            let pair = [Two { at, line: 64, next: TILE }];
            multiply(&tiles, d, job, r0..r0 + rows, job.k, &pair);
        }
    }
}

/// Multiplies rows, in pairs of tiles, with all tokens, which have `k` values.
#[inline(always)]
unsafe fn multiply<T: Tiles>(tiles: &T, d: f32, job: &Job, rows: Range<usize>, k: usize, pairs: &[Two]) {
    let steps = k / 64;
    // As long as each other: to put the sums aside and take them up again costs as much as two steps.
    let chunk = steps.div_ceil(((steps + CHUNK / 2) / CHUNK).max(1));
    // SAFETY: the caller's promises.
    unsafe {
        let sums = job.scratch.cast::<Panel<i32>>();
        for t0 in (0..job.n).step_by(GROUPS * 2 * TOKENS) {
            let tokens = t0..job.n.min(t0 + GROUPS * 2 * TOKENS);
            for (i, right) in pairs.iter().enumerate() {
                for step in (0..steps).step_by(chunk) {
                    let count = chunk.min(steps - step);
                    for (g, t) in tokens.clone().step_by(2 * TOKENS).enumerate() {
                        let x0 = job.token(t).add(64 * step);
                        // Of the last tokens there may be one tile: it is multiplied twice.
                        let x1 = if t + TOKENS < job.n { x0.add(TOKENS * job.act_stride) } else { x0 };
                        let left = Two { at: [x0, x1], line: job.act_stride, next: 64 };
                        let right = Two { at: right.at.map(|w| w.add(step * right.next)), ..*right };
                        tiles.dot_i8(&left, &right, count, step > 0, sums.add(g * pairs.len() + i));
                    }
                }
            }
            store(d, job, rows.clone(), tokens, k, pairs.len());
        }
    }
}

/// Writes the results of these rows, in so many pairs of tiles, and tokens.
#[inline(always)]
unsafe fn store(d: f32, job: &Job, rows: Range<usize>, tokens: Range<usize>, k: usize, pairs: usize) {
    for (i, t) in tokens.enumerate() {
        // SAFETY: the token is below n; all panels of these tokens were written; rows are below r1.
        unsafe {
            let tail = &*job.token(t).add(k).cast::<I8Tail>();
            let scale = d * tail.scale;
            let panels = job.scratch.cast::<Panel<i32>>().add(i / (2 * TOKENS) * pairs);
            let (half, line) = (i / TOKENS % 2, i % TOKENS);
            let mut y = [0.0f32; packed::ROWS];
            for (tile, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate().take(2 * pairs) {
                let sums = &(&(*panels.add(tile / 2)).0)[half][tile % 2][line];
                for (y, sum) in y.iter_mut().zip(sums) {
                    *y = sum.wrapping_sub(tail.sum) as f32 * scale;
                }
            }
            let to = job.y.add(t * job.y_stride + rows.start);
            match rows.len() {
                packed::ROWS => to.copy_from_nonoverlapping(y.as_ptr(), packed::ROWS),
                ROWS => to.copy_from_nonoverlapping(y.as_ptr(), ROWS),
                rows => to.copy_from_nonoverlapping(y.as_ptr(), rows),
            }
        }
    }
}

/// Unpacks 16 rows from `r0` on into tiles; what lies beyond the job's rows repeats its last one.
#[inline(always)]
unsafe fn unpack<T: Unpack>(ty: TernaryType, job: &Job, r0: usize, dst: *mut u8, ahead: &mut Ahead) {
    let blocks = job.k / QK_K;
    // SAFETY: rows below r1 have k / 256 blocks, `dst` has room for as many times four tiles.
    unsafe {
        let rows: [*const u8; 16] = std::array::from_fn(|i| job.row((r0 + i).min(job.r1 - 1)));
        // The next 16 rows, while these are read.
        let next = rows[0].wrapping_add(16 * job.row_bytes);
        for b in 0..blocks {
            let dst = dst.add(b * STEPS * TILE);
            match ty {
                TernaryType::Tq2_0 => {
                    ahead.up_to::<T::S>(next.wrapping_add(16 * (b + 1) * TQ2));
                    planes_tq2::<T::S>(T::transpose(rows.map(|row| row.add(b * TQ2))), dst);
                }
                TernaryType::Tq1_0 => {
                    ahead.up_to::<T::S>(next.wrapping_add(16 * (b + 1) * TQ1));
                    if b + 1 < blocks || r0 + 16 < job.r1 {
                        planes_tq1::<T::S>(T::transpose(rows.map(|row| row.add(b * TQ1))), dst);
                    } else {
                        // Loads of 64 bytes would reach beyond the last row.
                        let mut copy = [[0u8; 64]; 16];
                        for (copy, row) in copy.iter_mut().zip(rows) {
                            row.add(b * TQ1).copy_to_nonoverlapping(copy.as_mut_ptr(), TQ1);
                        }
                        planes_tq1::<T::S>(T::transpose(copy.each_ref().map(|c| c.as_ptr())), dst);
                    }
                }
            }
        }
    }
}

/// Plane p of bytes 4 q .. 4 q + 4: line q of tile p.
#[inline(always)]
unsafe fn planes_tq2<S: Simd>(blocks: [S::B; 16], dst: *mut u8) {
    // SAFETY: the CPU has the features of `S`; `dst` has 4 tiles.
    unsafe {
        let m3 = S::splat8(3);
        for (q, v) in blocks.into_iter().enumerate() {
            let dst = dst.add(64 * q);
            S::store(dst, S::and(v, m3));
            S::store(dst.add(TILE), S::and(S::srl16::<2>(v), m3));
            S::store(dst.add(2 * TILE), S::and(S::srl16::<4>(v), m3));
            S::store(dst.add(3 * TILE), S::and(S::srl16::<6>(v), m3));
        }
    }
}

/// Trit n of bytes 4 j .. 4 j + 4: line 13 n + j of 64.
#[inline(always)]
unsafe fn planes_tq1<S: Simd>(blocks: [S::B; 16], dst: *mut u8) {
    // SAFETY: the CPU has the features of `S`; `dst` has 4 tiles of 16 lines.
    unsafe {
        for (j, v) in blocks.into_iter().take(13).enumerate() {
            let mut q = S::tq1_start(v);
            for n in 0..4 {
                S::store(dst.add(64 * (13 * n + j)), S::tq1_digit(&mut q));
            }
            if j < 12 {
                S::store(dst.add(64 * (52 + j)), S::tq1_digit(&mut q));
            }
        }
    }
}

/// A transposition of 16 x 16 u32 in 64 shuffles.
///
/// # Safety
/// The processor has AVX-512F; 64 bytes can be read at each pointer.
#[inline(always)]
pub(super) unsafe fn transpose(rows: [*const u8; 16]) -> [__m512i; 16] {
    // SAFETY: the caller's promises; a line is 64 aligned bytes.
    unsafe {
        let zero = _mm512_setzero_si512();
        let mut row = [zero; 16];
        // Not by `map`: a closure would be compiled without AVX-512.
        for (row, p) in row.iter_mut().zip(rows) {
            *row = _mm512_loadu_si512(p.cast());
        }
        // Of four rows: lane 4 i + j of v[4 g + c] is dword 4 i + c of row 4 g + j.
        let mut v = [zero; 16];
        for g in (0..16).step_by(4) {
            let lo01 = _mm512_unpacklo_epi32(row[g], row[g + 1]);
            let hi01 = _mm512_unpackhi_epi32(row[g], row[g + 1]);
            let lo23 = _mm512_unpacklo_epi32(row[g + 2], row[g + 3]);
            let hi23 = _mm512_unpackhi_epi32(row[g + 2], row[g + 3]);
            v[g] = _mm512_unpacklo_epi64(lo01, lo23);
            v[g + 1] = _mm512_unpackhi_epi64(lo01, lo23);
            v[g + 2] = _mm512_unpacklo_epi64(hi01, hi23);
            v[g + 3] = _mm512_unpackhi_epi64(hi01, hi23);
        }
        // 128-bit lane i of v[4 g + c] goes to lane g of line 4 i + c.
        let mut out = [zero; 16];
        for c in 0..4 {
            let even01 = _mm512_shuffle_i32x4::<0b10_00_10_00>(v[c], v[4 + c]);
            let odd01 = _mm512_shuffle_i32x4::<0b11_01_11_01>(v[c], v[4 + c]);
            let even23 = _mm512_shuffle_i32x4::<0b10_00_10_00>(v[8 + c], v[12 + c]);
            let odd23 = _mm512_shuffle_i32x4::<0b11_01_11_01>(v[8 + c], v[12 + c]);
            out[c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even01, even23);
            out[4 + c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd01, odd23);
            out[8 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even01, even23);
            out[12 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd01, odd23);
        }
        out
    }
}
