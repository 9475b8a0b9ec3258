//! The vector operations that the kernels are written in, and how a kernel is compiled for each level.

use std::arch::x86_64::__m256;

use super::Job;
use crate::simd::SimdLevel;

/// Operations on 64 bytes and on 16 lanes. A level with narrower registers uses several for one value.
///
/// The lanes of all types follow memory: byte `i` belongs to 32-bit lane `i / 4`.
///
/// # Safety
/// All methods: the CPU has the features of the level; pointers are valid for the bytes named (no alignment needed).
pub(crate) trait Simd {
    /// 64 bytes: 64 x 8, 32 x 16 or 16 x 32 bit integers.
    type B: Copy;
    /// 16 lanes of f32.
    type F: Copy;
    /// One register of [`Simd::REG`] f32.
    type R: Copy;
    /// Running sums of [`Simd::acc_dot`], in lanes whose order means nothing.
    type Acc: Copy;

    /// How many times `acc_dot` may add codes 0..=3 to an accumulator before [`Simd::acc_flush`].
    const RUN: usize;
    /// There are 32 registers of 64 bytes.
    const WIDE: bool;
    /// Lanes of [`Simd::R`].
    const REG: usize;

    unsafe fn load(p: *const u8) -> Self::B;
    unsafe fn store(p: *mut u8, v: Self::B);
    /// Stores bytes 0..32 and 32..64 in two places.
    unsafe fn store_halves(lo: *mut u8, hi: *mut u8, v: Self::B);
    /// 32 bytes, twice.
    unsafe fn load_twice(p: *const u8) -> Self::B;
    /// Two groups of 32 bytes.
    unsafe fn load_two(lo: *const u8, hi: *const u8) -> Self::B;
    /// 32 bytes: their low nibbles, then their high nibbles (a sub-block pair of Q4_K).
    unsafe fn load_nibbles_32(p: *const u8) -> Self::B;
    /// Two times 16 bytes: low nibbles, high nibbles of the first, then of the second (two blocks of Q4_0).
    unsafe fn load_nibbles_16x2(lo: *const u8, hi: *const u8) -> Self::B;
    /// The bytes of `table` that codes (0..16) stand for.
    unsafe fn lookup(table: &[i8; 16], codes: Self::B) -> Self::B;
    /// From 32 bytes of `qh`: bits 4 and 5 of the codes of the two 64-element chunks of half a Q6_K block.
    unsafe fn q6_k_high(p: *const u8) -> (Self::B, Self::B);
    unsafe fn zero() -> Self::B;
    unsafe fn splat8(v: u8) -> Self::B;
    unsafe fn and(a: Self::B, b: Self::B) -> Self::B;
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B;
    unsafe fn sub8(a: Self::B, b: Self::B) -> Self::B;
    unsafe fn sub16(a: Self::B, b: Self::B) -> Self::B;
    unsafe fn add32(a: Self::B, b: Self::B) -> Self::B;
    unsafe fn mul32(a: Self::B, b: Self::B) -> Self::B;
    /// Four bytes at `p`, in every 32-bit lane.
    unsafe fn splat32(p: *const u8) -> Self::B;
    /// Shifts 16-bit lanes right.
    unsafe fn srl16<const N: u32>(v: Self::B) -> Self::B;
    /// Shifts 32-bit lanes left.
    unsafe fn sll32<const N: u32>(v: Self::B) -> Self::B;
    /// Shifts 16-bit lanes left.
    unsafe fn sll16<const N: u32>(v: Self::B) -> Self::B;
    /// u8 x i8, neighbours added, i16 (saturating: the caller keeps the sums small).
    unsafe fn maddubs(a: Self::B, b: Self::B) -> Self::B;
    /// `acc + a x b`: i16 x i16, neighbours added, i32.
    unsafe fn madd_acc(acc: Self::B, a: Self::B, b: Self::B) -> Self::B;
    /// Four i16 at `p`, each in 8 neighbouring 16-bit lanes.
    unsafe fn splat_4x16(p: *const i16) -> Self::B;
    /// Two i16 at `p`, each in 16 neighbouring 16-bit lanes.
    unsafe fn splat_2x16(p: *const i16) -> Self::B;
    /// Lanes 0..8 and 8..16.
    unsafe fn join_f(lo: __m256, hi: __m256) -> Self::F;

    /// Brings i8 weights into the form that [`Simd::dot4`] wants.
    unsafe fn dot4_weights(w: Self::B) -> Self::B;
    /// i8 x i8 with four neighbours added, exact. x is in -127..=127; `nsum` is -128 times the sums of four of x.
    unsafe fn dot4(w: Self::B, x: Self::B, nsum: Self::B) -> Self::B;
    /// What sums of [`Simd::dot4_add`] begin with, whose x have `nsum`, -128 times their sum.
    unsafe fn dot4_start(nsum: Self::B) -> Self::B;
    /// As `dot4`, added to `acc`.
    unsafe fn dot4_add(acc: Self::B, w: Self::B, x: Self::B) -> Self::B;
    /// `acc` plus codes (0..=63) x i8 with four neighbours added, exact.
    unsafe fn dot4_codes(acc: Self::B, codes: Self::B, x: Self::B) -> Self::B;
    /// The sums of the halves of eight values, in order.
    unsafe fn sums_of_halves(v: [Self::B; 8]) -> Self::B;
    /// The sums of the lanes of four values.
    unsafe fn sums_of_lanes(v: [Self::B; 4]) -> [i32; 4];

    unsafe fn acc_zero() -> Self::Acc;
    /// Adds codes (0..=3) times x (-127..=127).
    unsafe fn acc_dot(acc: Self::Acc, codes: Self::B, x: Self::B) -> Self::Acc;
    /// Moves what `acc_dot` summed to the i32 lanes of `total`.
    unsafe fn acc_flush(total: Self::Acc, acc: Self::Acc) -> Self::Acc;
    /// The sums of the i32 lanes of four totals.
    unsafe fn acc_sum4(t: [Self::Acc; 4]) -> [i32; 4];

    /// 64 bytes, of which 0..52 are the digits of a TQ1_0 block, in the form that [`Simd::tq1_digit`] wants.
    unsafe fn tq1_load(p: *const u8) -> Self::B;
    /// The same for bytes that are loaded already.
    unsafe fn tq1_start(v: Self::B) -> Self::B;
    /// The leading trits 0..=2; `q` moves on to the next ones.
    unsafe fn tq1_digit(q: &mut Self::B) -> Self::B;
    /// Adds the 256 products of a TQ1_0 block (64 bytes are read) to `acc`; x is in planes of 64: 52, then zeros.
    unsafe fn tq1_dot(acc: &mut Tq1Acc<Self::Acc>, block: *const u8, x: *const u8);
    /// Blocks that `tq1_dot` may add before [`Simd::tq1_flush`].
    const TQ1_RUN: usize;
    /// The i32 total plus what `tq1_dot` summed.
    unsafe fn tq1_flush(total: Self::Acc, acc: Tq1Acc<Self::Acc>) -> Self::Acc;

    unsafe fn zero_r() -> Self::R;
    unsafe fn load_r(p: *const f32) -> Self::R;
    unsafe fn store_r(p: *mut f32, v: Self::R);
    unsafe fn splat_r(v: f32) -> Self::R;
    unsafe fn mul_r(a: Self::R, b: Self::R) -> Self::R;
    unsafe fn add_r(a: Self::R, b: Self::R) -> Self::R;
    /// `a * b + c`, rounded once: for products that are exact.
    unsafe fn fused_r(a: Self::R, b: Self::R, c: Self::R) -> Self::R;

    unsafe fn zero_f() -> Self::F;
    unsafe fn load_f(p: *const f32) -> Self::F;
    unsafe fn store_f(p: *mut f32, v: Self::F);
    unsafe fn load_f16(p: *const u16) -> Self::F;
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    unsafe fn splat_f(v: f32) -> Self::F;
    unsafe fn mul_f(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn add_f(a: Self::F, b: Self::F) -> Self::F;
    /// As [`fused_r`](Self::fused_r).
    unsafe fn fused_f(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// i32 lanes to f32.
    unsafe fn to_f(v: Self::B) -> Self::F;
    /// `tree` of `docs/numerics.md` over the 16 lanes of four values.
    unsafe fn tree4(v: [Self::F; 4]) -> [f32; 4];
    unsafe fn f16_to_f32(bits: u16) -> f32;
    /// Widens 16 i8 to i16.
    unsafe fn widen_i8x16(src: *const u8, dst: *mut i16);
    /// Widens 8 u8 to i16.
    unsafe fn widen_u8x8(src: u64, dst: *mut i16);
    /// Fetches a line to the L2 cache.
    unsafe fn prefetch(p: *const u8);

    /// [`Simd::acc_sum4`] of a tile of R rows (2 or 4) and T tokens: the sums of each token.
    #[inline(always)]
    unsafe fn sums<const R: usize, const T: usize>(v: &[[Self::Acc; 4]; R]) -> [[i32; 4]; T] {
        let mut out = [[0; 4]; T];
        let mut t = 0;
        while t < T {
            // Four at a time: four rows of a token, or two rows of two tokens.
            let (third, second) = if R == 4 { (2, t) } else { (0, (t + 1).min(T - 1)) };
            // SAFETY: the caller's promise.
            let sums = unsafe { Self::acc_sum4([v[0][t], v[1][t], v[third][second], v[(third + 1) % R][second]]) };
            if R == 4 {
                out[t] = sums;
                t += 1;
            } else {
                (out[t][0], out[t][1]) = (sums[0], sums[1]);
                (out[second][0], out[second][1]) = (sums[2], sums[3]);
                t += 2;
            }
        }
        out
    }
}

/// Accumulators of a TQ1_0 row.
#[derive(Clone, Copy)]
pub(crate) struct Tq1Acc<A>(pub [A; 6]);

/// A kernel, written once and compiled for each level.
pub(super) trait Kernel {
    /// # Safety
    /// The CPU has the features of `S`; the pointers of `job` are valid as [`super::mul_mat`] asks.
    unsafe fn run<S: Simd>(&self, job: &Job);
}

/// Runs a kernel at a level other than `Scalar`.
///
/// # Safety
/// The level is supported; the pointers of `job` are valid as [`super::mul_mat`] asks.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn run<K: Kernel>(level: SimdLevel, kernel: &K, job: &Job) {
    use super::vector_avx2::{self, Avx2, AvxVnni};
    use super::vector_avx512::{Avx512, Avx512Vnni};

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<K: Kernel>(kernel: &K, job: &Job) {
        // SAFETY: the features are enabled; the rest is the caller's promise.
        unsafe { kernel.run::<Avx2>(job) }
    }
    #[cfg_attr(test, expect(dead_code, reason = "unit tests emulate the instruction"))]
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    unsafe fn avx_vnni<K: Kernel>(kernel: &K, job: &Job) {
        // SAFETY: the features are enabled; the rest is the caller's promise.
        unsafe { kernel.run::<AvxVnni<vector_avx2::Instruction>>(job) }
    }
    #[cfg(test)]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx_vnni_emulated<K: Kernel>(kernel: &K, job: &Job) {
        // SAFETY: the features are enabled; the rest is the caller's promise.
        unsafe { kernel.run::<AvxVnni<super::emulated::Dpbusd>>(job) }
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn avx512<K: Kernel>(kernel: &K, job: &Job) {
        // SAFETY: the features are enabled; the rest is the caller's promise.
        unsafe { kernel.run::<Avx512>(job) }
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn avx512_vnni<K: Kernel>(kernel: &K, job: &Job) {
        // SAFETY: the features are enabled; the rest is the caller's promise.
        unsafe { kernel.run::<Avx512Vnni>(job) }
    }
    // SAFETY: the caller promises that the level is supported.
    unsafe {
        match level {
            SimdLevel::Scalar => unreachable!("plain loops have no vector kernel"),
            SimdLevel::Avx2 => avx2(kernel, job),
            #[cfg(not(test))]
            SimdLevel::AvxVnni => avx_vnni(kernel, job),
            #[cfg(test)]
            SimdLevel::AvxVnni => avx_vnni_emulated(kernel, job),
            SimdLevel::Avx512 => avx512(kernel, job),
            SimdLevel::Avx512Vnni | SimdLevel::Amx => avx512_vnni(kernel, job),
        }
    }
}
