//! Codes and scales taken out of blocks whose layout [`Simd`] has no operation for. With 32-byte registers, which every
//! level has; the compiler joins them where a level has wider ones.

use std::arch::x86_64::*;

use super::vector::Simd;

/// 64 bytes: the first and the second 32.
#[derive(Clone, Copy)]
pub(super) struct Halves(pub __m256i, pub __m256i);

impl Halves {
    /// As a value of the level.
    ///
    /// # Safety
    /// The CPU has the features of `S`.
    #[inline(always)]
    pub(super) unsafe fn join<S: Simd>(self) -> S::B {
        // SAFETY: both have 32 bytes.
        unsafe { S::load_two((&raw const self.0).cast(), (&raw const self.1).cast()) }
    }
}

/// 16 bytes: their low nibbles, then their high nibbles.
///
/// # Safety
/// The CPU has AVX2; there are 16 bytes.
#[inline(always)]
pub(super) unsafe fn nibbles(p: *const u8) -> __m256i {
    // SAFETY: the caller's promises.
    unsafe {
        let v = _mm_loadu_si128(p.cast());
        _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(v), v), _mm256_set1_epi8(15))
    }
}

/// 16 in byte i where bit i is set, otherwise 0: the fifth bits of a block of Q5_0 or Q5_1.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn fifth_bits(bits: u32) -> __m256i {
    // SAFETY: the caller promises AVX2.
    unsafe {
        let byte = _mm256_set_epi64x(0x0303_0303_0303_0303, 0x0202_0202_0202_0202, 0x0101_0101_0101_0101, 0);
        let spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), byte);
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
        _mm256_and_si256(set, _mm256_set1_epi8(16))
    }
}

/// Bits `2 c` (in the first half) and `2 c + 1` (in the second) of 32 bytes: `value` where they are set, otherwise 0.
///
/// # Safety
/// The CPU has AVX2; c < 4.
#[inline(always)]
pub(super) unsafe fn bit_planes(v: __m256i, c: usize, value: i8) -> Halves {
    // SAFETY: the caller promises AVX2.
    unsafe {
        let value = _mm256_set1_epi8(value);
        let (first, second) = (_mm256_set1_epi8(1 << (2 * c)), _mm256_set1_epi8((2u8 << (2 * c)) as i8));
        Halves(
            _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(v, first), first), value),
            _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(v, second), second), value),
        )
    }
}

/// Chunk `c` (0..4) of 64 codes of 2 bits, in the layout that Q2_K and Q3_K share.
///
/// # Safety
/// The CPU has AVX2; there are 64 bytes; c < 4.
#[inline(always)]
pub(super) unsafe fn crumbs(p: *const u8, c: usize) -> Halves {
    // SAFETY: the caller's promises; 32 (c / 2) + 32 <= 64.
    unsafe {
        let v = _mm256_loadu_si256(p.add(32 * (c / 2)).cast());
        let v = if c % 2 == 1 { _mm256_srli_epi16::<4>(v) } else { v };
        let three = _mm256_set1_epi8(3);
        Halves(_mm256_and_si256(v, three), _mm256_and_si256(_mm256_srli_epi16::<2>(v), three))
    }
}
