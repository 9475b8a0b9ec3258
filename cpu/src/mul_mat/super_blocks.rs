//! Q2_K to Q6_K: the exact integer of a super-block, then one multiplication and addition.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::act::Q8K;
use super::fetch::Ahead;
use super::k_quants::{KBlock, Scales};
use super::one_token::{self, OneToken, Terms};
use super::side_by_side::{self, CHUNK, ROWS, SideBySide, Slab, interleave};
use super::vector::{self, Simd};
use super::{Job, QK_K};

/// Where a super-block of 16 rows has its scales (i32), d, minima (pairs of i16) and dmin (negated), for each 16 of them; and its bytes.
struct Layout<W>(PhantomData<W>);

impl<W: KBlock> Layout<W> {
    const SUB_BLOCKS: usize = QK_K / W::SUB_BLOCK;
    const SCALES: usize = ROWS * QK_K;
    const D: usize = Self::SCALES + 4 * ROWS * Self::SUB_BLOCKS;
    const DMIN: usize = Self::D + 4 * ROWS;
    const MINS: usize = Self::DMIN + if W::MINS { 4 * ROWS } else { 0 };
    const SIZE: usize = Self::MINS + if W::MINS { 2 * ROWS * Self::SUB_BLOCKS } else { 0 };
}

pub(super) fn scratch_size<W: KBlock>(k: usize) -> usize {
    one_token::scratch_size::<SuperBlocks<W>>(k).max(side_by_side::scratch_size::<SuperBlocks<W>>(k))
}

pub(super) unsafe fn mul_mat<W: KBlock>(job: &Job) {
    // SAFETY: the caller's promises.
    unsafe {
        if job.n == 1 {
            vector::run(job.level, &OneToken::<SuperBlocks<W>>(PhantomData), job);
        } else {
            vector::run(job.level, &SideBySide::<SuperBlocks<W>>(PhantomData), job);
        }
    }
}

/// Super-blocks as kernels.
struct SuperBlocks<W>(PhantomData<W>);

impl<W: KBlock> Terms for SuperBlocks<W> {
    const BLOCK: usize = QK_K;
    const TWO: bool = W::MINS;
    const GROUP: usize = 4;

    #[inline(always)]
    unsafe fn group<S: Simd>(
        row: *const u8,
        token: *const u8,
        blocks: usize,
        b: usize,
        count: usize,
        to: [*mut f32; 2],
        ahead: &mut Ahead,
    ) {
        // SAFETY: the caller's promises.
        unsafe {
            let (row, x) = (row.add(b * W::SIZE), token.cast::<Q8K>().add(b));
            let dx = _mm_loadu_ps(Q8K::scales_behind(token.cast_mut(), blocks).add(b));
            ahead.of::<S>(row);
            let w = [
                product::<S, W>(row, x, count > 0),
                product::<S, W>(row.wrapping_add(W::SIZE), x.wrapping_add(1), count > 1),
                product::<S, W>(row.wrapping_add(2 * W::SIZE), x.wrapping_add(2), count > 2),
                product::<S, W>(row.wrapping_add(3 * W::SIZE), x.wrapping_add(3), count > 3),
            ];
            let sums = S::sums_of_lanes([w[0].sums, w[1].sums, w[2].sums, w[3].sums]);
            let mut sums = _mm_cvtepi32_ps(_mm_loadu_si128(sums.as_ptr().cast()));
            if W::EIGHTHS {
                // Exact, unlike an eighth of a small d.
                sums = _mm_mul_ps(sums, _mm_set1_ps(0.125));
            }
            let d = _mm_mul_ps(_mm_setr_ps(w[0].d, w[1].d, w[2].d, w[3].d), dx);
            _mm_storeu_ps(to[0], _mm_mul_ps(sums, d));
            if W::MINS {
                let mins = _mm_hadd_epi32(_mm_hadd_epi32(w[0].mins, w[1].mins), _mm_hadd_epi32(w[2].mins, w[3].mins));
                let d = _mm_mul_ps(_mm_setr_ps(w[0].ndmin, w[1].ndmin, w[2].ndmin, w[3].ndmin), dx);
                _mm_storeu_ps(to[1], _mm_mul_ps(_mm_cvtepi32_ps(mins), d));
            }
        }
    }
}

/// A super-block times a token's: integers to be added up, and their scales.
struct Product<B> {
    sums: B,
    mins: __m128i,
    d: f32,
    /// dmin, negated.
    ndmin: f32,
}

/// Zeros if the block does not exist.
#[inline(always)]
unsafe fn product<S: Simd, W: KBlock>(block: *const u8, x: *const Q8K, exists: bool) -> Product<S::B> {
    // SAFETY: the caller's promises.
    unsafe {
        if !exists {
            return Product { sums: S::zero(), mins: _mm_setzero_si128(), d: 0.0, ndmin: 0.0 };
        }
        let (w, x) = (W::unpack::<S>(block), &*x);
        let mut sums = S::zero();
        for c in 0..4 {
            let q = S::load(x.q.as_ptr().cast::<u8>().add(64 * c));
            // Sums of two products fit an i16: 2 * 63 * 127.
            let mut p = S::maddubs(w.codes[c], q);
            if W::ZERO {
                p = S::sub16(p, S::load(x.sum2x32.as_ptr().cast::<u8>().add(64 * c)));
            }
            sums = S::madd_acc(sums, p, scales_of_64::<S, W>(&w.scales, c));
        }
        let mins = if W::MINS { products_of_mins::<W>(&w.scales, x) } else { _mm_setzero_si128() };
        Product { sums, mins, d: w.scales.d, ndmin: -w.scales.dmin }
    }
}

/// The scales of the 64 elements of chunk `c` (0..4), one for each pair.
#[inline(always)]
unsafe fn scales_of_64<S: Simd, W: KBlock>(scales: &Scales, c: usize) -> S::B {
    let each = scales.each.as_ptr();
    // SAFETY: the caller's promises.
    unsafe { if W::SUB_BLOCK == 32 { S::splat_2x16(each.add(2 * c)) } else { S::splat_4x16(each.add(4 * c)) } }
}

/// The minima times the sums of their activations, to be added up.
///
/// # Safety
/// The CPU has AVX2, as every level here.
#[inline(always)]
unsafe fn products_of_mins<W: KBlock>(scales: &Scales, x: &Q8K) -> __m128i {
    // SAFETY: the caller's promise; loads are of 8 or 16 i16 that are there.
    unsafe {
        let mins = scales.mins.as_ptr();
        if W::SUB_BLOCK == 32 {
            return _mm_madd_epi16(_mm_loadu_si128(mins.cast()), _mm_loadu_si128(x.sums32.as_ptr().cast()));
        }
        let p = _mm256_madd_epi16(_mm256_loadu_si256(mins.cast()), _mm256_loadu_si256(x.sums16.as_ptr().cast()));
        _mm_add_epi32(_mm256_castsi256_si128(p), _mm256_extracti128_si256::<1>(p))
    }
}

impl<W: KBlock> Slab for SuperBlocks<W> {
    fn size(k: usize) -> usize {
        k / QK_K * Layout::<W>::SIZE
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(k: usize, row: *const u8, r: usize, slab: *mut u8, ahead: &mut Ahead) {
        for b in 0..k / QK_K {
            // SAFETY: the row has k / 256 blocks, the slab room for as many.
            unsafe {
                let block = row.add(b * W::SIZE);
                ahead.of::<S>(block);
                let (w, to) = (W::unpack::<S>(block), slab.add(b * Layout::<W>::SIZE));
                for c in 0..4 {
                    S::store(to.add(CHUNK * c + 64 * r), w.codes[c]);
                }
                put_scales::<W>(&w.scales, r, to);
            }
        }
    }

    #[inline(always)]
    unsafe fn interleave<S: Simd>(k: usize, slab: *mut u8) {
        for b in 0..k / QK_K {
            for c in 0..4 {
                // SAFETY: the slab has as many super-blocks, each four chunks.
                unsafe { interleave::<S>(slab.add(b * Layout::<W>::SIZE + CHUNK * c)) }
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const T: usize>(
        k: usize,
        slabs: [*const u8; R],
        x: [*const u8; T],
    ) -> [[S::F; T]; R] {
        // SAFETY: slabs and tokens have a super-block for each 256 elements.
        unsafe {
            let mut y = [[S::zero_f(); T]; R];
            for b in 0..k / QK_K {
                let slabs = slabs.map(|slab| slab.add(b * Layout::<W>::SIZE));
                let x = x.map(|x| x.cast::<Q8K>().add(b));
                let sums = scaled_sums::<S, W, R, T>(slabs, x);
                for r in 0..R {
                    let d = S::load_f(slabs[r].add(Layout::<W>::D).cast());
                    for t in 0..T {
                        let mut sum = S::to_f(sums[r][t]);
                        if W::EIGHTHS {
                            sum = S::mul_f(sum, S::splat_f(0.125));
                        }
                        y[r][t] = S::add_f(y[r][t], S::mul_f(sum, S::mul_f(d, S::splat_f((*x[t]).d))));
                    }
                }
                if W::MINS {
                    for r in 0..R {
                        let d = S::load_f(slabs[r].add(Layout::<W>::DMIN).cast());
                        let mins = sums_of_mins::<S, W, T>(slabs[r], x);
                        for t in 0..T {
                            let d = S::mul_f(d, S::splat_f((*x[t]).d));
                            y[r][t] = S::add_f(y[r][t], S::mul_f(S::to_f(mins[t]), d));
                        }
                    }
                }
            }
            y
        }
    }
}

/// The scales of row `r` of a super-block of 16 rows at `to`.
unsafe fn put_scales<W: KBlock>(scales: &Scales, r: usize, to: *mut u8) {
    // SAFETY: the caller has room for the super-block.
    unsafe {
        for j in 0..Layout::<W>::SUB_BLOCKS {
            to.add(Layout::<W>::SCALES).cast::<i32>().add(ROWS * j + r).write(i32::from(scales.each[j]));
        }
        to.add(Layout::<W>::D).cast::<f32>().add(r).write(scales.d);
        if W::MINS {
            to.add(Layout::<W>::DMIN).cast::<f32>().add(r).write(-scales.dmin);
            for (j, &pair) in scales.mins.as_chunks::<2>().0[..Layout::<W>::SUB_BLOCKS / 2].iter().enumerate() {
                to.add(Layout::<W>::MINS).cast::<[i16; 2]>().add(ROWS * j + r).write(pair);
            }
        }
    }
}

/// The integer sums of a super-block, scaled.
///
/// # Safety
/// The CPU has the features of `S`; `slabs` are super-blocks of 16 rows.
#[inline(always)]
unsafe fn scaled_sums<S: Simd, W: KBlock, const R: usize, const T: usize>(
    slabs: [*const u8; R],
    x: [*const Q8K; T],
) -> [[S::B; T]; R] {
    // SAFETY: the caller's promises.
    unsafe {
        let mut scaled = [[S::zero(); T]; R];
        for j in 0..Layout::<W>::SUB_BLOCKS {
            let mut sums = [[S::zero(); T]; R];
            if W::ZERO {
                for t in 0..T {
                    let start = S::splat32((*x[t]).nsums16.as_ptr().add(j).cast());
                    for sums in &mut sums {
                        sums[t] = start;
                    }
                }
            }
            for g in 0..W::SUB_BLOCK / 4 {
                let at = j * W::SUB_BLOCK + 4 * g;
                let mut codes = [S::zero(); R];
                for r in 0..R {
                    codes[r] = S::load(slabs[r].add(ROWS * at));
                }
                for t in 0..T {
                    let q = S::splat32((*x[t]).q.as_ptr().add(at).cast());
                    for r in 0..R {
                        sums[r][t] = S::dot4_codes(sums[r][t], codes[r], q);
                    }
                }
            }
            for r in 0..R {
                let scale = S::load(slabs[r].add(Layout::<W>::SCALES + 4 * ROWS * j));
                for t in 0..T {
                    scaled[r][t] = S::add32(scaled[r][t], S::mul32(sums[r][t], scale));
                }
            }
        }
        scaled
    }
}

/// The minima of a super-block of 16 rows times the sums of their activations.
///
/// # Safety
/// The CPU has the features of `S`; `slab` is a super-block of 16 rows.
#[inline(always)]
unsafe fn sums_of_mins<S: Simd, W: KBlock, const T: usize>(slab: *const u8, x: [*const Q8K; T]) -> [S::B; T] {
    // SAFETY: the caller's promises.
    unsafe {
        let mut sums = [S::zero(); T];
        for j in (0..Layout::<W>::SUB_BLOCKS).step_by(2) {
            let mins = S::load(slab.add(Layout::<W>::MINS + 2 * ROWS * j));
            for t in 0..T {
                let x = if W::SUB_BLOCK == 32 { (*x[t]).sums32.as_ptr() } else { (*x[t]).sums16.as_ptr() };
                sums[t] = S::madd_acc(sums[t], mins, S::splat32(x.add(j).cast()));
            }
        }
        sums
    }
}
