//! Blocks of 32: the exact integer of a block, then one multiplication and addition.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::act::{Q8Block, Q8Pair, Q8Scales};
use super::amx::{TOKENS, Unpack};
use super::blocks_of_32::{Block32, SCALES_AT_ONCE};
use super::fetch::Ahead;
use super::one_token::{self, OneToken, Terms};
use super::side_by_side::{self, CHUNK, ROWS, SideBySide, Slab, interleave};
use super::tiled::{self, Group, Results, Tiled};
use super::vector::{self, Simd};
use super::{Job, QK};
use crate::amx::{Panel, Tiles, Two};
use crate::simd::SimdLevel;

/// Blocks `b` and `b + 1` of a row. Where the second does not exist it is anything: its scale is 0, or nobody adds its products.
#[inline(always)]
unsafe fn weights<S: Simd, W: Block32>(row: *const u8, b: usize, blocks: usize) -> S::B {
    let (lo, hi) = (W::at(row, b), W::at(row, (b + 1).min(blocks - 1)));
    // SAFETY: the caller has b < blocks.
    unsafe { W::weights::<S>(lo, hi) }
}

/// Of two blocks of 16 rows: where the scales and the minima of the first are, 64 bytes before those of the second, and all bytes.
const SCALES: usize = CHUNK;
const MINS: usize = SCALES + 2 * 4 * ROWS;
const fn pair_size(mins: bool) -> usize {
    MINS + if mins { 2 * 4 * ROWS } else { 0 }
}

fn slab_size<W: Block32>(k: usize) -> usize {
    (k / QK).div_ceil(2) * pair_size(W::MINS)
}

pub(super) fn scratch_size<W: Block32>(level: SimdLevel, k: usize) -> usize {
    let tiles = if level == SimdLevel::Amx { tiled::scratch_size::<Blocks<W>>(k) } else { 0 };
    one_token::scratch_size::<Blocks<W>>(k).max(side_by_side::scratch_size::<Blocks<W>>(k)).max(tiles)
}

pub(super) unsafe fn mul_mat<W: Block32>(job: &Job) {
    // SAFETY: the caller's promises.
    unsafe {
        if job.n == 1 {
            vector::run(job.level, &OneToken::<Blocks<W>>(PhantomData), job);
        } else if tiled::takes(job.level, job.n) {
            tiled::mul_mat::<Blocks<W>>(job);
        } else {
            vector::run(job.level, &SideBySide::<Blocks<W>>(PhantomData), job);
        }
    }
}

/// Blocks of 32 as kernels.
struct Blocks<W>(PhantomData<W>);

impl<W: Block32> Terms for Blocks<W> {
    const BLOCK: usize = QK;
    const TWO: bool = W::MINS;
    const GROUP: usize = 2 * SCALES_AT_ONCE;

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
            let scales = Q8Scales::behind(token.cast_mut(), blocks);
            let near = W::scales(row, b, count.min(SCALES_AT_ONCE));
            let mut far = (_mm256_setzero_ps(), _mm256_setzero_ps());
            if count > SCALES_AT_ONCE {
                far = W::scales(row, b + SCALES_AT_ONCE, count - SCALES_AT_ONCE);
            }
            ahead.of::<S>(W::at(row, b));
            let mut sums = [S::zero(); SCALES_AT_ONCE];
            for (p, sum) in sums[..count.div_ceil(2)].iter_mut().enumerate() {
                let w = S::dot4_weights(weights::<S, W>(row, b + 2 * p, b + count));
                let x = &*token.cast::<Q8Pair>().add(b / 2 + p);
                *sum = S::dot4(w, S::load(x.q.as_ptr().cast()), S::load(x.nsum.as_ptr().cast()));
            }
            let dx = S::load_f(scales.d.add(b));
            let d = S::mul_f(S::join_f(near.0, far.0), dx);
            S::store_f(to[0], S::mul_f(S::to_f(S::sums_of_halves(sums)), d));
            if W::MINS {
                let m = S::mul_f(S::join_f(near.1, far.1), dx);
                S::store_f(to[1], S::mul_f(S::load_f(scales.sum.add(b)), m));
            }
        }
    }
}

/// Unpacks row `r` of a slab, with its weights in the form for [`Simd::dot4`], or as they are.
#[inline(always)]
unsafe fn unpack<S: Simd, W: Block32, const DOT4: bool>(
    k: usize,
    row: *const u8,
    r: usize,
    slab: *mut u8,
    ahead: &mut Ahead,
) {
    let blocks = k / QK;
    // SAFETY: the row has `blocks` blocks, the slab room for pairs of them.
    unsafe {
        for g in (0..blocks).step_by(SCALES_AT_ONCE) {
            let here = SCALES_AT_ONCE.min(blocks - g);
            ahead.of::<S>(W::at(row, g));
            let (d, m) = W::scales(row, g, here);
            let (mut ds, mut ms) = ([0.0f32; SCALES_AT_ONCE], [0.0f32; SCALES_AT_ONCE]);
            _mm256_storeu_ps(ds.as_mut_ptr(), d);
            _mm256_storeu_ps(ms.as_mut_ptr(), m);
            for b in (0..here).step_by(2) {
                let pair = slab.add((g + b) / 2 * pair_size(W::MINS));
                let w = weights::<S, W>(row, g + b, blocks);
                S::store(pair.add(64 * r), if DOT4 { S::dot4_weights(w) } else { w });
                for i in 0..2 {
                    pair.add(SCALES).cast::<f32>().add(i * ROWS + r).write(ds[b + i]);
                    if W::MINS {
                        pair.add(MINS).cast::<f32>().add(i * ROWS + r).write(ms[b + i]);
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn interleave_pairs<S: Simd, W: Block32>(k: usize, slab: *mut u8) {
    for p in 0..(k / QK).div_ceil(2) {
        // SAFETY: the slab has as many pairs.
        unsafe { interleave::<S>(slab.add(p * pair_size(W::MINS))) }
    }
}

impl<W: Block32> Slab for Blocks<W> {
    fn size(k: usize) -> usize {
        slab_size::<W>(k)
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(k: usize, row: *const u8, r: usize, slab: *mut u8, ahead: &mut Ahead) {
        // SAFETY: the caller's promises.
        unsafe { unpack::<S, W, true>(k, row, r, slab, ahead) }
    }

    #[inline(always)]
    unsafe fn interleave<S: Simd>(k: usize, slab: *mut u8) {
        // SAFETY: the caller's promises.
        unsafe { interleave_pairs::<S, W>(k, slab) }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const T: usize>(
        k: usize,
        slabs: [*const u8; R],
        x: [*const u8; T],
    ) -> [[S::F; T]; R] {
        // SAFETY: slabs and tokens have a block for each 32 elements.
        unsafe {
            let mut y = [[S::zero_f(); T]; R];
            for b in 0..k / QK {
                let (pair, second) = (b / 2 * pair_size(W::MINS), b % 2);
                let mut sums = [[S::zero(); T]; R];
                for t in 0..T {
                    let start = S::dot4_start(S::splat32((&raw const (*block(x[t], b)).nsum).cast()));
                    for sums in &mut sums {
                        sums[t] = start;
                    }
                }
                for g in 0..QK / 4 {
                    let mut w = [S::zero(); R];
                    for r in 0..R {
                        w[r] = S::load(slabs[r].add(pair + second * CHUNK / 2 + 4 * ROWS * g));
                    }
                    for t in 0..T {
                        let q = S::splat32((*block(x[t], b)).q.as_ptr().add(4 * g).cast());
                        for r in 0..R {
                            sums[r][t] = S::dot4_add(sums[r][t], w[r], q);
                        }
                    }
                }
                for r in 0..R {
                    let scales = slabs[r].add(pair + SCALES + second * 4 * ROWS).cast::<f32>();
                    let d = S::load_f(scales);
                    for t in 0..T {
                        let x = &*block(x[t], b);
                        let dx = S::splat_f(x.d);
                        y[r][t] = S::add_f(y[r][t], S::mul_f(S::to_f(sums[r][t]), S::mul_f(d, dx)));
                        if W::MINS {
                            let m = S::mul_f(S::load_f(scales.add((MINS - SCALES) / 4)), dx);
                            y[r][t] = S::add_f(y[r][t], S::mul_f(S::splat_f(x.sum), m));
                        }
                    }
                }
            }
            y
        }
    }
}

impl<W: Block32> Tiled for Blocks<W> {
    fn size(k: usize) -> usize {
        slab_size::<W>(k)
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(k: usize, row: *const u8, r: usize, slab: *mut u8, ahead: &mut Ahead) {
        // SAFETY: the caller's promises.
        unsafe { unpack::<S, W, false>(k, row, r, slab, ahead) }
    }

    #[inline(always)]
    unsafe fn interleave<S: Simd>(k: usize, slab: *mut u8) {
        // SAFETY: the caller's promises.
        unsafe { interleave_pairs::<S, W>(k, slab) }
    }

    #[inline(always)]
    unsafe fn configure<T: Tiles>() -> T {
        // SAFETY: the caller's promise.
        unsafe { T::configure_halves() }
    }

    fn room(k: usize) -> usize {
        (k / QK) * size_of::<Factors>()
    }

    #[inline(always)]
    unsafe fn multiply<T: Unpack>(
        tiles: &T,
        k: usize,
        slabs: *const u8,
        x: &Group,
        room: *mut u8,
        sums: &mut Panel<i32>,
        y: &mut [Results],
    ) {
        let blocks = k / QK;
        for (half, &token) in x.at[..x.count.div_ceil(TOKENS)].iter().enumerate() {
            // SAFETY: the caller's promises.
            unsafe {
                let factors = room.cast::<Factors>();
                let count = TOKENS.min(x.count - half * TOKENS);
                for b in 0..blocks {
                    let factors = &mut *factors.add(b);
                    for t in 0..TOKENS {
                        // Of tokens that do not exist, anything but zeros might be slow.
                        (factors.d[t], factors.sum[t]) = (0.0, 0.0);
                        if t < count {
                            let x = &*block(token.add(t * x.stride), b);
                            factors.d[t] = x.d;
                            if W::MINS {
                                factors.sum[t] = x.sum;
                            }
                        }
                    }
                }
                // The tokens' values of a run stay in the L1 cache for all slabs.
                for start in (0..blocks).step_by(RUN) {
                    let end = blocks.min(start + RUN);
                    for (s, y) in y.iter_mut().enumerate() {
                        let slab = slabs.add(s * slab_size::<W>(k));
                        let y = &mut y.0.as_chunks_mut::<TOKENS>().0[half];
                        let mut results = [T::S::zero_f(); TOKENS];
                        if start > 0 {
                            for t in 0..TOKENS {
                                results[t] = T::S::load_f(y[t].as_ptr());
                            }
                        }
                        for b in (start..end).step_by(4) {
                            multiply_blocks::<T, W>(tiles, slab, token, x.stride, b, blocks, sums);
                            for i in 0..4.min(end - b) {
                                let pair = slab.add((b + i) / 2 * pair_size(W::MINS));
                                let scales = pair.add(SCALES + i % 2 * 4 * ROWS).cast();
                                add_block::<T::S, W>(scales, &*factors.add(b + i), &sums.0[i / 2][i % 2], &mut results);
                            }
                        }
                        for t in 0..TOKENS {
                            T::S::store_f(y[t].as_mut_ptr(), results[t]);
                        }
                    }
                }
            }
        }
    }
}

/// Blocks of a token that are multiplied before the next slab, a multiple of 4.
const RUN: usize = 24;

/// The scales of a block of a tile of tokens, and the sums of their values.
#[repr(C, align(64))]
struct Factors {
    d: [f32; TOKENS],
    sum: [f32; TOKENS],
}

/// The sums of blocks `b..b + 4` of a slab and a tile of tokens; those that do not exist mean nothing.
#[inline(always)]
unsafe fn multiply_blocks<T: Tiles, W: Block32>(
    tiles: &T,
    slab: *const u8,
    token: *const u8,
    stride: usize,
    b: usize,
    blocks: usize,
    sums: &mut Panel<i32>,
) {
    // SAFETY: the caller's promises; after the last block a record has room for another (`act::record_size`).
    unsafe {
        let second = if b + 2 < blocks { b + 2 } else { b };
        let x = [block(token, b).cast(), block(token, second).cast()];
        let w = [b, second].map(|b| slab.wrapping_add(b / 2 * pair_size(W::MINS)));
        let left = Two { at: x, line: stride, next: size_of::<Q8Block>() };
        tiles.dot_i8_halves(&left, &Two { at: w, line: 64, next: CHUNK / 2 }, sums);
    }
}

/// Adds a block of a slab to the results of a tile of tokens.
#[inline(always)]
unsafe fn add_block<S: Simd, W: Block32>(
    scales: *const f32,
    x: &Factors,
    sums: &[[i32; ROWS]; TOKENS],
    y: &mut [S::F; TOKENS],
) {
    // SAFETY: the caller's promises.
    unsafe {
        let d = S::load_f(scales);
        let m = if W::MINS { S::load_f(scales.add((MINS - SCALES) / 4)) } else { d };
        for t in 0..TOKENS {
            let dx = S::splat_f(x.d[t]);
            let product = S::to_f(S::load(sums[t].as_ptr().cast()));
            y[t] = S::add_f(y[t], S::mul_f(product, S::mul_f(d, dx)));
            if W::MINS {
                y[t] = S::add_f(y[t], S::mul_f(S::splat_f(x.sum[t]), S::mul_f(m, dx)));
            }
        }
    }
}

/// Block `b` of a token.
fn block(x: *const u8, b: usize) -> *const Q8Block {
    x.cast::<Q8Block>().wrapping_add(b)
}
