//! Q2_K and Q3_K: super-blocks whose scales (and minima) are those of 16 weights. Exact integers per super-block in 16
//! lanes, then one multiplication and addition each.

use std::marker::PhantomData;

use super::act::Q8K;
use super::fetch::Ahead;
use super::panel::{MAX_TILE, Panels, Rows};
use super::unpack::{Halves, bit_planes, crumbs};
use super::vector::{self, Kernel, Simd};
use super::{Job, QK_K};

/// A super-block unpacked: codes in the order of the elements, and what they are scaled by.
pub(super) struct Unpacked<B> {
    codes: [B; 4],
    scales: Scales,
}

/// The scales of a super-block.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Scales {
    each: [i16; 16],
    mins: [i16; 16],
    d: f32,
    /// dmin, negated.
    ndmin: f32,
}

/// A type of super-blocks.
pub(super) trait SubBlocks16 {
    const SIZE: usize;
    /// Q2_K: minima are subtracted. Q3_K: the weight is an eighth of the code, minus 4.
    const MINS: bool;
    /// # Safety
    /// The CPU has the features of `S`; `p` is a block.
    unsafe fn unpack<S: Simd>(p: *const u8) -> Unpacked<S::B>;
}

pub(super) struct Q2K;
pub(super) struct Q3K;

impl SubBlocks16 for Q2K {
    const SIZE: usize = 84;
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8) -> Unpacked<S::B> {
        // SAFETY: 16 bytes of scales, 64 of codes, d, dmin.
        unsafe {
            let mut out = Unpacked {
                codes: [S::zero(); 4],
                scales: Scales {
                    each: [0; 16],
                    mins: [0; 16],
                    d: S::f16_to_f32(p.add(80).cast::<u16>().read_unaligned()),
                    ndmin: -S::f16_to_f32(p.add(82).cast::<u16>().read_unaligned()),
                },
            };
            for h in 0..2 {
                let both = p.add(8 * h).cast::<u64>().read_unaligned();
                const LOW: u64 = 0x0f0f_0f0f_0f0f_0f0f;
                S::widen_u8x8(both & LOW, out.scales.each.as_mut_ptr().add(8 * h));
                S::widen_u8x8(both >> 4 & LOW, out.scales.mins.as_mut_ptr().add(8 * h));
            }
            for c in 0..4 {
                out.codes[c] = crumbs(p.add(16), c).join::<S>();
            }
            out
        }
    }
}

impl SubBlocks16 for Q3K {
    const SIZE: usize = 110;
    const MINS: bool = false;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8) -> Unpacked<S::B> {
        use std::arch::x86_64::{_mm256_loadu_si256, _mm256_or_si256, _mm256_slli_epi16};
        // SAFETY: 32 bytes of high bits, 64 of low, 12 of scales, d.
        unsafe {
            let mut out = Unpacked {
                codes: [S::zero(); 4],
                scales: Scales {
                    each: [0; 16],
                    mins: [0; 16],
                    d: S::f16_to_f32(p.add(108).cast::<u16>().read_unaligned()),
                    ndmin: 0.0,
                },
            };
            let low = p.add(96).cast::<u64>().read_unaligned();
            let high = u64::from(p.add(104).cast::<u32>().read_unaligned());
            for h in 0..2 {
                const LOW: u64 = 0x0f0f_0f0f_0f0f_0f0f;
                const TWO: u64 = 0x0303_0303;
                let pair = high >> (4 * h);
                let high = (pair & TWO) | (pair >> 2 & TWO) << 32;
                S::widen_u8x8((low >> (4 * h) & LOW) | high << 4, out.scales.each.as_mut_ptr().add(8 * h));
            }
            for scale in &mut out.scales.each {
                *scale -= 32;
            }
            let hmask = _mm256_loadu_si256(p.cast());
            for c in 0..4 {
                // Times 8, for the minus 4 to be the minus 32 of Q6_K. A shift by 3 stays within the byte.
                let (low, high) = (crumbs(p.add(32), c), bit_planes(hmask, c, 32));
                let codes = Halves(
                    _mm256_or_si256(_mm256_slli_epi16::<3>(low.0), high.0),
                    _mm256_or_si256(_mm256_slli_epi16::<3>(low.1), high.1),
                );
                out.codes[c] = codes.join::<S>();
            }
            out
        }
    }
}

/// Bytes of an unpacked super-block: codes, scales.
const UNPACKED: usize = 256 + size_of::<Scales>();

pub(super) fn unpacked_size(k: usize) -> usize {
    k / QK_K * UNPACKED
}

pub(super) unsafe fn mul_mat<W: SubBlocks16>(job: &Job) {
    // SAFETY: the caller's promises.
    unsafe {
        if job.n == 1 {
            vector::run(job.level, &Token::<W>(PhantomData), job);
        } else {
            vector::run(job.level, &Panels(&SuperBlocks::<W>(PhantomData)), job);
        }
    }
}

/// `acc + scale * isum` over 64 elements.
#[inline(always)]
unsafe fn chunk<S: Simd, W: SubBlocks16>(acc: S::B, codes: S::B, scales: S::B, q: S::B, sum2x32: S::B) -> S::B {
    // SAFETY: the caller's promises. Sums of two products fit an i16: 2 * 56 * 127 + 32 * 254.
    unsafe {
        let p = S::maddubs(codes, q);
        let p = if W::MINS { p } else { S::sub16(p, sum2x32) };
        S::madd_acc(acc, p, scales)
    }
}

/// `lanes + f32(isum) * (d_w * d_x)`
#[inline(always)]
unsafe fn add<S: Simd, W: SubBlocks16>(lanes: S::F, acc: S::B, d: f32) -> S::F {
    // SAFETY: the caller's promises.
    unsafe {
        let sum = S::to_f(acc);
        // Exact, unlike an eighth of a small d.
        let sum = if W::MINS { sum } else { S::mul_f(sum, S::splat_f(0.125)) };
        S::add_f(lanes, S::mul_f(sum, S::splat_f(d)))
    }
}

/// `lanes - f32(msum) * (dmin_w * d_x)`; acc is 32 times the sum.
#[inline(always)]
unsafe fn subtract<S: Simd>(lanes: S::F, acc: S::B, nd: f32) -> S::F {
    // SAFETY: the caller's promises.
    unsafe {
        let sum = S::mul_f(S::to_f(acc), S::splat_f(1.0 / 32.0));
        S::add_f(lanes, S::mul_f(sum, S::splat_f(nd)))
    }
}

#[inline(always)]
unsafe fn load_q<S: Simd>(x: &Q8K, c: usize) -> (S::B, S::B) {
    // SAFETY: c < 4, and both have 256 bytes.
    unsafe { (S::load(x.q.as_ptr().cast::<u8>().add(64 * c)), S::load(x.sum2x32.as_ptr().cast::<u8>().add(64 * c))) }
}

/// One token.
struct Token<W>(PhantomData<W>);

impl<W: SubBlocks16> Kernel for Token<W> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, job: &Job) {
        let mut ahead = Ahead::new(job);
        let mut r = job.r0;
        while r < job.r1 {
            let count = 4.min(job.r1 - r);
            // SAFETY: rows below r1 have k / 256 blocks, the token as many.
            unsafe {
                let mut lanes = [S::zero_f(); 4];
                for (i, lanes) in lanes[..count].iter_mut().enumerate() {
                    let row = job.row(r + i);
                    for b in 0..job.k / QK_K {
                        let block = row.add(b * W::SIZE);
                        ahead.of::<S>(block);
                        let x = &*job.token(0).cast::<Q8K>().add(b);
                        let w = W::unpack::<S>(block);
                        let (mut acc, mut mins) = (S::zero(), S::zero());
                        for c in 0..4 {
                            let (q, sums) = load_q::<S>(x, c);
                            let scales = S::splat_4x16(w.scales.each.as_ptr().add(4 * c));
                            acc = chunk::<S, W>(acc, w.codes[c], scales, q, sums);
                            if W::MINS {
                                mins = S::madd_acc(mins, sums, S::splat_4x16(w.scales.mins.as_ptr().add(4 * c)));
                            }
                        }
                        *lanes = add::<S, W>(*lanes, acc, w.scales.d * x.d);
                        if W::MINS {
                            *lanes = subtract::<S>(*lanes, mins, w.scales.ndmin * x.d);
                        }
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

/// Unpacked super-blocks.
struct SuperBlocks<W>(PhantomData<W>);

impl<W: SubBlocks16> Rows for SuperBlocks<W> {
    const LANES: bool = true;

    fn unpacked_size(&self, k: usize) -> usize {
        unpacked_size(k)
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(&self, k: usize, src: *const u8, dst: *mut u8, ahead: &mut Ahead) {
        for b in 0..k / QK_K {
            // SAFETY: `src` has k / 256 blocks, `dst` room for as many unpacked.
            unsafe {
                let block = src.add(b * W::SIZE);
                ahead.of::<S>(block);
                let w = W::unpack::<S>(block);
                let dst = dst.add(b * UNPACKED);
                for c in 0..4 {
                    S::store(dst.add(64 * c), w.codes[c]);
                }
                dst.add(256).cast::<Scales>().write(w.scales);
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
        // SAFETY: rows have k / 256 unpacked blocks, tokens k / 256 blocks.
        unsafe {
            let mut lanes = [[S::zero_f(); MAX_TILE]; R];
            for b in 0..k / QK_K {
                let scales: [&Scales; R] = w.map(|w| &*w.add(b * UNPACKED + 256).cast());
                let x: [&Q8K; T] = x.map(|x| &*x.cast::<Q8K>().add(b));
                let mut acc = [[S::zero(); T]; R];
                for c in 0..4 {
                    let mut codes = [S::zero(); R];
                    let mut by = [S::zero(); R];
                    for r in 0..R {
                        codes[r] = S::load(w[r].add(b * UNPACKED + 64 * c));
                        by[r] = S::splat_4x16(scales[r].each.as_ptr().add(4 * c));
                    }
                    for t in 0..T {
                        let (q, sums) = load_q::<S>(x[t], c);
                        for r in 0..R {
                            acc[r][t] = chunk::<S, W>(acc[r][t], codes[r], by[r], q, sums);
                        }
                    }
                }
                for r in 0..R {
                    for t in 0..T {
                        lanes[r][t] = add::<S, W>(lanes[r][t], acc[r][t], scales[r].d * x[t].d);
                    }
                }
                if W::MINS {
                    // In a loop of its own: both sets of sums would not fit the registers.
                    let mut acc = [[S::zero(); T]; R];
                    for c in 0..4 {
                        let mut by = [S::zero(); R];
                        for r in 0..R {
                            by[r] = S::splat_4x16(scales[r].mins.as_ptr().add(4 * c));
                        }
                        for t in 0..T {
                            let (_, sums) = load_q::<S>(x[t], c);
                            for r in 0..R {
                                acc[r][t] = S::madd_acc(acc[r][t], sums, by[r]);
                            }
                        }
                    }
                    for r in 0..R {
                        for t in 0..T {
                            lanes[r][t] = subtract::<S>(lanes[r][t], acc[r][t], scales[r].ndmin * x[t].d);
                        }
                    }
                }
            }
            S::trees::<R, T>(&lanes)
        }
    }
}
