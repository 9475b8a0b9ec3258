//! How Q2_K, Q3_K, Q4_K, Q5_K and Q6_K store their super-blocks.

use std::arch::x86_64::*;

use super::unpack::{Halves, bit_planes, crumbs};
use super::vector::Simd;

/// A super-block unpacked: codes in the order of the elements, and what they are scaled by.
pub(super) struct Unpacked<B> {
    pub codes: [B; 4],
    pub scales: Scales,
}

/// The scales and minima of a super-block, one for each sub-block.
pub(super) struct Scales {
    pub each: [i16; 16],
    pub mins: [i16; 16],
    pub d: f32,
    pub dmin: f32,
}

impl<B: Copy> Unpacked<B> {
    /// To be filled. d and dmin are f16.
    ///
    /// # Safety
    /// The CPU has the features of `S`.
    #[inline(always)]
    unsafe fn new<S: Simd<B = B>>(d: u16, dmin: u16) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let scales = Scales { each: [0; 16], mins: [0; 16], d: S::f16_to_f32(d), dmin: S::f16_to_f32(dmin) };
            Unpacked { codes: [S::zero(); 4], scales }
        }
    }
}

/// A type of super-blocks of 256.
pub(super) trait KBlock {
    const SIZE: usize;
    /// Elements that share a scale: 16 or 32.
    const SUB_BLOCK: usize;
    /// Minima are subtracted.
    const MINS: bool = false;
    /// 32 is subtracted from the codes.
    const ZERO: bool = false;
    /// The weights are eighths of that.
    const EIGHTHS: bool = false;
    /// # Safety
    /// The CPU has the features of `S`; `p` is a block.
    unsafe fn unpack<S: Simd>(p: *const u8) -> Unpacked<S::B>;
}

pub(super) struct Q2K;
pub(super) struct Q3K;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;

/// d, dmin, and 8 scales and minima of 6 bits: how Q4_K and Q5_K begin.
#[inline(always)]
unsafe fn six_bits<S: Simd>(p: *const u8) -> Unpacked<S::B> {
    // SAFETY: d, dmin, 12 bytes of scales.
    unsafe {
        let s = |i: usize| p.add(4 + 4 * i).cast::<u32>().read_unaligned();
        let (s0, s1, s2) = (s(0), s(1), s(2));
        let scales_hi = (s2 & 0x0f0f_0f0f) | (((s0 >> 6) & 0x0303_0303) << 4);
        let mins_hi = ((s2 >> 4) & 0x0f0f_0f0f) | (((s1 >> 6) & 0x0303_0303) << 4);
        let scales = u64::from(s0 & 0x3f3f_3f3f) | u64::from(scales_hi) << 32;
        let mins = u64::from(s1 & 0x3f3f_3f3f) | u64::from(mins_hi) << 32;
        let f16 = |i: usize| p.cast::<u16>().add(i).read_unaligned();
        let mut out = Unpacked::new::<S>(f16(0), f16(1));
        S::widen_u8x8(scales, out.scales.each.as_mut_ptr());
        S::widen_u8x8(mins, out.scales.mins.as_mut_ptr());
        out
    }
}

impl KBlock for Q4K {
    const SIZE: usize = 144;
    const SUB_BLOCK: usize = 32;
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8) -> Unpacked<S::B> {
        // SAFETY: d, dmin, 12 bytes of scales, 128 of codes.
        unsafe {
            let mut out = six_bits::<S>(p);
            for c in 0..4 {
                out.codes[c] = S::load_nibbles_32(p.add(16 + 32 * c));
            }
            out
        }
    }
}

impl KBlock for Q5K {
    const SIZE: usize = 176;
    const SUB_BLOCK: usize = 32;
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8) -> Unpacked<S::B> {
        // SAFETY: d, dmin, 12 bytes of scales, 32 of fifth bits, 128 of codes.
        unsafe {
            let mut out = six_bits::<S>(p);
            let high = _mm256_loadu_si256(p.add(16).cast());
            for c in 0..4 {
                let low = S::load_nibbles_32(p.add(48 + 32 * c));
                out.codes[c] = S::or(low, bit_planes(high, c, 16).join::<S>());
            }
            out
        }
    }
}

impl KBlock for Q6K {
    const SIZE: usize = 210;
    const SUB_BLOCK: usize = 16;
    const ZERO: bool = true;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8) -> Unpacked<S::B> {
        // SAFETY: 128 bytes of low bits, 64 of high bits, 16 of scales, d.
        unsafe {
            let m15 = S::splat8(15);
            let mut out = Unpacked::new::<S>(p.add(208).cast::<u16>().read_unaligned(), 0);
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
}

impl KBlock for Q2K {
    const SIZE: usize = 84;
    const SUB_BLOCK: usize = 16;
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8) -> Unpacked<S::B> {
        // SAFETY: 16 bytes of scales, 64 of codes, d, dmin.
        unsafe {
            let mut out =
                Unpacked::new::<S>(p.add(80).cast::<u16>().read_unaligned(), p.add(82).cast::<u16>().read_unaligned());
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

impl KBlock for Q3K {
    const SIZE: usize = 110;
    const SUB_BLOCK: usize = 16;
    const ZERO: bool = true;
    const EIGHTHS: bool = true;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8) -> Unpacked<S::B> {
        // SAFETY: 32 bytes of high bits, 64 of low, 12 of scales, d.
        unsafe {
            let mut out = Unpacked::new::<S>(p.add(108).cast::<u16>().read_unaligned(), 0);
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
