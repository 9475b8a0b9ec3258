//! Blocks of 32: the exact integer of a block, then one multiplication and addition.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::act::{Q8Block, Q8Pair, Q8Scales};
use super::blocks_of_32::{Block32, SCALES_AT_ONCE};
use super::fetch::Ahead;
use super::one_token::{self, OneToken, Terms};
use super::side_by_side::{self, CHUNK, ROWS, SideBySide, Slab, interleave};
use super::vector::{self, Simd};
use super::{Job, QK};

/// Blocks `b` and `b + 1` of a row, in the form for [`Simd::dot4`]. Where the second does not exist it is anything: its
/// activations and its scale are 0.
#[inline(always)]
unsafe fn weights<S: Simd, W: Block32>(row: *const u8, b: usize, blocks: usize) -> S::B {
    let (lo, hi) = (W::at(row, b), W::at(row, (b + 1).min(blocks - 1)));
    // SAFETY: the caller has b < blocks.
    unsafe { S::dot4_weights(W::weights::<S>(lo, hi)) }
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

pub(super) fn scratch_size<W: Block32>(k: usize) -> usize {
    one_token::scratch_size::<Blocks<W>>(k).max(side_by_side::scratch_size::<Blocks<W>>(k))
}

pub(super) unsafe fn mul_mat<W: Block32>(job: &Job) {
    // SAFETY: the caller's promises.
    unsafe {
        if job.n == 1 {
            vector::run(job.level, &OneToken::<Blocks<W>>(PhantomData), job);
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
                let w = weights::<S, W>(row, b + 2 * p, b + count);
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

impl<W: Block32> Slab for Blocks<W> {
    fn size(k: usize) -> usize {
        slab_size::<W>(k)
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(k: usize, row: *const u8, r: usize, slab: *mut u8, ahead: &mut Ahead) {
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
                    S::store(pair.add(64 * r), weights::<S, W>(row, g + b, blocks));
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
    unsafe fn interleave<S: Simd>(k: usize, slab: *mut u8) {
        for p in 0..(k / QK).div_ceil(2) {
            // SAFETY: the slab has as many pairs.
            unsafe { interleave::<S>(slab.add(p * pair_size(W::MINS))) }
        }
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

/// Block `b` of a token.
fn block(x: *const u8, b: usize) -> *const Q8Block {
    x.cast::<Q8Block>().wrapping_add(b)
}
