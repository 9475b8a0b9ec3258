//! How Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4 and IQ4_XS store their blocks (or sub-blocks) of 32.

use std::arch::x86_64::*;

use ggml_ops::quants::{KVALUES_IQ4_NL, KVALUES_MXFP4, e8m0_to_f32_half};
use gguf::GgmlType;

use super::unpack::{Halves, fifth_bits};
use super::vector::Simd;

/// Blocks whose scales are made together.
pub(super) const SCALES_AT_ONCE: usize = 8;

/// How a type stores blocks of 32.
pub(super) trait Block32 {
    /// There are minima.
    const MINS: bool;

    /// Where block `b` of a row is.
    fn at(row: *const u8, b: usize) -> *const u8;

    /// The int8 weights of two blocks.
    ///
    /// # Safety
    /// The CPU has the features of `S`; both are blocks.
    unsafe fn weights<S: Simd>(lo: *const u8, hi: *const u8) -> S::B;

    /// The scales and minima of blocks `b..b + 8`, b a multiple of 8, of which `count` exist; zeros for the others.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C; the row has the blocks.
    unsafe fn scales(row: *const u8, b: usize, count: usize) -> (__m256, __m256);
}

/// Blocks one after the other, which begin with their scales.
trait Plain {
    const SIZE: usize;
    const MINS: bool = false;

    /// The int8 weights of two blocks.
    ///
    /// # Safety
    /// The CPU has the features of `S`; both are blocks.
    unsafe fn weights<S: Simd>(lo: *const u8, hi: *const u8) -> S::B;
}

impl<W: Plain> Block32 for W {
    const MINS: bool = W::MINS;

    #[inline(always)]
    fn at(row: *const u8, b: usize) -> *const u8 {
        row.wrapping_add(b * W::SIZE)
    }

    #[inline(always)]
    unsafe fn weights<S: Simd>(lo: *const u8, hi: *const u8) -> S::B {
        // SAFETY: the caller's promises.
        unsafe { W::weights::<S>(lo, hi) }
    }

    #[inline(always)]
    unsafe fn scales(row: *const u8, b: usize, count: usize) -> (__m256, __m256) {
        // SAFETY: the caller's promises.
        unsafe {
            let p = row.add(b * W::SIZE);
            let d = halves_at(p, W::SIZE, count);
            (d, if W::MINS { halves_at(p.add(2), W::SIZE, count) } else { d })
        }
    }
}

/// Eight f16, `size` bytes apart, of which `count` exist; zeros for the others.
#[inline(always)]
unsafe fn halves_at(p: *const u8, size: usize, count: usize) -> __m256 {
    // SAFETY: the caller has the first `count` of them.
    unsafe {
        let mut v = [0i16; SCALES_AT_ONCE];
        for (i, v) in v.iter_mut().enumerate() {
            if i < count {
                *v = p.add(i * size).cast::<i16>().read_unaligned();
            }
        }
        _mm256_cvtph_ps(_mm_setr_epi16(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]))
    }
}

pub(super) struct Q4_0;
pub(super) struct Q8_0;
pub(super) struct Q4_1;
pub(super) struct Q5_0;
pub(super) struct Q5_1;
pub(super) struct Iq4Nl;
pub(super) struct Mxfp4;
pub(super) struct Iq4Xs;

/// Codes of Q5_0 and Q5_1: 4 bytes of high bits, then 16 of low ones.
#[inline(always)]
unsafe fn five_bits<S: Simd>(blocks: [*const u8; 2], at: usize) -> S::B {
    // SAFETY: the caller promises the features of `S`, and these bytes of both blocks.
    unsafe {
        let [lo, hi] = blocks.map(|p| p.add(at));
        let bits = |p: *const u8| p.cast::<u32>().read_unaligned();
        let high = Halves(fifth_bits(bits(lo)), fifth_bits(bits(hi))).join::<S>();
        S::or(S::load_nibbles_16x2(lo.add(4), hi.add(4)), high)
    }
}

impl Plain for Q4_1 {
    const SIZE: usize = 20;
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn weights<S: Simd>(lo: *const u8, hi: *const u8) -> S::B {
        // SAFETY: d, m, 16 bytes of codes.
        unsafe { S::load_nibbles_16x2(lo.add(4), hi.add(4)) }
    }
}

impl Plain for Q5_0 {
    const SIZE: usize = 22;

    #[inline(always)]
    unsafe fn weights<S: Simd>(lo: *const u8, hi: *const u8) -> S::B {
        // SAFETY: d, 4 bytes of high bits, 16 of low.
        unsafe { S::sub8(five_bits::<S>([lo, hi], 2), S::splat8(16)) }
    }
}

impl Plain for Q5_1 {
    const SIZE: usize = 24;
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn weights<S: Simd>(lo: *const u8, hi: *const u8) -> S::B {
        // SAFETY: d, m, 4 bytes of high bits, 16 of low.
        unsafe { five_bits::<S>([lo, hi], 4) }
    }
}

impl Plain for Iq4Nl {
    const SIZE: usize = 18;

    #[inline(always)]
    unsafe fn weights<S: Simd>(lo: *const u8, hi: *const u8) -> S::B {
        // SAFETY: d, 16 bytes of codes.
        unsafe { S::lookup(&KVALUES_IQ4_NL, S::load_nibbles_16x2(lo.add(2), hi.add(2))) }
    }
}

impl Plain for Q4_0 {
    const SIZE: usize = 18;

    #[inline(always)]
    unsafe fn weights<S: Simd>(lo: *const u8, hi: *const u8) -> S::B {
        // SAFETY: d, 16 bytes of codes.
        unsafe { S::sub8(S::load_nibbles_16x2(lo.add(2), hi.add(2)), S::splat8(8)) }
    }
}

impl Plain for Q8_0 {
    const SIZE: usize = 34;

    #[inline(always)]
    unsafe fn weights<S: Simd>(lo: *const u8, hi: *const u8) -> S::B {
        // SAFETY: d, 32 weights.
        unsafe { S::load_two(lo.add(2), hi.add(2)) }
    }
}

impl Block32 for Mxfp4 {
    const MINS: bool = false;

    #[inline(always)]
    fn at(row: *const u8, b: usize) -> *const u8 {
        row.wrapping_add(b * GgmlType::MXFP4.type_size())
    }

    #[inline(always)]
    unsafe fn weights<S: Simd>(lo: *const u8, hi: *const u8) -> S::B {
        // SAFETY: e, 16 bytes of codes.
        unsafe { S::lookup(&KVALUES_MXFP4, S::load_nibbles_16x2(lo.add(1), hi.add(1))) }
    }

    #[inline(always)]
    unsafe fn scales(row: *const u8, b: usize, count: usize) -> (__m256, __m256) {
        // SAFETY: blocks begin with their exponent.
        unsafe {
            let mut d = [0.0; SCALES_AT_ONCE];
            for (i, d) in d.iter_mut().enumerate() {
                if i < count {
                    *d = e8m0_to_f32_half(*Self::at(row, b + i));
                }
            }
            let d = _mm256_setr_ps(d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]);
            (d, d)
        }
    }
}

impl Block32 for Iq4Xs {
    const MINS: bool = false;

    #[inline(always)]
    fn at(row: *const u8, b: usize) -> *const u8 {
        row.wrapping_add(b / 8 * GgmlType::IQ4_XS.type_size() + 8 + b % 8 * 16)
    }

    #[inline(always)]
    unsafe fn weights<S: Simd>(lo: *const u8, hi: *const u8) -> S::B {
        // SAFETY: 16 bytes of codes.
        unsafe { S::lookup(&KVALUES_IQ4_NL, S::load_nibbles_16x2(lo, hi)) }
    }

    #[inline(always)]
    unsafe fn scales(row: *const u8, b: usize, _count: usize) -> (__m256, __m256) {
        // SAFETY: d, 2 bytes with the high bits of the scales, 4 with the low ones; rows are whole blocks.
        unsafe {
            let p = row.add(b / 8 * GgmlType::IQ4_XS.type_size());
            let d = _mm256_set1_ps(_mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(
                p.cast::<u16>().read_unaligned(),
            )))));
            let high = _mm256_set1_epi32(i32::from(p.add(2).cast::<u16>().read_unaligned()));
            let low = _mm256_set1_epi32(p.add(4).cast::<i32>().read_unaligned());
            let high = _mm256_srlv_epi32(high, _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
            let low = _mm256_srlv_epi32(low, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
            let high = _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(3)));
            let scales = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)), high);
            let d = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_sub_epi32(scales, _mm256_set1_epi32(32))));
            (d, d)
        }
    }
}
