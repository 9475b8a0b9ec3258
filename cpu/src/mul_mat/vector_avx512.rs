//! AVX-512 F, BW, VL and DQ, without and with VNNI: 64 bytes are one register.

use super::vector::{Simd, Tq1Acc};
use super::vector_avx2::{methods, tree4_of_8};
use std::arch::asm;
use std::arch::x86_64::*;

pub(crate) struct Avx512;
pub(crate) struct Avx512Vnni;

/// Implements `Simd` for a level: what both share, and the methods given.
macro_rules! avx512_level {
    ($level:ident, RUN = $run:expr, TQ1_RUN = $tq1_run:expr, $($own:tt)*) => {
        impl Simd for $level {
            type B = __m512i;
            type F = __m512;
            type R = __m512;
            type Acc = __m512i;

            const RUN: usize = $run;
            const WIDE: bool = true;
            const REG: usize = 16;
            const TQ1_RUN: usize = $tq1_run;

            methods! { $($own)* }
            methods! {
                fn load(p: *const u8) -> __m512i {
                    _mm512_loadu_si512(p.cast())
                }
                fn store(p: *mut u8, v: __m512i) {
                    _mm512_storeu_si512(p.cast(), v);
                }
                fn store_halves(lo: *mut u8, hi: *mut u8, v: __m512i) {
                    _mm256_storeu_si256(lo.cast(), _mm512_castsi512_si256(v));
                    _mm256_storeu_si256(hi.cast(), _mm512_extracti64x4_epi64::<1>(v));
                }
                fn load_twice(p: *const u8) -> __m512i {
                    _mm512_broadcast_i64x4(_mm256_loadu_si256(p.cast()))
                }
                fn load_two(lo: *const u8, hi: *const u8) -> __m512i {
                    let lo = _mm512_castsi256_si512(_mm256_loadu_si256(lo.cast()));
                    _mm512_inserti64x4::<1>(lo, _mm256_loadu_si256(hi.cast()))
                }
                fn load_nibbles_32(p: *const u8) -> __m512i {
                    let shifts = _mm512_set_epi64(4, 4, 4, 4, 0, 0, 0, 0);
                    let v = _mm512_srlv_epi64(Self::load_twice(p), shifts);
                    _mm512_and_si512(v, _mm512_set1_epi8(15))
                }
                fn load_nibbles_16x2(lo: *const u8, hi: *const u8) -> __m512i {
                    let lo = _mm256_broadcastsi128_si256(_mm_loadu_si128(lo.cast()));
                    let hi = _mm256_broadcastsi128_si256(_mm_loadu_si128(hi.cast()));
                    let v = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(lo), hi);
                    let shifts = _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0);
                    _mm512_and_si512(_mm512_srlv_epi64(v, shifts), _mm512_set1_epi8(15))
                }
                fn lookup(table: &[i8; 16], codes: __m512i) -> __m512i {
                    let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
                    _mm512_shuffle_epi8(table, codes)
                }
                fn q6_k_high(p: *const u8) -> (__m512i, __m512i) {
                    let h = Self::load_twice(p);
                    let m = _mm512_set1_epi8(0x30);
                    let first = _mm512_sllv_epi64(h, _mm512_set_epi64(2, 2, 2, 2, 4, 4, 4, 4));
                    let second = _mm512_srlv_epi64(h, _mm512_set_epi64(2, 2, 2, 2, 0, 0, 0, 0));
                    (_mm512_and_si512(first, m), _mm512_and_si512(second, m))
                }
                fn zero() -> __m512i {
                    _mm512_setzero_si512()
                }
                fn splat8(v: u8) -> __m512i {
                    _mm512_set1_epi8(v as i8)
                }
                fn and(a: __m512i, b: __m512i) -> __m512i {
                    _mm512_and_si512(a, b)
                }
                fn or(a: __m512i, b: __m512i) -> __m512i {
                    _mm512_or_si512(a, b)
                }
                fn sub8(a: __m512i, b: __m512i) -> __m512i {
                    _mm512_sub_epi8(a, b)
                }
                fn sub16(a: __m512i, b: __m512i) -> __m512i {
                    _mm512_sub_epi16(a, b)
                }
                fn srl16<const N: u32>(v: __m512i) -> __m512i {
                    _mm512_srli_epi16::<N>(v)
                }
                fn sll32<const N: u32>(v: __m512i) -> __m512i {
                    _mm512_slli_epi32::<N>(v)
                }
                fn sll16<const N: u32>(v: __m512i) -> __m512i {
                    _mm512_slli_epi16::<N>(v)
                }
                fn maddubs(a: __m512i, b: __m512i) -> __m512i {
                    _mm512_maddubs_epi16(a, b)
                }
                fn splat_4x16(p: *const i16) -> __m512i {
                    let v = _mm512_set1_epi64(p.cast::<i64>().read_unaligned());
                    _mm512_shuffle_epi8(v, _mm512_set_epi64(
                        0x0706_0706_0706_0706, 0x0706_0706_0706_0706,
                        0x0504_0504_0504_0504, 0x0504_0504_0504_0504,
                        0x0302_0302_0302_0302, 0x0302_0302_0302_0302,
                        0x0100_0100_0100_0100, 0x0100_0100_0100_0100,
                    ))
                }
                fn splat_2x16(p: *const i16) -> __m512i {
                    let v = _mm512_set1_epi32(p.cast::<i32>().read_unaligned());
                    _mm512_shuffle_epi8(v, _mm512_set_epi64(
                        0x0302_0302_0302_0302, 0x0302_0302_0302_0302,
                        0x0302_0302_0302_0302, 0x0302_0302_0302_0302,
                        0x0100_0100_0100_0100, 0x0100_0100_0100_0100,
                        0x0100_0100_0100_0100, 0x0100_0100_0100_0100,
                    ))
                }
                fn join_f(lo: __m256, hi: __m256) -> __m512 {
                    _mm512_insertf32x8::<1>(_mm512_castps256_ps512(lo), hi)
                }
                fn add32(a: __m512i, b: __m512i) -> __m512i {
                    _mm512_add_epi32(a, b)
                }
                fn mul32(a: __m512i, b: __m512i) -> __m512i {
                    _mm512_mullo_epi32(a, b)
                }
                fn splat32(p: *const u8) -> __m512i {
                    _mm512_set1_epi32(p.cast::<i32>().read_unaligned())
                }
                fn sums_of_halves(v: [__m512i; 8]) -> __m512i {
                    let (a, b) = (by_fours([v[0], v[1], v[2], v[3]]), by_fours([v[4], v[5], v[6], v[7]]));
                    // Of each value two quarters make a half.
                    let s = _mm512_add_epi32(
                        _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b),
                        _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b),
                    );
                    let order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
                    _mm512_permutexvar_epi32(order, s)
                }
                fn sums_of_lanes(v: [__m512i; 4]) -> [i32; 4] {
                    Self::acc_sum4(v)
                }
                fn acc_zero() -> __m512i {
                    _mm512_setzero_si512()
                }
                fn acc_sum4(t: [__m512i; 4]) -> [i32; 4] {
                    let s = by_fours(t);
                    let s = _mm256_add_epi32(
                        _mm512_castsi512_si256(s),
                        _mm512_extracti64x4_epi64::<1>(s),
                    );
                    let s = _mm_add_epi32(
                        _mm256_castsi256_si128(s),
                        _mm256_extracti128_si256::<1>(s),
                    );
                    let mut out = [0; 4];
                    _mm_storeu_si128(out.as_mut_ptr().cast(), s);
                    out
                }
                fn tq1_load(p: *const u8) -> __m512i {
                    _mm512_loadu_si512(p.cast())
                }
                fn tq1_start(v: __m512i) -> __m512i {
                    v
                }
                fn tq1_digit(q: &mut __m512i) -> __m512i {
                    let over_1 = _mm512_cmpgt_epu8_mask(*q, _mm512_set1_epi8(85));
                    let over_2 = _mm512_cmpgt_epu8_mask(*q, _mm512_set1_epi8(170u8 as i8));
                    *q = triple(*q);
                    let t = _mm512_maskz_mov_epi8(over_1, _mm512_set1_epi8(1));
                    _mm512_mask_mov_epi8(t, over_2, _mm512_set1_epi8(2))
                }
                fn zero_r() -> __m512 {
                    _mm512_setzero_ps()
                }
                fn load_r(p: *const f32) -> __m512 {
                    _mm512_loadu_ps(p)
                }
                fn store_r(p: *mut f32, v: __m512) {
                    _mm512_storeu_ps(p, v);
                }
                fn splat_r(v: f32) -> __m512 {
                    _mm512_set1_ps(v)
                }
                fn fused_r(a: __m512, b: __m512, c: __m512) -> __m512 {
                    _mm512_fmadd_ps(a, b, c)
                }
                fn mul_r(a: __m512, b: __m512) -> __m512 {
                    _mm512_mul_ps(a, b)
                }
                fn add_r(a: __m512, b: __m512) -> __m512 {
                    _mm512_add_ps(a, b)
                }
                fn zero_f() -> __m512 {
                    _mm512_setzero_ps()
                }
                fn load_f(p: *const f32) -> __m512 {
                    _mm512_loadu_ps(p)
                }
                fn store_f(p: *mut f32, v: __m512) {
                    _mm512_storeu_ps(p, v);
                }
                fn load_f16(p: *const u16) -> __m512 {
                    _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
                }
                fn load_bf16(p: *const u16) -> __m512 {
                    let v = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v))
                }
                fn splat_f(v: f32) -> __m512 {
                    _mm512_set1_ps(v)
                }
                fn mul_f(a: __m512, b: __m512) -> __m512 {
                    _mm512_mul_ps(a, b)
                }
                fn add_f(a: __m512, b: __m512) -> __m512 {
                    _mm512_add_ps(a, b)
                }
                fn fused_f(a: __m512, b: __m512, c: __m512) -> __m512 {
                    _mm512_fmadd_ps(a, b, c)
                }
                fn to_f(v: __m512i) -> __m512 {
                    _mm512_cvtepi32_ps(v)
                }
                fn tree4(v: [__m512; 4]) -> [f32; 4] {
                    tree4_of_8([half(v[0]), half(v[1]), half(v[2]), half(v[3])])
                }
                fn f16_to_f32(bits: u16) -> f32 {
                    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
                }
                fn widen_i8x16(src: *const u8, dst: *mut i16) {
                    let v = _mm256_cvtepi8_epi16(_mm_loadu_si128(src.cast()));
                    _mm256_storeu_si256(dst.cast(), v);
                }
                fn widen_u8x8(src: u64, dst: *mut i16) {
                    let v = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(src as i64));
                    _mm_storeu_si128(dst.cast(), v);
                }
                fn prefetch(p: *const u8) {
                    _mm_prefetch::<_MM_HINT_T1>(p.cast());
                }
            }
        }
    };
}

avx512_level! { Avx512,
    // At most 2 * 3 * 127 each time: 40 * 762 = 30480 fits an i16.
    RUN = 40,
    TQ1_RUN = Self::RUN,

    fn madd_acc(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi32(acc, _mm512_madd_epi16(a, b))
    }
    fn dot4_weights(w: __m512i) -> __m512i {
        w
    }
    fn dot4(w: __m512i, x: __m512i, _nsum: __m512i) -> __m512i {
        // |w| as u8 times x with w's sign; 2 * 128 * 127 fits an i16.
        let signed = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
        let p = _mm512_maddubs_epi16(_mm512_abs_epi8(w), signed);
        _mm512_madd_epi16(p, _mm512_set1_epi16(1))
    }
    fn dot4_start(_nsum: __m512i) -> __m512i {
        _mm512_setzero_si512()
    }
    fn dot4_add(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        _mm512_add_epi32(acc, Self::dot4(w, x, x))
    }
    fn dot4_codes(acc: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        Self::madd_acc(acc, _mm512_maddubs_epi16(codes, x), _mm512_set1_epi16(1))
    }
    fn acc_dot(acc: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        _mm512_add_epi16(acc, _mm512_maddubs_epi16(codes, x))
    }
    fn acc_flush(total: __m512i, acc: __m512i) -> __m512i {
        _mm512_add_epi32(total, _mm512_madd_epi16(acc, _mm512_set1_epi16(1)))
    }
    fn tq1_dot(acc: &mut Tq1Acc<__m512i>, block: *const u8, x: *const u8) {
        let mut q = Self::tq1_load(block);
        for n in 0..5 {
            let digit = Self::tq1_digit(&mut q);
            acc.0[n] = Self::acc_dot(acc.0[n], digit, Self::load(x.add(64 * n)));
        }
    }
    fn tq1_flush(total: __m512i, acc: Tq1Acc<__m512i>) -> __m512i {
        let mut total = total;
        for n in 0..5 {
            total = Self::acc_flush(total, acc.0[n]);
        }
        total
    }
}

avx512_level! { Avx512Vnni,
    // i32 from the start.
    RUN = usize::MAX,
    // 256 times the sum must fit an i32 lane: 20 * 2 * 127 * 256 a block.
    TQ1_RUN = 1024,

    fn madd_acc(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        dpwssd(acc, a, b)
    }
    fn dot4_weights(w: __m512i) -> __m512i {
        _mm512_xor_si512(w, _mm512_set1_epi8(-128))
    }
    fn dot4(w: __m512i, x: __m512i, nsum: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(nsum, w, x)
    }
    fn dot4_start(nsum: __m512i) -> __m512i {
        nsum
    }
    fn dot4_add(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(acc, w, x)
    }
    fn dot4_codes(acc: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(acc, codes, x)
    }
    fn acc_dot(acc: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(acc, codes, x)
    }
    fn acc_flush(total: __m512i, acc: __m512i) -> __m512i {
        _mm512_add_epi32(total, acc)
    }
    // With q_0 the byte and q_(n+1) = 3 q_n mod 256, a trit is t_n = (3 q_n - q_(n+1)) / 256, so
    // 256 sum t_n x_n = 3 sum q_n x_n - sum q_(n+1) x_n: no trit has to be taken out.
    fn tq1_dot(acc: &mut Tq1Acc<__m512i>, block: *const u8, x: *const u8) {
        let mut q = Self::tq1_load(block);
        for n in 0..5 {
            let x = Self::load(x.add(64 * n));
            acc.0[n % 3] = _mm512_dpbusd_epi32(acc.0[n % 3], q, x);
            q = triple(q);
            acc.0[3 + n % 3] = _mm512_dpbusd_epi32(acc.0[3 + n % 3], q, x);
        }
    }
    fn tq1_flush(total: __m512i, acc: Tq1Acc<__m512i>) -> __m512i {
        let a = _mm512_add_epi32(_mm512_add_epi32(acc.0[0], acc.0[1]), acc.0[2]);
        let b = _mm512_add_epi32(_mm512_add_epi32(acc.0[3], acc.0[4]), acc.0[5]);
        let a3 = _mm512_add_epi32(_mm512_add_epi32(a, a), a);
        let sum = _mm512_sub_epi32(a3, b);
        _mm512_add_epi32(total, _mm512_srai_epi32::<8>(sum))
    }
}

/// `_mm512_dpwssd_epi32`, which the compiler would split in two where one sum follows another.
///
/// # Safety
/// The CPU has AVX-512 VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(crate) unsafe fn dpwssd(mut acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the caller promises AVX-512 VNNI; nothing but `acc` is written.
    unsafe {
        asm!(
            "vpdpwssd {acc}, {a}, {b}",
            acc = inout(zmm_reg) acc,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// `3 v` in bytes. Not with intrinsics: a chain of them becomes multiplications by 9, 27, 81 and 243, which bytes do not
/// have and which take twice as long.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn triple(v: __m512i) -> __m512i {
    let out;
    // SAFETY: the caller promises AVX-512BW; nothing but `out` is written.
    unsafe {
        asm!(
            "vpaddb {out}, {v}, {v}",
            "vpaddb {out}, {out}, {v}",
            v = in(zmm_reg) v,
            out = out(zmm_reg) out,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}

/// In each 128-bit lane the sums of the four values' own.
#[inline(always)]
unsafe fn by_fours(v: [__m512i; 4]) -> __m512i {
    // SAFETY: the caller promises AVX-512F.
    unsafe {
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
        _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
    }
}

#[inline(always)]
unsafe fn half(v: __m512) -> __m256 {
    // SAFETY: the caller promises AVX-512DQ.
    unsafe { _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v)) }
}
