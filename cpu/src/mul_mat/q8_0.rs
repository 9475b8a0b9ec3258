//! Q8_0 and Q4_0: two blocks of 32 at a time, a lane for each four products.

use std::marker::PhantomData;

use super::Job;
use super::QK;
use super::act::Q8Pair;
use super::fetch::Ahead;
use super::panel::{MAX_TILE, Panels, Rows};
use super::vector::{self, Kernel, Simd};

/// A type of blocks of 32 that starts with its scale.
pub(super) trait Block32 {
    const SIZE: usize;
    /// The int8 weights of two blocks, in the form for [`Simd::dot4`].
    ///
    /// # Safety
    /// The CPU has the features of `S`; both are blocks.
    unsafe fn load<S: Simd>(lo: *const u8, hi: *const u8) -> S::B;
}

pub(super) struct Q8_0;
pub(super) struct Q4_0;

impl Block32 for Q8_0 {
    const SIZE: usize = 34;
    #[inline(always)]
    unsafe fn load<S: Simd>(lo: *const u8, hi: *const u8) -> S::B {
        // SAFETY: the caller's promise.
        unsafe { S::dot4_weights(S::load_two(lo.add(2), hi.add(2))) }
    }
}

impl Block32 for Q4_0 {
    const SIZE: usize = 18;
    #[inline(always)]
    unsafe fn load<S: Simd>(lo: *const u8, hi: *const u8) -> S::B {
        // SAFETY: the caller's promise.
        unsafe {
            let codes = S::load_nibbles_16x2(lo.add(2), hi.add(2));
            S::dot4_weights(S::sub8(codes, S::splat8(8)))
        }
    }
}

/// An unpacked pair: 64 weights, then the 16 scales of the lanes.
const UNPACKED: usize = 128;

pub(super) fn unpacked_size(k: usize) -> usize {
    k.div_ceil(64) * UNPACKED
}

pub(super) unsafe fn mul_mat<W: Block32>(job: &Job) {
    // SAFETY: the caller's promises.
    unsafe {
        if job.n == 1 {
            vector::run(job.level, &Token::<W>(PhantomData), job);
        } else {
            vector::run(job.level, &Panels(&Pairs::<W>(PhantomData)), job);
        }
    }
}

/// The weights and scales of a pair of blocks.
#[inline(always)]
unsafe fn pair<S: Simd, W: Block32>(p: *const u8) -> (S::B, S::F) {
    // SAFETY: the caller has two blocks at p.
    unsafe {
        let hi = p.add(W::SIZE);
        let (d0, d1) = (p.cast::<u16>().read_unaligned(), hi.cast::<u16>().read_unaligned());
        (W::load::<S>(p, hi), S::splat_2xf16(d0, d1))
    }
}

/// The last pair of an odd number of blocks: its second block has the scale 0 (and activations 0).
#[inline(always)]
unsafe fn last<S: Simd, W: Block32>(p: *const u8) -> (S::B, S::F) {
    // SAFETY: the caller has a block at p.
    unsafe { (W::load::<S>(p, p), S::splat_2xf16(p.cast::<u16>().read_unaligned(), 0)) }
}

/// `lanes + f32(isum) * (d_w * d_x)`
#[inline(always)]
unsafe fn add<S: Simd>(lanes: S::F, w: S::B, d: S::F, q: S::B, nsum: S::B, dx: S::F) -> S::F {
    // SAFETY: the caller's promises.
    unsafe {
        let sum = S::to_f(S::dot4(w, q, nsum));
        S::add_f(lanes, S::mul_f(sum, S::mul_f(d, dx)))
    }
}

#[inline(always)]
unsafe fn load_x<S: Simd>(x: *const u8, i: usize) -> (S::B, S::B, S::F) {
    // SAFETY: the token has more than i pairs.
    unsafe {
        let x = &*x.cast::<Q8Pair>().add(i);
        (S::load(x.q.as_ptr().cast()), S::load(x.nsum.as_ptr().cast()), S::load_f(x.d.as_ptr()))
    }
}

/// One token.
struct Token<W>(PhantomData<W>);

impl<W: Block32> Kernel for Token<W> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, job: &Job) {
        let blocks = job.k / QK;
        let mut ahead = Ahead::new(job);
        let mut r = job.r0;
        while r < job.r1 {
            let count = 4.min(job.r1 - r);
            // SAFETY: rows below r1 have `blocks` blocks, the token as many.
            unsafe {
                let x = job.token(0);
                let mut lanes = [S::zero_f(); 4];
                for (i, lanes) in lanes[..count].iter_mut().enumerate() {
                    let row = job.row(r + i);
                    for p in 0..blocks / 2 {
                        let blocks = row.add(2 * p * W::SIZE);
                        ahead.of::<S>(blocks);
                        let (w, d) = pair::<S, W>(blocks);
                        let (q, nsum, dx) = load_x::<S>(x, p);
                        *lanes = add::<S>(*lanes, w, d, q, nsum, dx);
                    }
                    if blocks % 2 == 1 {
                        let (w, d) = last::<S, W>(row.add((blocks - 1) * W::SIZE));
                        let (q, nsum, dx) = load_x::<S>(x, blocks / 2);
                        *lanes = add::<S>(*lanes, w, d, q, nsum, dx);
                    }
                }
                let sums = S::tree4(lanes);
                for (i, &sum) in sums[..count].iter().enumerate() {
                    job.set(0, r + i, sum);
                }
            }
            r += count;
        }
    }
}

/// Unpacked pairs.
struct Pairs<W>(PhantomData<W>);

impl<W: Block32> Rows for Pairs<W> {
    const LANES: bool = true;

    fn unpacked_size(&self, k: usize) -> usize {
        unpacked_size(k)
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(&self, k: usize, src: *const u8, dst: *mut u8, ahead: &mut Ahead) {
        let blocks = k / QK;
        // SAFETY: `src` has `blocks` blocks, `dst` as many pairs as they make.
        unsafe {
            for p in 0..blocks.div_ceil(2) {
                let (src, dst) = (src.add(2 * p * W::SIZE), dst.add(UNPACKED * p));
                ahead.of::<S>(src);
                let (w, d) = if 2 * p + 1 < blocks { pair::<S, W>(src) } else { last::<S, W>(src) };
                S::store(dst, w);
                S::store_f(dst.add(64).cast(), d);
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const T: usize>(
        &self,
        k: usize,
        w: [*const u8; R],
        x: [*const u8; T],
    ) -> [[f32; MAX_TILE]; T] {
        // SAFETY: rows and tokens have a pair for each 64 elements.
        unsafe {
            let mut lanes = [[S::zero_f(); MAX_TILE]; R];
            for p in 0..k.div_ceil(64) {
                let mut ws = [S::zero(); R];
                let mut ds = [S::zero_f(); R];
                for r in 0..R {
                    ws[r] = S::load(w[r].add(UNPACKED * p));
                    ds[r] = S::load_f(w[r].add(UNPACKED * p + 64).cast());
                }
                for t in 0..T {
                    let (q, nsum, dx) = load_x::<S>(x[t], p);
                    for r in 0..R {
                        lanes[r][t] = add::<S>(lanes[r][t], ws[r], ds[r], q, nsum, dx);
                    }
                }
            }
            S::trees::<R, T>(&lanes)
        }
    }
}
