//! The products of [`tile`](super::tile) at every SIMD level.

use super::tile::{Block, Product, block};
#[cfg(target_arch = "x86_64")]
use crate::simd::Floats;
use crate::simd::SimdLevel;

/// f32: the product is rounded before it is added.
struct PlainF32;
/// Pairs of i16: both products are added to an i32 lane.
struct PlainI16;

impl Product for PlainF32 {
    type V = [f32; 4];
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> [f32; 4] {
        [0.0; 4]
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> [f32; 4] {
        // SAFETY: the caller has 16 bytes at p.
        unsafe { p.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn splat(p: *const u8) -> [f32; 4] {
        // SAFETY: the caller has 4 bytes at p.
        unsafe { [p.cast::<f32>().read_unaligned(); 4] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, v: [f32; 4]) {
        // SAFETY: the caller has 16 bytes at p.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn mul_add(acc: [f32; 4], a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| acc[i] + a[i] * b[i])
    }
}

impl Product for PlainI16 {
    type V = [i32; 4];
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> [i32; 4] {
        [0; 4]
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> [i32; 4] {
        // SAFETY: the caller has 16 bytes at p.
        unsafe { p.cast::<[i32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn splat(p: *const u8) -> [i32; 4] {
        // SAFETY: the caller has 4 bytes at p.
        unsafe { [p.cast::<i32>().read_unaligned(); 4] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, v: [i32; 4]) {
        // SAFETY: the caller has 16 bytes at p.
        unsafe { p.cast::<[i32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: [i32; 4], b: [i32; 4]) -> [i32; 4] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn mul_add(acc: [i32; 4], a: [i32; 4], b: [i32; 4]) -> [i32; 4] {
        let product = |a: i32, b: i32| i32::from(a as i16) * i32::from(b as i16);
        std::array::from_fn(|i| acc[i].wrapping_add(product(a[i], b[i])).wrapping_add(product(a[i] >> 16, b[i] >> 16)))
    }
}

/// Adds a block of f32.
///
/// # Safety
/// The level is supported; the block is valid ([`block`]).
pub(super) unsafe fn add_f32(level: SimdLevel, b: &Block) {
    // SAFETY: the caller's promises.
    unsafe {
        match level.floats() {
            #[cfg(target_arch = "x86_64")]
            Floats::Avx2 => x86::f32_avx2(b),
            #[cfg(target_arch = "x86_64")]
            Floats::Avx512 => x86::f32_avx512(b),
            _ => block::<PlainF32, 4, 2>(b),
        }
    }
}

/// Adds a block of pairs of i16, into i32.
///
/// # Safety
/// As [`add_f32`].
pub(super) unsafe fn add_i16(level: SimdLevel, b: &Block) {
    // SAFETY: the caller's promises.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 | SimdLevel::AvxVnni => x86::i16_avx2(b),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 => x86::i16_avx512(b),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512Vnni | SimdLevel::Amx => x86::i16_avx512_vnni(b),
            _ => block::<PlainI16, 4, 2>(b),
        }
    }
}

/// Adds a block of pairs of bf16, into f32.
///
/// # Safety
/// The level has them ([`SimdLevel::has_bf16_products`]); the block is valid ([`block`]).
pub(super) unsafe fn add_bf16(b: &Block) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promises.
    unsafe {
        x86::bf16_avx512(b)
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no level has these products: {}", b.steps)
}

/// Adds a block of quads of int8 by AMX's tiles, into i32.
///
/// # Safety
/// The processor has AMX; the block is valid ([`amx::add_i8`]).
///
/// [`amx::add_i8`]: super::amx::add_i8
pub(super) unsafe fn add_i8_tiles(b: &Block) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promises.
    unsafe {
        super::amx::add_i8(b)
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no level has these products: {}", b.steps)
}

/// Adds a block of pairs of bf16 by AMX's tiles, into f32.
///
/// # Safety
/// The processor has them ([`SimdLevel::has_bf16_tiles`]); the block is valid ([`amx::add_bf16`]).
///
/// [`amx::add_bf16`]: super::amx::add_bf16
pub(super) unsafe fn add_bf16_tiles(b: &Block) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promises.
    unsafe {
        super::amx::add_bf16(b)
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no level has these products: {}", b.steps)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::tile::MAX_TOKENS;
    use super::{Block, Product, block};
    use crate::mul_mat::vector_avx512::dpwssd;
    use std::arch::x86_64::*;

    /// Implements `Product` in instructions: each method's body is one unsafe block.
    macro_rules! product {
        ($name:ident: $v:ty, $lanes:expr, $(fn $f:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {
            struct $name;
            impl Product for $name {
                type V = $v;
                const LANES: usize = $lanes;
                $(
                    #[inline(always)]
                    unsafe fn $f($($arg: $ty),*) $(-> $ret)? {
                        // SAFETY: the caller promises the instructions and valid pointers.
                        unsafe { $body }
                    }
                )*
            }
        };
    }

    product! { F32x8: __m256, 8,
        fn zero() -> __m256 { _mm256_setzero_ps() }
        fn load(p: *const u8) -> __m256 { _mm256_loadu_ps(p.cast()) }
        fn splat(p: *const u8) -> __m256 { _mm256_set1_ps(p.cast::<f32>().read_unaligned()) }
        fn store(p: *mut u8, v: __m256) { _mm256_storeu_ps(p.cast(), v) }
        fn add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        fn mul_add(acc: __m256, a: __m256, b: __m256) -> __m256 { _mm256_add_ps(acc, _mm256_mul_ps(a, b)) }
    }
    product! { F32x16: __m512, 16,
        fn zero() -> __m512 { _mm512_setzero_ps() }
        fn load(p: *const u8) -> __m512 { _mm512_loadu_ps(p.cast()) }
        fn splat(p: *const u8) -> __m512 { _mm512_set1_ps(p.cast::<f32>().read_unaligned()) }
        fn store(p: *mut u8, v: __m512) { _mm512_storeu_ps(p.cast(), v) }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn mul_add(acc: __m512, a: __m512, b: __m512) -> __m512 { _mm512_add_ps(acc, _mm512_mul_ps(a, b)) }
    }
    product! { Bf16x32: __m512, 16,
        fn zero() -> __m512 { F32x16::zero() }
        fn load(p: *const u8) -> __m512 { F32x16::load(p) }
        fn splat(p: *const u8) -> __m512 { F32x16::splat(p) }
        fn store(p: *mut u8, v: __m512) { F32x16::store(p, v) }
        fn add(a: __m512, b: __m512) -> __m512 { F32x16::add(a, b) }
        fn mul_add(acc: __m512, a: __m512, b: __m512) -> __m512 {
            let pairs = |v: __m512| std::mem::transmute::<__m512, __m512bh>(v);
            _mm512_dpbf16_ps(acc, pairs(a), pairs(b))
        }
    }
    product! { I16x16: __m256i, 8,
        fn zero() -> __m256i { _mm256_setzero_si256() }
        fn load(p: *const u8) -> __m256i { _mm256_loadu_si256(p.cast()) }
        fn splat(p: *const u8) -> __m256i { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
        fn store(p: *mut u8, v: __m256i) { _mm256_storeu_si256(p.cast(), v) }
        fn add(a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(a, b) }
        fn mul_add(acc: __m256i, a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)) }
    }
    product! { I16x32: __m512i, 16,
        fn zero() -> __m512i { _mm512_setzero_si512() }
        fn load(p: *const u8) -> __m512i { _mm512_loadu_si512(p.cast()) }
        fn splat(p: *const u8) -> __m512i { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
        fn store(p: *mut u8, v: __m512i) { _mm512_storeu_si512(p.cast(), v) }
        fn add(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn mul_add(acc: __m512i, a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(acc, _mm512_madd_epi16(a, b)) }
    }
    product! { I16x32Vnni: __m512i, 16,
        fn zero() -> __m512i { I16x32::zero() }
        fn load(p: *const u8) -> __m512i { I16x32::load(p) }
        fn splat(p: *const u8) -> __m512i { I16x32::splat(p) }
        fn store(p: *mut u8, v: __m512i) { I16x32::store(p, v) }
        fn add(a: __m512i, b: __m512i) -> __m512i { I16x32::add(a, b) }
        fn mul_add(acc: __m512i, a: __m512i, b: __m512i) -> __m512i { dpwssd(acc, a, b) }
    }

    // 16 registers: 2 x 6 sums.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn f32_avx2(b: &Block) {
        // SAFETY: the features are enabled; the block is the caller's promise. So in all functions below.
        unsafe { if b.columns <= 8 { block::<F32x8, 1, MAX_TOKENS>(b) } else { block::<F32x8, 2, MAX_TOKENS>(b) } }
    }
    // 32 registers: 4 x 6 sums; fewer columns where there are not more.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn f32_avx512(b: &Block) {
        // SAFETY: as above.
        unsafe {
            match b.columns {
                0..=8 => block::<F32x8, 1, MAX_TOKENS>(b),
                9..=16 => block::<F32x16, 1, MAX_TOKENS>(b),
                17..=32 => block::<F32x16, 2, MAX_TOKENS>(b),
                _ => block::<F32x16, 4, MAX_TOKENS>(b),
            }
        }
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(super) unsafe fn bf16_avx512(b: &Block) {
        // SAFETY: as above.
        unsafe { block::<Bf16x32, 4, MAX_TOKENS>(b) }
    }
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn i16_avx2(b: &Block) {
        // SAFETY: as above.
        unsafe { block::<I16x16, 2, MAX_TOKENS>(b) }
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn i16_avx512(b: &Block) {
        // SAFETY: as above.
        unsafe { block::<I16x32, 4, MAX_TOKENS>(b) }
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) unsafe fn i16_avx512_vnni(b: &Block) {
        // SAFETY: as above.
        unsafe { block::<I16x32Vnni, 4, MAX_TOKENS>(b) }
    }
}
