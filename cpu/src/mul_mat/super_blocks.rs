//! Q2_K to Q6_K: the exact integer of a super-block, then one multiplication and addition.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::act::Q8K;
use super::amx::{TOKENS, Unpack};
use super::fetch::Ahead;
use super::k_quants::{KBlock, Scales};
use super::one_token::{self, OneToken, Terms};
use super::side_by_side::{self, CHUNK, ROWS, SideBySide, Slab, interleave};
use super::tiled::{self, Group, Results, Tiled};
use super::vector::{self, Simd};
use super::{Job, QK_K};
use crate::amx::{Panel, Tiles, Two};
use crate::simd::SimdLevel;

/// Where a super-block of 16 rows has its scales (i32) and its [`Floats`], for each 16 of them; and its bytes. In tiles, weights are
/// multiplied by their scales and in two digits, `HIGH` and `LOW`.
struct Layout<W>(PhantomData<W>);

impl<W: KBlock> Layout<W> {
    const SUB_BLOCKS: usize = QK_K / W::SUB_BLOCK;
    const SCALES: usize = ROWS * QK_K;
    const FLOATS: usize = Self::SCALES + 4 * ROWS * Self::SUB_BLOCKS;
    const SIZE: usize = Self::FLOATS + Floats::<W>::SIZE;

    const HIGH: usize = 0;
    const LOW: usize = ROWS * QK_K;
    const TILED_FLOATS: usize = 2 * ROWS * QK_K;
    const TILED_SIZE: usize = Self::TILED_FLOATS + Floats::<W>::SIZE;
}

/// Where d, dmin (negated) and the minima (pairs of i16) are, after the integers; and their bytes.
struct Floats<W>(PhantomData<W>);

impl<W: KBlock> Floats<W> {
    const DMIN: usize = 4 * ROWS;
    const MINS: usize = Self::DMIN + if W::MINS { 4 * ROWS } else { 0 };
    const SIZE: usize = Self::MINS + if W::MINS { 2 * ROWS * Layout::<W>::SUB_BLOCKS } else { 0 };
}

/// The higher digit of a weight in tiles is worth [`DIGIT`] of the lower.
const DIGIT_BITS: u32 = 7;
const DIGIT: i16 = 1 << DIGIT_BITS;

pub(super) fn scratch_size<W: KBlock>(level: SimdLevel, k: usize) -> usize {
    let tiles = if level == SimdLevel::Amx { tiled::scratch_size::<SuperBlocks<W>>(k) } else { 0 };
    one_token::scratch_size::<SuperBlocks<W>>(k).max(side_by_side::scratch_size::<SuperBlocks<W>>(k)).max(tiles)
}

pub(super) unsafe fn mul_mat<W: KBlock>(job: &Job) {
    // SAFETY: the caller's promises.
    unsafe {
        if job.n == 1 {
            vector::run(job.level, &OneToken::<SuperBlocks<W>>(PhantomData), job);
        } else if tiled::takes(job.level, job.n) {
            tiled::mul_mat::<SuperBlocks<W>>(job);
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
                for j in 0..Layout::<W>::SUB_BLOCKS {
                    let scales = to.add(Layout::<W>::SCALES).cast::<i32>();
                    scales.add(ROWS * j + r).write(i32::from(w.scales.each[j]));
                }
                put_floats::<W>(&w.scales, r, to.add(Layout::<W>::FLOATS));
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
                    add_block::<S, W, T>(slabs[r].add(Layout::<W>::FLOATS), sums[r], x, &mut y[r]);
                }
            }
            y
        }
    }
}

/// Adds a super-block to the results of a slab: its scaled integers `sums` by the scales and, where there are minima, those.
///
/// # Safety
/// The CPU has the features of `S`; there are [`Floats`] at `floats`.
#[inline(always)]
unsafe fn add_block<S: Simd, W: KBlock, const T: usize>(
    floats: *const u8,
    sums: [S::B; T],
    x: [*const Q8K; T],
    y: &mut [S::F; T],
) {
    // SAFETY: the caller's promises.
    unsafe {
        let d = S::load_f(floats.cast());
        for t in 0..T {
            let mut sum = S::to_f(sums[t]);
            if W::EIGHTHS {
                sum = S::mul_f(sum, S::splat_f(0.125));
            }
            y[t] = S::add_f(y[t], S::mul_f(sum, S::mul_f(d, S::splat_f((*x[t]).d))));
        }
        if W::MINS {
            let d = S::load_f(floats.add(Floats::<W>::DMIN).cast());
            let mins = sums_of_mins::<S, W, T>(floats.add(Floats::<W>::MINS), x);
            for t in 0..T {
                let d = S::mul_f(d, S::splat_f((*x[t]).d));
                y[t] = S::add_f(y[t], S::mul_f(S::to_f(mins[t]), d));
            }
        }
    }
}

/// The [`Floats`] of row `r` of 16.
unsafe fn put_floats<W: KBlock>(scales: &Scales, r: usize, to: *mut u8) {
    // SAFETY: the caller has room for them.
    unsafe {
        to.cast::<f32>().add(r).write(scales.d);
        if W::MINS {
            to.add(Floats::<W>::DMIN).cast::<f32>().add(r).write(-scales.dmin);
            for (j, &pair) in scales.mins.as_chunks::<2>().0[..Layout::<W>::SUB_BLOCKS / 2].iter().enumerate() {
                to.add(Floats::<W>::MINS).cast::<[i16; 2]>().add(ROWS * j + r).write(pair);
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
/// The CPU has the features of `S`; there are the minima of 16 rows at `mins`.
#[inline(always)]
unsafe fn sums_of_mins<S: Simd, W: KBlock, const T: usize>(mins: *const u8, x: [*const Q8K; T]) -> [S::B; T] {
    // SAFETY: the caller's promises.
    unsafe {
        let mut sums = [S::zero(); T];
        for j in (0..Layout::<W>::SUB_BLOCKS).step_by(2) {
            let mins = S::load(mins.add(2 * ROWS * j));
            for t in 0..T {
                let x = if W::SUB_BLOCK == 32 { (*x[t]).sums32.as_ptr() } else { (*x[t]).sums16.as_ptr() };
                sums[t] = S::madd_acc(sums[t], mins, S::splat32(x.add(j).cast()));
            }
        }
        sums
    }
}

impl<W: KBlock> Tiled for SuperBlocks<W> {
    fn size(k: usize) -> usize {
        k / QK_K * Layout::<W>::TILED_SIZE
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(k: usize, row: *const u8, r: usize, slab: *mut u8, ahead: &mut Ahead) {
        for b in 0..k / QK_K {
            // SAFETY: the row has k / 256 blocks, the slab room for as many.
            unsafe {
                let block = row.add(b * W::SIZE);
                ahead.of::<S>(block);
                let (w, to) = (W::unpack::<S>(block), slab.add(b * Layout::<W>::TILED_SIZE));
                for c in 0..4 {
                    let [high, low] = digits::<S, W>(w.codes[c], scales_of_64::<S, W>(&w.scales, c));
                    let to = to.add(CHUNK * c + 64 * r);
                    S::store(to.add(Layout::<W>::HIGH), high);
                    S::store(to.add(Layout::<W>::LOW), low);
                }
                put_floats::<W>(&w.scales, r, to.add(Layout::<W>::TILED_FLOATS));
            }
        }
    }

    #[inline(always)]
    unsafe fn interleave<S: Simd>(k: usize, slab: *mut u8) {
        for b in 0..k / QK_K {
            for c in 0..8 {
                // SAFETY: the slab has as many super-blocks, each four chunks of either digit.
                unsafe { interleave::<S>(slab.add(b * Layout::<W>::TILED_SIZE + CHUNK * c)) }
            }
        }
    }

    #[inline(always)]
    unsafe fn configure<T: Tiles>() -> T {
        // SAFETY: the caller's promise.
        unsafe { T::configure() }
    }

    fn room(_k: usize) -> usize {
        0
    }

    #[inline(always)]
    unsafe fn multiply<T: Unpack>(
        tiles: &T,
        k: usize,
        slabs: *const u8,
        x: &Group,
        _room: *mut u8,
        sums: &mut Panel<i32>,
        y: &mut [Results],
    ) {
        y.fill(Results([[0.0; ROWS]; 2 * TOKENS]));
        // All slabs, super-block by super-block, so that the tokens' values stay in the L1 cache.
        for b in 0..k / QK_K {
            for (s, y) in y.iter_mut().enumerate() {
                // SAFETY: the caller's promises.
                unsafe {
                    let block = slabs.add(s * <Self as Tiled>::size(k) + b * Layout::<W>::TILED_SIZE);
                    multiply_block::<T, W>(tiles, block, x, b, sums);
                    add_sums::<T::S, W>(block.add(Layout::<W>::TILED_FLOATS), x, b, sums, y);
                }
            }
        }
    }
}

/// The sums of both digits of a super-block of 16 rows times super-block `b` of the tokens.
#[inline(always)]
unsafe fn multiply_block<T: Tiles, W: KBlock>(tiles: &T, block: *const u8, x: &Group, b: usize, sums: &mut Panel<i32>) {
    // SAFETY: the caller's promises.
    unsafe {
        let left = Two { at: x.at.map(|x| x.cast::<Q8K>().add(b).cast()), line: x.stride, next: 64 };
        let at = [block.add(Layout::<W>::HIGH), block.add(Layout::<W>::LOW)];
        tiles.dot_i8(&left, &Two { at, line: 64, next: CHUNK }, QK_K / 64, false, sums);
    }
}

/// Adds what [`multiply_block`] gave to the results.
#[inline(always)]
unsafe fn add_sums<S: Simd, W: KBlock>(floats: *const u8, x: &Group, b: usize, sums: &Panel<i32>, y: &mut Results) {
    const T: usize = 4;
    // SAFETY: the caller's promises; four tokens end where the tile does.
    unsafe {
        for t in (0..x.count).step_by(T) {
            let mut scaled = [S::zero(); T];
            let mut tokens = [std::ptr::null(); T];
            let mut results = [S::zero_f(); T];
            for j in 0..T {
                let [high, low] = &sums.0[(t + j) / TOKENS];
                let high = S::load(high[(t + j) % TOKENS].as_ptr().cast());
                let low = S::load(low[(t + j) % TOKENS].as_ptr().cast());
                scaled[j] = S::add32(S::sll32::<DIGIT_BITS>(high), low);
                tokens[j] = x.token(t + j).cast::<Q8K>().add(b);
                results[j] = S::load_f(y.0[t + j].as_ptr());
            }
            add_block::<S, W, T>(floats, scaled, tokens, &mut results);
            for (y, &result) in y.0[t..].iter_mut().zip(&results) {
                S::store_f(y.as_mut_ptr(), result);
            }
        }
    }
}

/// 64 weights times their scales, i16 for each pair, in two digits of int8: the higher is worth [`DIGIT`], the lower is in -64..64.
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
unsafe fn digits<S: Simd, W: KBlock>(codes: S::B, scales: S::B) -> [S::B; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let even = splat16::<S>(0xff);
        // Products are within 13 bits and a sign. With this added, they are not negative, and a shift rounds to the nearest.
        const OFFSET: i16 = 128 * DIGIT + DIGIT / 2;
        let mut less = splat16::<S>(-OFFSET);
        if W::ZERO {
            less = S::sub16(S::maddubs(S::and(S::splat8(32), even), scales), splat16::<S>(OFFSET));
        }
        let first = S::sub16(S::maddubs(S::and(codes, even), scales), less);
        let second = S::sub16(S::maddubs(S::srl16::<8>(codes), scales), less);
        let high = S::or(S::srl16::<DIGIT_BITS>(first), S::sll16::<8>(S::srl16::<DIGIT_BITS>(second)));
        let low = S::or(
            S::and(first, splat16::<S>(DIGIT - 1)),
            S::and(S::sll16::<8>(second), splat16::<S>((DIGIT - 1) << 8)),
        );
        [S::sub8(high, S::splat8(128)), S::sub8(low, S::splat8(64))]
    }
}

#[inline(always)]
unsafe fn splat16<S: Simd>(v: i16) -> S::B {
    // SAFETY: the caller promises the features of `S`; there are four bytes.
    unsafe { S::splat32([v, v].as_ptr().cast()) }
}
