//! Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4 and IQ4_XS: two blocks (or sub-blocks) of 32 at a time, a lane for each four
//! products.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use ggml_ops::quants::{KVALUES_IQ4_NL, KVALUES_MXFP4, e8m0_to_f32_half};
use gguf::GgmlType;

use super::act::Q8Pair;
use super::fetch::Ahead;
use super::panel::{MAX_TILE, Panels, Rows};
use super::unpack::{Halves, fifth_bits};
use super::vector::{self, Kernel, Simd};
use super::{Job, QK};

/// Blocks whose scales are made together.
const GROUP: usize = 8;

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
        let mut v = [0i16; GROUP];
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
            let mut d = [0.0; GROUP];
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

/// Bytes of an unpacked pair: 64 weights, then the 16 scales of the lanes, then their minima.
const fn unpacked_pair(mins: bool) -> usize {
    if mins { 192 } else { 128 }
}

pub(super) fn unpacked_size<W: Block32>(k: usize) -> usize {
    k.div_ceil(64) * unpacked_pair(W::MINS)
}

pub(super) unsafe fn mul_mat<W: Block32>(job: &Job) {
    // SAFETY: the caller's promises.
    unsafe {
        if job.n == 1 {
            vector::run(job.level, &Token::<W>(PhantomData), job);
        } else {
            vector::run(job.level, &Panels(&Pairs::<W>(PhantomData)), job);
        }
    }
}

/// -1/128 of the minima: activations come with -128 times their sums. Both are powers of two: nothing is rounded by them.
const MIN_FACTOR: f32 = -1.0 / 128.0;

/// Blocks `b` and `b + 1` of a row, in the form for [`Simd::dot4`]. Where the second does not exist it is anything: its
/// activations and its scale are 0.
#[inline(always)]
unsafe fn weights<S: Simd, W: Block32>(row: *const u8, b: usize, blocks: usize) -> S::B {
    let (lo, hi) = (W::at(row, b), W::at(row, (b + 1).min(blocks - 1)));
    // SAFETY: the caller has b < blocks.
    unsafe { S::dot4_weights(W::weights::<S>(lo, hi)) }
}

/// `lanes + f32(isum) * d`, then `+ f32(sum) * m` if there are minima.
#[inline(always)]
unsafe fn add<S: Simd, W: Block32>(lanes: S::F, w: S::B, d: S::F, m: S::F, q: S::B, nsum: S::B) -> S::F {
    // SAFETY: the caller's promises.
    unsafe {
        let lanes = S::add_f(lanes, S::mul_f(S::to_f(S::dot4(w, q, nsum)), d));
        if W::MINS { S::add_f(lanes, S::mul_f(S::to_f(nsum), m)) } else { lanes }
    }
}

/// One token.
struct Token<W>(PhantomData<W>);

impl<W: Block32> Kernel for Token<W> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, job: &Job) {
        let blocks = job.k / QK;
        let whole = blocks / GROUP * GROUP;
        let mut ahead = Ahead::new(job);
        let x = job.act.cast::<Q8Pair>();
        // SAFETY: the scratch memory has room for a panel, which is more; rows below r1 have `blocks` blocks, the token a pair for
        // each two.
        unsafe {
            let dx = std::slice::from_raw_parts_mut(job.scratch.cast::<f32>(), blocks.next_multiple_of(GROUP));
            for (b, dx) in dx.iter_mut().enumerate() {
                *dx = if b < blocks { (&(*x.add(b / 2)).d)[b % 2 * 8] } else { 0.0 };
            }
            let mut r = job.r0;
            while r < job.r1 {
                let count = 4.min(job.r1 - r);
                let mut lanes = [S::zero_f(); 4];
                for (i, lanes) in lanes[..count].iter_mut().enumerate() {
                    let row = job.row(r + i);
                    let mut sum = *lanes;
                    for g in (0..whole).step_by(GROUP) {
                        sum = group::<S, W>(sum, row, g, GROUP, x, &dx[g..], &mut ahead);
                    }
                    if whole < blocks {
                        sum = group::<S, W>(sum, row, whole, blocks - whole, x, &dx[whole..], &mut ahead);
                    }
                    *lanes = sum;
                }
                let sums = S::tree4(lanes);
                for (i, &sum) in sums[..count].iter().enumerate() {
                    job.set(0, r + i, sum);
                }
                r += count;
            }
        }
    }
}

/// Adds the products of `count` blocks of a row, from `g` on.
#[inline(always)]
unsafe fn group<S: Simd, W: Block32>(
    mut lanes: S::F,
    row: *const u8,
    g: usize,
    count: usize,
    x: *const Q8Pair,
    dx: &[f32],
    ahead: &mut Ahead,
) -> S::F {
    // SAFETY: the caller has the blocks.
    unsafe {
        let dx = _mm256_loadu_ps(dx[..GROUP].as_ptr());
        let (d, m) = W::scales(row, g, count);
        let (mut ds, mut ms) = ([0.0; GROUP], [0.0; GROUP]);
        _mm256_storeu_ps(ds.as_mut_ptr(), _mm256_mul_ps(d, dx));
        if W::MINS {
            let m = _mm256_mul_ps(m, _mm256_set1_ps(MIN_FACTOR));
            _mm256_storeu_ps(ms.as_mut_ptr(), _mm256_mul_ps(m, dx));
        }
        ahead.of::<S>(W::at(row, g));
        for b in (0..count).step_by(2) {
            let w = weights::<S, W>(row, g + b, g + count);
            let x = &*x.add((g + b) / 2);
            let (q, nsum) = (S::load(x.q.as_ptr().cast()), S::load(x.nsum.as_ptr().cast()));
            let d = S::splat_2f(ds.as_ptr().add(b));
            let m = if W::MINS { S::splat_2f(ms.as_ptr().add(b)) } else { d };
            lanes = add::<S, W>(lanes, w, d, m, q, nsum);
        }
        lanes
    }
}

/// Unpacked pairs.
struct Pairs<W>(PhantomData<W>);

impl<W: Block32> Rows for Pairs<W> {
    const LANES: bool = true;

    fn unpacked_size(&self, k: usize) -> usize {
        unpacked_size::<W>(k)
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(&self, k: usize, src: *const u8, dst: *mut u8, ahead: &mut Ahead) {
        let blocks = k / QK;
        // SAFETY: `src` has `blocks` blocks, `dst` as many pairs as they make.
        unsafe {
            for g in (0..blocks).step_by(GROUP) {
                let here = GROUP.min(blocks - g);
                let (d, m) = W::scales(src, g, here);
                let (mut ds, mut ms) = ([0.0; GROUP], [0.0; GROUP]);
                _mm256_storeu_ps(ds.as_mut_ptr(), d);
                _mm256_storeu_ps(ms.as_mut_ptr(), _mm256_mul_ps(m, _mm256_set1_ps(MIN_FACTOR)));
                for b in (0..here).step_by(2) {
                    ahead.of::<S>(W::at(src, g + b));
                    let dst = dst.add(unpacked_pair(W::MINS) * (g + b) / 2);
                    S::store(dst, weights::<S, W>(src, g + b, blocks));
                    S::store_f(dst.add(64).cast(), S::splat_2f(ds.as_ptr().add(b)));
                    if W::MINS {
                        S::store_f(dst.add(128).cast(), S::splat_2f(ms.as_ptr().add(b)));
                    }
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
                let (mut ws, mut ds, mut ms) = ([S::zero(); R], [S::zero_f(); R], [S::zero_f(); R]);
                for r in 0..R {
                    let at = w[r].add(unpacked_pair(W::MINS) * p);
                    ws[r] = S::load(at);
                    ds[r] = S::load_f(at.add(64).cast());
                    if W::MINS {
                        ms[r] = S::load_f(at.add(128).cast());
                    }
                }
                for t in 0..T {
                    let x = &*x[t].cast::<Q8Pair>().add(p);
                    let (q, nsum) = (S::load(x.q.as_ptr().cast()), S::load(x.nsum.as_ptr().cast()));
                    let dx = S::load_f(x.d.as_ptr());
                    for r in 0..R {
                        let (d, m) = (S::mul_f(ds[r], dx), if W::MINS { S::mul_f(ms[r], dx) } else { dx });
                        lanes[r][t] = add::<S, W>(lanes[r][t], ws[r], d, m, q, nsum);
                    }
                }
            }
            S::trees::<R, T>(&lanes)
        }
    }
}
