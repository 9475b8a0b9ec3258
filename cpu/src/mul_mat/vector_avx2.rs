//! AVX2, FMA and F16C, without and with AVX-VNNI: 64 bytes are two registers.

use super::unpack::nibbles;
use super::vector::{Simd, Tq1Acc};
use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

pub(crate) struct Avx2;
/// With the int8 dot products of AVX-VNNI.
pub(crate) struct AvxVnni<D>(PhantomData<D>);

/// The one instruction of AVX-VNNI that is used, so that tests can replace it where the processor lacks it.
pub(crate) trait Dpbusd {
    /// `acc` plus u8 x i8 with four neighbours added, in i32 lanes.
    ///
    /// # Safety
    /// The CPU has the instruction.
    unsafe fn dpbusd(acc: __m256i, a: __m256i, b: __m256i) -> __m256i;
}

/// The instruction itself.
pub(crate) struct Instruction;

impl Dpbusd for Instruction {
    #[inline(always)]
    unsafe fn dpbusd(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller promises AVX-VNNI.
        unsafe { _mm256_dpbusd_avx_epi32(acc, a, b) }
    }
}

/// Writes each method's body as one unsafe block.
macro_rules! methods {
    ($(fn $name:ident $(<const $N:ident: u32>)? ($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {$(
        #[inline(always)]
        #[allow(unused_unsafe)] // some levels need no instruction
        unsafe fn $name $(<const $N: u32>)? ($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: the caller promises the level's features and valid pointers (`Simd`).
            unsafe { $body }
        }
    )*};
}
pub(super) use methods;

#[derive(Clone, Copy)]
pub(crate) struct B2(__m256i, __m256i);
#[derive(Clone, Copy)]
pub(crate) struct F2(__m256, __m256);

/// Implements `Simd` for a level of two registers of 32 bytes: what all share, and the methods given.
macro_rules! avx2_level {
    ($level:ty $(, $d:ident: $bound:ident)?; RUN = $run:expr, TQ1_RUN = $tq1_run:expr, $($own:tt)*) => {
        impl $(<$d: $bound>)? Simd for $level {
            type B = B2;
            type F = F2;
            type R = __m256;
            type Acc = __m256i;

            const RUN: usize = $run;
            const WIDE: bool = false;
            const REG: usize = 8;
            const TQ1_RUN: usize = $tq1_run;

            methods! { $($own)* }
            methods! {
                fn load(p: *const u8) -> B2 {
                    B2(_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast()))
                }
                fn store(p: *mut u8, v: B2) {
                    _mm256_storeu_si256(p.cast(), v.0);
                    _mm256_storeu_si256(p.add(32).cast(), v.1);
                }
                fn store_halves(lo: *mut u8, hi: *mut u8, v: B2) {
                    _mm256_storeu_si256(lo.cast(), v.0);
                    _mm256_storeu_si256(hi.cast(), v.1);
                }
                fn load_twice(p: *const u8) -> B2 {
                    let v = _mm256_loadu_si256(p.cast());
                    B2(v, v)
                }
                fn load_two(lo: *const u8, hi: *const u8) -> B2 {
                    B2(_mm256_loadu_si256(lo.cast()), _mm256_loadu_si256(hi.cast()))
                }
                fn load_nibbles_32(p: *const u8) -> B2 {
                    let v = _mm256_loadu_si256(p.cast());
                    let m = _mm256_set1_epi8(15);
                    B2(_mm256_and_si256(v, m), _mm256_and_si256(_mm256_srli_epi16::<4>(v), m))
                }
                fn load_nibbles_16x2(lo: *const u8, hi: *const u8) -> B2 {
                    B2(nibbles(lo), nibbles(hi))
                }
                fn lookup(table: &[i8; 16], codes: B2) -> B2 {
                    let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                    B2(_mm256_shuffle_epi8(table, codes.0), _mm256_shuffle_epi8(table, codes.1))
                }
                fn q6_k_high(p: *const u8) -> (B2, B2) {
                    let h = _mm256_loadu_si256(p.cast());
                    let m = _mm256_set1_epi8(0x30);
                    let first = B2(_mm256_slli_epi16::<4>(h), _mm256_slli_epi16::<2>(h));
                    let second = B2(h, _mm256_srli_epi16::<2>(h));
                    (Self::and(first, B2(m, m)), Self::and(second, B2(m, m)))
                }
                fn zero() -> B2 {
                    B2(_mm256_setzero_si256(), _mm256_setzero_si256())
                }
                fn splat8(v: u8) -> B2 {
                    let v = _mm256_set1_epi8(v as i8);
                    B2(v, v)
                }
                fn and(a: B2, b: B2) -> B2 {
                    B2(_mm256_and_si256(a.0, b.0), _mm256_and_si256(a.1, b.1))
                }
                fn or(a: B2, b: B2) -> B2 {
                    B2(_mm256_or_si256(a.0, b.0), _mm256_or_si256(a.1, b.1))
                }
                fn sub8(a: B2, b: B2) -> B2 {
                    B2(_mm256_sub_epi8(a.0, b.0), _mm256_sub_epi8(a.1, b.1))
                }
                fn sub16(a: B2, b: B2) -> B2 {
                    B2(_mm256_sub_epi16(a.0, b.0), _mm256_sub_epi16(a.1, b.1))
                }
                fn maddubs(a: B2, b: B2) -> B2 {
                    B2(_mm256_maddubs_epi16(a.0, b.0), _mm256_maddubs_epi16(a.1, b.1))
                }
                fn madd_acc(acc: B2, a: B2, b: B2) -> B2 {
                    B2(
                        _mm256_add_epi32(acc.0, _mm256_madd_epi16(a.0, b.0)),
                        _mm256_add_epi32(acc.1, _mm256_madd_epi16(a.1, b.1)),
                    )
                }
                fn splat_4x16(p: *const i16) -> B2 {
                    B2(
                        _mm256_set_m128i(_mm_set1_epi16(*p.add(1)), _mm_set1_epi16(*p)),
                        _mm256_set_m128i(_mm_set1_epi16(*p.add(3)), _mm_set1_epi16(*p.add(2))),
                    )
                }
                fn splat_2x16(p: *const i16) -> B2 {
                    B2(_mm256_set1_epi16(*p), _mm256_set1_epi16(*p.add(1)))
                }
                fn join_f(lo: __m256, hi: __m256) -> F2 {
                    F2(lo, hi)
                }
                fn add32(a: B2, b: B2) -> B2 {
                    B2(_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1))
                }
                fn mul32(a: B2, b: B2) -> B2 {
                    B2(_mm256_mullo_epi32(a.0, b.0), _mm256_mullo_epi32(a.1, b.1))
                }
                fn splat32(p: *const u8) -> B2 {
                    let v = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
                    B2(v, v)
                }
                fn sums_of_halves(v: [B2; 8]) -> B2 {
                    B2(
                        sums_of_8([v[0].0, v[0].1, v[1].0, v[1].1, v[2].0, v[2].1, v[3].0, v[3].1]),
                        sums_of_8([v[4].0, v[4].1, v[5].0, v[5].1, v[6].0, v[6].1, v[7].0, v[7].1]),
                    )
                }
                fn sums_of_lanes(v: [B2; 4]) -> [i32; 4] {
                    Self::acc_sum4([
                        _mm256_add_epi32(v[0].0, v[0].1),
                        _mm256_add_epi32(v[1].0, v[1].1),
                        _mm256_add_epi32(v[2].0, v[2].1),
                        _mm256_add_epi32(v[3].0, v[3].1),
                    ])
                }
                fn acc_zero() -> __m256i {
                    _mm256_setzero_si256()
                }
                fn acc_sum4(t: [__m256i; 4]) -> [i32; 4] {
                    let s = by_fours([t[0], t[1], t[2], t[3]]);
                    let s = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256::<1>(s));
                    let mut out = [0; 4];
                    _mm_storeu_si128(out.as_mut_ptr().cast(), s);
                    out
                }

                fn tq1_load(p: *const u8) -> B2 {
                    Self::tq1_start(Self::load(p))
                }
                fn tq1_start(v: B2) -> B2 {
                    // Multiplying by 3 commutes with this change of sign (128 * 3 = 128 mod 256).
                    let sign = _mm256_set1_epi8(-128);
                    B2(_mm256_xor_si256(v.0, sign), _mm256_xor_si256(v.1, sign))
                }
                fn tq1_digit(q: &mut B2) -> B2 {
                    let t = B2(digit(q.0), digit(q.1));
                    *q = B2(triple(q.0), triple(q.1));
                    t
                }
                fn zero_r() -> __m256 {
                    _mm256_setzero_ps()
                }
                fn load_r(p: *const f32) -> __m256 {
                    _mm256_loadu_ps(p)
                }
                fn store_r(p: *mut f32, v: __m256) {
                    _mm256_storeu_ps(p, v);
                }
                fn splat_r(v: f32) -> __m256 {
                    _mm256_set1_ps(v)
                }
                fn fused_r(a: __m256, b: __m256, c: __m256) -> __m256 {
                    _mm256_fmadd_ps(a, b, c)
                }
                fn mul_r(a: __m256, b: __m256) -> __m256 {
                    _mm256_mul_ps(a, b)
                }
                fn add_r(a: __m256, b: __m256) -> __m256 {
                    _mm256_add_ps(a, b)
                }
                fn zero_f() -> F2 {
                    F2(_mm256_setzero_ps(), _mm256_setzero_ps())
                }
                fn load_f(p: *const f32) -> F2 {
                    F2(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8)))
                }
                fn store_f(p: *mut f32, v: F2) {
                    _mm256_storeu_ps(p, v.0);
                    _mm256_storeu_ps(p.add(8), v.1);
                }
                fn load_f16(p: *const u16) -> F2 {
                    F2(
                        _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
                        _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast())),
                    )
                }
                fn load_bf16(p: *const u16) -> F2 {
                    F2(bf16_8(p), bf16_8(p.add(8)))
                }
                fn splat_f(v: f32) -> F2 {
                    F2(_mm256_set1_ps(v), _mm256_set1_ps(v))
                }
                fn mul_f(a: F2, b: F2) -> F2 {
                    F2(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1))
                }
                fn add_f(a: F2, b: F2) -> F2 {
                    F2(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1))
                }
                fn fused_f(a: F2, b: F2, c: F2) -> F2 {
                    F2(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1))
                }
                fn to_f(v: B2) -> F2 {
                    F2(_mm256_cvtepi32_ps(v.0), _mm256_cvtepi32_ps(v.1))
                }
                fn tree4(v: [F2; 4]) -> [f32; 4] {
                    tree4_of_8([
                        _mm256_add_ps(v[0].0, v[0].1),
                        _mm256_add_ps(v[1].0, v[1].1),
                        _mm256_add_ps(v[2].0, v[2].1),
                        _mm256_add_ps(v[3].0, v[3].1),
                    ])
                }
                fn f16_to_f32(bits: u16) -> f32 {
                    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
                }
                fn widen_i8x16(src: *const u8, dst: *mut i16) {
                    _mm256_storeu_si256(dst.cast(), _mm256_cvtepi8_epi16(_mm_loadu_si128(src.cast())));
                }
                fn widen_u8x8(src: u64, dst: *mut i16) {
                    _mm_storeu_si128(dst.cast(), _mm_cvtepu8_epi16(_mm_cvtsi64_si128(src as i64)));
                }
                fn prefetch(p: *const u8) {
                    _mm_prefetch::<_MM_HINT_T1>(p.cast());
                }
                fn srl16<const N: u32>(v: B2) -> B2 {
                    // The intrinsic's immediate cannot be computed from N; the shift by register can.
                    let n = _mm_cvtsi32_si128(N as i32);
                    B2(_mm256_srl_epi16(v.0, n), _mm256_srl_epi16(v.1, n))
                }
                fn sll32<const N: u32>(v: B2) -> B2 {
                    let n = _mm_cvtsi32_si128(N as i32);
                    B2(_mm256_sll_epi32(v.0, n), _mm256_sll_epi32(v.1, n))
                }
                fn sll16<const N: u32>(v: B2) -> B2 {
                    let n = _mm_cvtsi32_si128(N as i32);
                    B2(_mm256_sll_epi16(v.0, n), _mm256_sll_epi16(v.1, n))
                }
            }
        }
    };
}

avx2_level! { Avx2;
    // Two additions of at most 2 * 3 * 127 each time: 20 * 2 * 762 = 30480 fits an i16.
    RUN = 20,
    TQ1_RUN = Self::RUN,

    fn dot4_weights(w: B2) -> B2 {
        w
    }
    fn dot4(w: B2, x: B2, _nsum: B2) -> B2 {
        B2(dot4_signs(w.0, x.0), dot4_signs(w.1, x.1))
    }
    fn dot4_start(_nsum: B2) -> B2 {
        Self::zero()
    }
    fn dot4_add(acc: B2, w: B2, x: B2) -> B2 {
        Self::add32(acc, Self::dot4(w, x, x))
    }
    fn dot4_codes(acc: B2, codes: B2, x: B2) -> B2 {
        let ones = _mm256_set1_epi16(1);
        Self::madd_acc(acc, Self::maddubs(codes, x), B2(ones, ones))
    }
    fn acc_dot(acc: __m256i, codes: B2, x: B2) -> __m256i {
        let p = Self::maddubs(codes, x);
        _mm256_add_epi16(_mm256_add_epi16(acc, p.0), p.1)
    }
    fn acc_flush(total: __m256i, acc: __m256i) -> __m256i {
        _mm256_add_epi32(total, _mm256_madd_epi16(acc, _mm256_set1_epi16(1)))
    }
    fn tq1_dot(acc: &mut Tq1Acc<__m256i>, block: *const u8, x: *const u8) {
        let mut q = Self::tq1_load(block);
        for n in 0..5 {
            let digit = Self::tq1_digit(&mut q);
            acc.0[n] = Self::acc_dot(acc.0[n], digit, Self::load(x.add(64 * n)));
        }
    }
    fn tq1_flush(total: __m256i, acc: Tq1Acc<__m256i>) -> __m256i {
        let mut total = total;
        for n in 0..5 {
            total = Self::acc_flush(total, acc.0[n]);
        }
        total
    }
}

avx2_level! { AvxVnni<D>, D: Dpbusd;
    // i32 from the start.
    RUN = usize::MAX,
    // As of AVX-512 VNNI, with two blocks' halves in a lane.
    TQ1_RUN = 512,

    fn dot4_weights(w: B2) -> B2 {
        let bias = _mm256_set1_epi8(-128);
        B2(_mm256_xor_si256(w.0, bias), _mm256_xor_si256(w.1, bias))
    }
    fn dot4(w: B2, x: B2, nsum: B2) -> B2 {
        B2(D::dpbusd(nsum.0, w.0, x.0), D::dpbusd(nsum.1, w.1, x.1))
    }
    fn dot4_start(nsum: B2) -> B2 {
        nsum
    }
    fn dot4_add(acc: B2, w: B2, x: B2) -> B2 {
        B2(D::dpbusd(acc.0, w.0, x.0), D::dpbusd(acc.1, w.1, x.1))
    }
    fn dot4_codes(acc: B2, codes: B2, x: B2) -> B2 {
        Self::dot4_add(acc, codes, x)
    }
    fn acc_dot(acc: __m256i, codes: B2, x: B2) -> __m256i {
        D::dpbusd(D::dpbusd(acc, codes.0, x.0), codes.1, x.1)
    }
    fn acc_flush(total: __m256i, acc: __m256i) -> __m256i {
        _mm256_add_epi32(total, acc)
    }
    // As of AVX-512 VNNI: 256 times the sum, without taking out a trit.
    fn tq1_dot(acc: &mut Tq1Acc<__m256i>, block: *const u8, x: *const u8) {
        let mut q = Self::load(block);
        for n in 0..5 {
            let x = Self::load(x.add(64 * n));
            acc.0[n % 3] = Self::acc_dot(acc.0[n % 3], q, x);
            q = B2(triple(q.0), triple(q.1));
            acc.0[3 + n % 3] = Self::acc_dot(acc.0[3 + n % 3], q, x);
        }
    }
    fn tq1_flush(total: __m256i, acc: Tq1Acc<__m256i>) -> __m256i {
        let a = _mm256_add_epi32(_mm256_add_epi32(acc.0[0], acc.0[1]), acc.0[2]);
        let b = _mm256_add_epi32(_mm256_add_epi32(acc.0[3], acc.0[4]), acc.0[5]);
        let a3 = _mm256_add_epi32(_mm256_add_epi32(a, a), a);
        _mm256_add_epi32(total, _mm256_srai_epi32::<8>(_mm256_sub_epi32(a3, b)))
    }
}

/// The rest of `tree` for four values, from 8 lanes each.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn tree4_of_8(v: [__m256; 4]) -> [f32; 4] {
    // SAFETY: the caller promises AVX.
    unsafe {
        let [a, b, c, d] = [half(v[0]), half(v[1]), half(v[2]), half(v[3])];
        let ab_lo = _mm_unpacklo_ps(a, b); // a0 b0 a1 b1
        let ab_hi = _mm_unpackhi_ps(a, b); // a2 b2 a3 b3
        let cd_lo = _mm_unpacklo_ps(c, d);
        let cd_hi = _mm_unpackhi_ps(c, d);
        let ab = _mm_add_ps(ab_lo, ab_hi); // a0+a2 b0+b2 a1+a3 b1+b3
        let cd = _mm_add_ps(cd_lo, cd_hi);
        let s = _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
        let mut out = [0.0; 4];
        _mm_storeu_ps(out.as_mut_ptr(), s);
        out
    }
}

/// In each 128-bit lane the sums of the four values' own.
#[inline(always)]
unsafe fn by_fours(v: [__m256i; 4]) -> __m256i {
    // SAFETY: the caller promises AVX2.
    unsafe { _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3])) }
}

/// The sums of eight values.
#[inline(always)]
unsafe fn sums_of_8(v: [__m256i; 8]) -> __m256i {
    // SAFETY: the caller promises AVX2.
    unsafe {
        let (a, b) = (by_fours([v[0], v[1], v[2], v[3]]), by_fours([v[4], v[5], v[6], v[7]]));
        _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
    }
}

#[inline(always)]
unsafe fn half(v: __m256) -> __m128 {
    // SAFETY: the caller promises AVX.
    unsafe { _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v)) }
}

/// i8 x i8, four neighbours added. `|w|` as u8 times x with w's sign; 2 * 128 * 127 fits an i16.
#[inline(always)]
unsafe fn dot4_signs(w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: the caller promises AVX2.
    unsafe {
        let p = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
        _mm256_madd_epi16(p, _mm256_set1_epi16(1))
    }
}

/// `(q > 85) + (q > 170)` for q - 128 (thresholds -43 and 42), which is `(q * 3) >> 8`.
#[inline(always)]
unsafe fn digit(s: __m256i) -> __m256i {
    // SAFETY: the caller promises AVX2.
    unsafe {
        let over_1 = _mm256_cmpgt_epi8(s, _mm256_set1_epi8(-43));
        let over_2 = _mm256_cmpgt_epi8(s, _mm256_set1_epi8(42));
        _mm256_abs_epi8(_mm256_add_epi8(over_1, over_2))
    }
}

/// `3 v` in bytes. Not with intrinsics: a chain of them becomes multiplications by 9, 27, 81 and 243, which bytes do not
/// have and which take twice as long.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn triple(v: __m256i) -> __m256i {
    let out;
    // SAFETY: the caller promises AVX2; nothing but `out` is written.
    unsafe {
        asm!(
            "vpaddb {out}, {v}, {v}",
            "vpaddb {out}, {out}, {v}",
            v = in(ymm_reg) v,
            out = out(ymm_reg) out,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}

#[inline(always)]
unsafe fn bf16_8(p: *const u16) -> __m256 {
    // SAFETY: the caller promises AVX2 and 8 values.
    unsafe {
        let v = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(v))
    }
}
