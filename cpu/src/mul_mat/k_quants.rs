//! Q4_K, Q5_K and Q6_K: exact integers per super-block in 16 lanes, then one multiplication and addition each.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::Job;
use super::QK_K;
use super::act::Q8K;
use super::fetch::Ahead;
use super::panel::{MAX_TILE, Panels, Rows};
use super::unpack::bit_planes;
use super::vector::{self, Kernel, Simd};

/// A super-block unpacked: codes in the order of the elements, and what they are scaled by.
pub(super) struct Unpacked<B> {
    codes: [B; 4],
    scales: Scales,
}

/// The scales of a super-block.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Scales {
    /// One for each 32 (Q4_K and Q5_K, 8 of them) or 16 (Q6_K).
    each: [i16; 16],
    d: f32,
    dmin: f32,
    /// The minima of the 8 sub-blocks.
    mins: [i16; 8],
}

/// A type of super-blocks of 256.
pub(super) trait KBlock {
    const SIZE: usize;
    /// Q6_K: the weight is the code minus 32. Otherwise minima are subtracted.
    const MINUS_32: bool;
    /// # Safety
    /// The CPU has the features of `S`; `p` is a block.
    unsafe fn unpack<S: Simd>(p: *const u8) -> Unpacked<S::B>;
    /// The scales of the 64 elements of chunk `c` (0..4), one for each pair.
    ///
    /// # Safety
    /// The CPU has the features of `S`; c < 4.
    unsafe fn chunk_scales<S: Simd>(scales: &Scales, c: usize) -> S::B;
}

pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;

/// d, dmin, and 8 scales and minima of 6 bits: how Q4_K and Q5_K begin.
#[inline(always)]
unsafe fn six_bits<S: Simd>(p: *const u8) -> Scales {
    // SAFETY: d, dmin, 12 bytes of scales.
    unsafe {
        let s = |i: usize| p.add(4 + 4 * i).cast::<u32>().read_unaligned();
        let (s0, s1, s2) = (s(0), s(1), s(2));
        let scales_hi = (s2 & 0x0f0f_0f0f) | (((s0 >> 6) & 0x0303_0303) << 4);
        let mins_hi = ((s2 >> 4) & 0x0f0f_0f0f) | (((s1 >> 6) & 0x0303_0303) << 4);
        let scales = u64::from(s0 & 0x3f3f_3f3f) | u64::from(scales_hi) << 32;
        let mins = u64::from(s1 & 0x3f3f_3f3f) | u64::from(mins_hi) << 32;
        let mut out = Scales {
            each: [0; 16],
            d: S::f16_to_f32(p.cast::<u16>().read_unaligned()),
            dmin: S::f16_to_f32(p.add(2).cast::<u16>().read_unaligned()),
            mins: [0; 8],
        };
        S::widen_u8x8(scales, out.each.as_mut_ptr());
        S::widen_u8x8(mins, out.mins.as_mut_ptr());
        out
    }
}

impl KBlock for Q4K {
    const SIZE: usize = 144;
    const MINUS_32: bool = false;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8) -> Unpacked<S::B> {
        // SAFETY: d, dmin, 12 bytes of scales, 128 of codes.
        unsafe {
            let mut out = Unpacked { codes: [S::zero(); 4], scales: six_bits::<S>(p) };
            for c in 0..4 {
                out.codes[c] = S::load_nibbles_32(p.add(16 + 32 * c));
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn chunk_scales<S: Simd>(scales: &Scales, c: usize) -> S::B {
        // SAFETY: the caller's promises.
        unsafe { S::splat_2x16(scales.each.as_ptr().add(2 * c)) }
    }
}

impl KBlock for Q5K {
    const SIZE: usize = 176;
    const MINUS_32: bool = false;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8) -> Unpacked<S::B> {
        // SAFETY: d, dmin, 12 bytes of scales, 32 of fifth bits, 128 of codes.
        unsafe {
            let mut out = Unpacked { codes: [S::zero(); 4], scales: six_bits::<S>(p) };
            let high = _mm256_loadu_si256(p.add(16).cast());
            for c in 0..4 {
                let low = S::load_nibbles_32(p.add(48 + 32 * c));
                out.codes[c] = S::or(low, bit_planes(high, c, 16).join::<S>());
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn chunk_scales<S: Simd>(scales: &Scales, c: usize) -> S::B {
        // SAFETY: the caller's promises.
        unsafe { S::splat_2x16(scales.each.as_ptr().add(2 * c)) }
    }
}

impl KBlock for Q6K {
    const SIZE: usize = 210;
    const MINUS_32: bool = true;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8) -> Unpacked<S::B> {
        // SAFETY: 128 bytes of low bits, 64 of high bits, 16 of scales, d.
        unsafe {
            let m15 = S::splat8(15);
            let mut out = Unpacked {
                codes: [S::zero(); 4],
                scales: Scales {
                    each: [0; 16],
                    d: S::f16_to_f32(p.add(208).cast::<u16>().read_unaligned()),
                    dmin: 0.0,
                    mins: [0; 8],
                },
            };
            S::widen_i8x16(p.add(192), out.scales.each.as_mut_ptr());
            for h in 0..2 {
                let low = S::load(p.add(64 * h));
                let (high0, high1) = S::q6_k_high(p.add(128 + 32 * h));
                out.codes[2 * h] = S::or(S::and(low, m15), high0);
                out.codes[2 * h + 1] = S::or(S::and(S::srl16::<4>(low), m15), high1);
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn chunk_scales<S: Simd>(scales: &Scales, c: usize) -> S::B {
        // SAFETY: the caller's promises.
        unsafe { S::splat_4x16(scales.each.as_ptr().add(4 * c)) }
    }
}

/// Of an unpacked super-block: codes, then scales. Small, for a tile of rows and of tokens to fit the L1 cache.
const SCALES: usize = 256;
const UNPACKED: usize = SCALES + size_of::<Scales>();

pub(super) fn unpacked_size(k: usize) -> usize {
    k / QK_K * UNPACKED
}

pub(super) unsafe fn mul_mat<W: KBlock>(job: &Job) {
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
unsafe fn chunk<S: Simd, W: KBlock>(acc: S::B, codes: S::B, scales: S::B, q: S::B, sum2x32: S::B) -> S::B {
    // SAFETY: the caller's promises. Sums of two products fit an i16: 2 * 63 * 127.
    unsafe {
        let p = S::maddubs(codes, q);
        let p = if W::MINUS_32 { S::sub16(p, sum2x32) } else { p };
        S::madd_acc(acc, p, scales)
    }
}

/// The sum of eight products.
///
/// # Safety
/// The CPU has AVX2, as every level here.
#[inline(always)]
unsafe fn dot_8(a: &[i16; 8], b: &[i16; 8]) -> i32 {
    // SAFETY: the caller's promise; both have 16 bytes.
    unsafe {
        let p = _mm_madd_epi16(_mm_loadu_si128(a.as_ptr().cast()), _mm_loadu_si128(b.as_ptr().cast()));
        let p = _mm_add_epi32(p, _mm_unpackhi_epi64(p, p));
        _mm_cvtsi128_si32(_mm_add_epi32(p, _mm_shuffle_epi32::<1>(p)))
    }
}

/// One token.
struct Token<W>(PhantomData<W>);

impl<W: KBlock> Kernel for Token<W> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, job: &Job) {
        let mut ahead = Ahead::new(job);
        let mut r = job.r0;
        while r < job.r1 {
            let count = 4.min(job.r1 - r);
            // SAFETY: rows below r1 have k / 256 blocks, the token as many.
            unsafe {
                let mut lanes = [S::zero_f(); 4];
                let mut mins = [0.0; 4];
                for i in 0..count {
                    let row = job.row(r + i);
                    for b in 0..job.k / QK_K {
                        let block = row.add(b * W::SIZE);
                        ahead.of::<S>(block);
                        let x = &*job.token(0).cast::<Q8K>().add(b);
                        let w = W::unpack::<S>(block);
                        let mut acc = S::zero();
                        for c in 0..4 {
                            let q = S::load(x.q.as_ptr().cast::<u8>().add(64 * c));
                            let sums = S::load(x.sum2x32.as_ptr().cast::<u8>().add(64 * c));
                            let scales = W::chunk_scales::<S>(&w.scales, c);
                            acc = chunk::<S, W>(acc, w.codes[c], scales, q, sums);
                        }
                        let d = S::splat_f(w.scales.d * x.d);
                        lanes[i] = S::add_f(lanes[i], S::mul_f(S::to_f(acc), d));
                        if !W::MINUS_32 {
                            mins[i] += dot_8(&w.scales.mins, &x.bsums) as f32 * (w.scales.dmin * x.d);
                        }
                    }
                }
                let sums = S::tree4(lanes);
                for i in 0..count {
                    job.set(0, r + i, sums[i] - mins[i]);
                }
            }
            r += count;
        }
    }
}

/// Unpacked super-blocks.
struct SuperBlocks<W>(PhantomData<W>);

impl<W: KBlock> Rows for SuperBlocks<W> {
    const LANES: bool = true;
    // The minima take registers too.
    const LOW: bool = !W::MINUS_32;

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
                dst.add(SCALES).cast::<Scales>().write(w.scales);
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
            let mut mins = [_mm_setzero_ps(); R];
            for b in 0..k / QK_K {
                let w = w.map(|w| w.add(b * UNPACKED));
                let x = x.map(|x| &*x.cast::<Q8K>().add(b));
                let scales: [&Scales; R] = w.map(|w| &*w.add(SCALES).cast());
                let acc = super_block::<S, W, R, T>(w, x);
                let x4: [&Q8K; MAX_TILE] = std::array::from_fn(|t| x[t % T]);
                let dx = _mm_setr_ps(x4[0].d, x4[1].d, x4[2].d, x4[3].d);
                for r in 0..R {
                    let d = S::splat_f(scales[r].d);
                    for t in 0..T {
                        let sum = S::mul_f(S::to_f(acc[r][t]), S::mul_f(d, S::splat_f(x[t].d)));
                        lanes[r][t] = S::add_f(lanes[r][t], sum);
                    }
                }
                if !W::MINUS_32 {
                    let bsums = transpose(x4.map(|x| _mm_loadu_si128(x.bsums.as_ptr().cast())));
                    for r in 0..R {
                        let d = _mm_mul_ps(_mm_set1_ps(scales[r].dmin), dx);
                        let m = _mm_cvtepi32_ps(dot_mins(&scales[r].mins, bsums));
                        mins[r] = _mm_add_ps(mins[r], _mm_mul_ps(m, d));
                    }
                }
            }
            let mut y = S::trees::<R, T>(&lanes);
            for r in 0..R {
                let mins = to_array(mins[r]);
                for t in 0..T {
                    y[t][r] -= mins[t];
                }
            }
            y
        }
    }
}

/// The integer sums of a super-block.
///
/// # Safety
/// The CPU has the features of `S`; each `w` is an unpacked super-block.
#[inline(always)]
unsafe fn super_block<S: Simd, W: KBlock, const R: usize, const T: usize>(
    w: [*const u8; R],
    x: [&Q8K; T],
) -> [[S::B; T]; R] {
    // SAFETY: the caller's promises.
    unsafe {
        let mut acc = [[S::zero(); T]; R];
        for c in 0..4 {
            let mut codes = [S::zero(); R];
            let mut by = [S::zero(); R];
            for r in 0..R {
                codes[r] = S::load(w[r].add(64 * c));
                by[r] = W::chunk_scales::<S>(&*w[r].add(SCALES).cast(), c);
            }
            for t in 0..T {
                let q = S::load(x[t].q.as_ptr().cast::<u8>().add(64 * c));
                let sums = S::load(x[t].sum2x32.as_ptr().cast::<u8>().add(64 * c));
                for r in 0..R {
                    acc[r][t] = chunk::<S, W>(acc[r][t], codes[r], by[r], q, sums);
                }
            }
        }
        acc
    }
}

/// # Safety
/// The CPU has AVX2, as every level here.
#[inline(always)]
unsafe fn to_array(v: __m128) -> [f32; 4] {
    let mut out = [0.0; 4];
    // SAFETY: the caller's promise.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), v) };
    out
}

/// Pairs of i16 of four tokens: pair p of all four in value p.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn transpose(v: [__m128i; 4]) -> [__m128i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (lo01, hi01) = (_mm_unpacklo_epi32(v[0], v[1]), _mm_unpackhi_epi32(v[0], v[1]));
        let (lo23, hi23) = (_mm_unpacklo_epi32(v[2], v[3]), _mm_unpackhi_epi32(v[2], v[3]));
        [
            _mm_unpacklo_epi64(lo01, lo23),
            _mm_unpackhi_epi64(lo01, lo23),
            _mm_unpacklo_epi64(hi01, hi23),
            _mm_unpackhi_epi64(hi01, hi23),
        ]
    }
}

/// `sum_j mins[j] * bsum_j` for four tokens, whose pairs of sums are transposed.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn dot_mins(mins: &[i16; 8], bsums: [__m128i; 4]) -> __m128i {
    // SAFETY: the caller's promise; there are four pairs of minima.
    unsafe {
        let product = |p: usize| {
            let pair = _mm_set1_epi32(mins.as_ptr().add(2 * p).cast::<i32>().read_unaligned());
            _mm_madd_epi16(pair, bsums[p])
        };
        _mm_add_epi32(_mm_add_epi32(product(0), product(1)), _mm_add_epi32(product(2), product(3)))
    }
}
