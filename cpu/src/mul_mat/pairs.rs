//! Q4_1, Q5_0, Q5_1, IQ4_NL, MXFP4 and IQ4_XS: as in `q8_0.rs`, two blocks (or sub-blocks) of 32 at a time, a lane for
//! each four products.

use std::arch::x86_64::{__m256i, _mm256_or_si256, _mm256_set1_epi8, _mm256_sub_epi8};
use std::marker::PhantomData;

use ggml_ops::quants::{KVALUES_IQ4_NL, KVALUES_MXFP4, e8m0_to_f32_half};
use gguf::GgmlType;

use super::act::Q8Pair;
use super::fetch::Ahead;
use super::panel::{MAX_TILE, Panels, Rows};
use super::unpack::{Halves, fifth_bits, lookup, nibbles, splat_2f};
use super::vector::{self, Kernel, Simd};
use super::{Job, QK};

/// A pair: 64 int8 weights in the form for [`Simd::dot4`], and what they are scaled by.
pub(super) struct Unpacked<S: Simd> {
    w: S::B,
    d: S::F,
    /// -1/128 of the minima: activations come with -128 times their sums.
    m: S::F,
}

impl<S: Simd> Clone for Unpacked<S> {
    fn clone(&self) -> Self {
        *self
    }
}

// Derived, it would ask for levels that are Copy.
impl<S: Simd> Copy for Unpacked<S> {}

/// How a type stores pairs.
pub(super) trait PairType {
    /// There are minima.
    const MINS: bool;

    /// The bytes that hold pair `p` of a row.
    fn at(row: *const u8, p: usize) -> *const u8;

    /// Pair `p`, whose bytes are at [`at`](Self::at). If it is not `whole`, only its first block is there, and the
    /// second gets scales 0 (as it has activations 0).
    ///
    /// # Safety
    /// The CPU has the features of `S`; the row has that much of the pair.
    unsafe fn unpack<S: Simd>(at: *const u8, p: usize, whole: bool) -> Unpacked<S>;
}

/// A type of blocks of 32.
pub(super) trait Block32 {
    const SIZE: usize;
    const MINS: bool;

    /// The weights of a block.
    ///
    /// # Safety
    /// The CPU has AVX2; `p` is a block.
    unsafe fn weights(p: *const u8) -> __m256i;

    /// The scales of a pair.
    ///
    /// # Safety
    /// The CPU has the features of `S`; both are blocks.
    #[inline(always)]
    unsafe fn scales<S: Simd>(lo: *const u8, hi: Option<*const u8>) -> S::F {
        // SAFETY: blocks begin with their scale.
        unsafe { halves_at::<S>(lo, hi) }
    }
}

/// Two f16; 0 for what is missing.
#[inline(always)]
unsafe fn halves_at<S: Simd>(lo: *const u8, hi: Option<*const u8>) -> S::F {
    // SAFETY: the caller has two bytes at both.
    unsafe {
        let first = lo.cast::<u16>().read_unaligned();
        let second = if let Some(hi) = hi { hi.cast::<u16>().read_unaligned() } else { 0 };
        S::splat_2xf16(first, second)
    }
}

impl<W: Block32> PairType for W {
    const MINS: bool = W::MINS;

    #[inline(always)]
    fn at(row: *const u8, p: usize) -> *const u8 {
        row.wrapping_add(2 * p * W::SIZE)
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(at: *const u8, _p: usize, whole: bool) -> Unpacked<S> {
        // SAFETY: the caller has one block, or two if `whole`.
        unsafe {
            let second = at.add(W::SIZE);
            let hi = if whole { Some(second) } else { None };
            let w = Halves(W::weights(at), W::weights(if whole { second } else { at }));
            let m = if W::MINS {
                let m = halves_at::<S>(at.add(2), if whole { Some(second.add(2)) } else { None });
                S::mul_f(m, S::splat_f(-1.0 / 128.0))
            } else {
                S::zero_f()
            };
            Unpacked { w: S::dot4_weights(w.join::<S>()), d: W::scales::<S>(at, hi), m }
        }
    }
}

pub(super) struct Q4_1;
pub(super) struct Q5_0;
pub(super) struct Q5_1;
pub(super) struct Iq4Nl;
pub(super) struct Mxfp4;
pub(super) struct Iq4Xs;

/// Codes of Q5_0 and Q5_1.
#[inline(always)]
unsafe fn five_bits(qh: *const u8, qs: *const u8) -> __m256i {
    // SAFETY: the caller promises AVX2, 4 and 16 bytes.
    unsafe { _mm256_or_si256(nibbles(qs), fifth_bits(qh.cast::<u32>().read_unaligned())) }
}

impl Block32 for Q4_1 {
    const SIZE: usize = 20;
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn weights(p: *const u8) -> __m256i {
        // SAFETY: d, m, 16 bytes of codes.
        unsafe { nibbles(p.add(4)) }
    }
}

impl Block32 for Q5_0 {
    const SIZE: usize = 22;
    const MINS: bool = false;

    #[inline(always)]
    unsafe fn weights(p: *const u8) -> __m256i {
        // SAFETY: d, 4 bytes of high bits, 16 of low.
        unsafe { _mm256_sub_epi8(five_bits(p.add(2), p.add(6)), _mm256_set1_epi8(16)) }
    }
}

impl Block32 for Q5_1 {
    const SIZE: usize = 24;
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn weights(p: *const u8) -> __m256i {
        // SAFETY: d, m, 4 bytes of high bits, 16 of low.
        unsafe { five_bits(p.add(4), p.add(8)) }
    }
}

impl Block32 for Iq4Nl {
    const SIZE: usize = 18;
    const MINS: bool = false;

    #[inline(always)]
    unsafe fn weights(p: *const u8) -> __m256i {
        // SAFETY: d, 16 bytes of codes.
        unsafe { lookup(&KVALUES_IQ4_NL, nibbles(p.add(2))) }
    }
}

impl Block32 for Mxfp4 {
    const SIZE: usize = 17;
    const MINS: bool = false;

    #[inline(always)]
    unsafe fn weights(p: *const u8) -> __m256i {
        // SAFETY: e, 16 bytes of codes.
        unsafe { lookup(&KVALUES_MXFP4, nibbles(p.add(1))) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(lo: *const u8, hi: Option<*const u8>) -> S::F {
        // SAFETY: blocks begin with their exponent.
        unsafe {
            let second = if let Some(hi) = hi { e8m0_to_f32_half(*hi) } else { 0.0 };
            splat_2f::<S>(e8m0_to_f32_half(*lo), second)
        }
    }
}

impl PairType for Iq4Xs {
    const MINS: bool = false;

    #[inline(always)]
    fn at(row: *const u8, p: usize) -> *const u8 {
        row.wrapping_add(p / 4 * GgmlType::IQ4_XS.type_size())
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(at: *const u8, p: usize, _whole: bool) -> Unpacked<S> {
        // SAFETY: d, 2 bytes with the high bits of the scales, 4 with the low ones, 128 of codes; rows are whole blocks.
        unsafe {
            let c = p % 4;
            let d = S::f16_to_f32(at.cast::<u16>().read_unaligned());
            let high = u32::from(at.add(2).cast::<u16>().read_unaligned()) >> (4 * c);
            let low = u32::from(*at.add(4 + c));
            let first = ((low & 15) | (high & 3) << 4) as i32 - 32;
            let second = (low >> 4 | (high >> 2 & 3) << 4) as i32 - 32;
            let codes = at.add(8 + 32 * c);
            let w = Halves(lookup(&KVALUES_IQ4_NL, nibbles(codes)), lookup(&KVALUES_IQ4_NL, nibbles(codes.add(16))));
            Unpacked {
                w: S::dot4_weights(w.join::<S>()),
                d: splat_2f::<S>(d * first as f32, d * second as f32),
                m: S::zero_f(),
            }
        }
    }
}

/// Bytes of an unpacked pair: 64 weights, then the 16 scales of the lanes, then their minima.
const fn unpacked_pair(mins: bool) -> usize {
    if mins { 192 } else { 128 }
}

pub(super) fn unpacked_size<W: PairType>(k: usize) -> usize {
    k.div_ceil(64) * unpacked_pair(W::MINS)
}

pub(super) unsafe fn mul_mat<W: PairType>(job: &Job) {
    // SAFETY: the caller's promises.
    unsafe {
        if job.n == 1 {
            vector::run(job.level, &Token::<W>(PhantomData), job);
        } else {
            vector::run(job.level, &Panels(&Pairs::<W>(PhantomData)), job);
        }
    }
}

/// `lanes + f32(isum) * (d_w * d_x)`, then `+ f32(sum) * (m_w * d_x)` if there are minima.
#[inline(always)]
unsafe fn add<S: Simd, W: PairType>(lanes: S::F, w: &Unpacked<S>, x: &(S::B, S::B, S::F)) -> S::F {
    let (q, nsum, dx) = *x;
    // SAFETY: the caller's promises.
    unsafe {
        let sum = S::to_f(S::dot4(w.w, q, nsum));
        let lanes = S::add_f(lanes, S::mul_f(sum, S::mul_f(w.d, dx)));
        if !W::MINS {
            return lanes;
        }
        // The factors -128 and -1/128 are powers of two: nothing is rounded by them.
        S::add_f(lanes, S::mul_f(S::to_f(nsum), S::mul_f(w.m, dx)))
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

impl<W: PairType> Kernel for Token<W> {
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
                        let at = W::at(row, p);
                        ahead.of::<S>(at);
                        *lanes = add::<S, W>(*lanes, &W::unpack::<S>(at, p, true), &load_x::<S>(x, p));
                    }
                    if blocks % 2 == 1 {
                        let p = blocks / 2;
                        let w = W::unpack::<S>(W::at(row, p), p, false);
                        *lanes = add::<S, W>(*lanes, &w, &load_x::<S>(x, p));
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

impl<W: PairType> Rows for Pairs<W> {
    const LANES: bool = true;

    fn unpacked_size(&self, k: usize) -> usize {
        unpacked_size::<W>(k)
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(&self, k: usize, src: *const u8, dst: *mut u8, ahead: &mut Ahead) {
        let blocks = k / QK;
        // SAFETY: `src` has `blocks` blocks, `dst` as many pairs as they make.
        unsafe {
            for p in 0..blocks.div_ceil(2) {
                let (at, dst) = (W::at(src, p), dst.add(unpacked_pair(W::MINS) * p));
                ahead.of::<S>(at);
                let w = W::unpack::<S>(at, p, 2 * p + 1 < blocks);
                S::store(dst, w.w);
                S::store_f(dst.add(64).cast(), w.d);
                if W::MINS {
                    S::store_f(dst.add(128).cast(), w.m);
                }
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
                // A loop: closures are not compiled for the level.
                let mut ws = [Unpacked { w: S::zero(), d: S::zero_f(), m: S::zero_f() }; R];
                for r in 0..R {
                    let at = w[r].add(unpacked_pair(W::MINS) * p);
                    ws[r].w = S::load(at);
                    ws[r].d = S::load_f(at.add(64).cast());
                    if W::MINS {
                        ws[r].m = S::load_f(at.add(128).cast());
                    }
                }
                for t in 0..T {
                    let x = load_x::<S>(x[t], p);
                    for r in 0..R {
                        lanes[r][t] = add::<S, W>(lanes[r][t], &ws[r], &x);
                    }
                }
            }
            S::trees::<R, T>(&lanes)
        }
    }
}
