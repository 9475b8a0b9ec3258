//! Many tokens: 64 rows at a time are unpacked to four weights of each row side by side, and multiplied, 16 rows at a time.
//!
//! The tokens' int8 are in the order in which weights come out of eight groups of three: of each four groups the first weights,
//! the second, the third; zeros follow the last one.

use std::arch::x86_64::*;

use super::super::super::Job;
use super::super::super::act::I8Tail;
use super::super::super::fetch::Ahead;
use super::super::super::vector_avx2::{Avx2, Dpbusd};
use super::super::{QUAD, ROWS, digit};
use super::{GROUP, LANES, STEP, UNIT, UNITS};

/// Most tokens of a tile of results.
const MAX_TILE: usize = 4;
/// Rows of a tile: two registers of four weights of each.
const TILE_ROWS: usize = 16;

/// Values of a token, with the zeros behind them; a multiple of 64.
pub(in super::super) fn padded(k: usize) -> usize {
    k.next_multiple_of(STEP).next_multiple_of(64)
}

/// Brings int8 to the order of the product.
pub(in super::super) fn reorder(values: &mut [i8]) {
    for four_groups in values.as_chunks_mut::<{ STEP / 2 }>().0 {
        let from = *four_groups;
        for (i, to) in four_groups.iter_mut().enumerate() {
            *to = from[GROUP * (i % 4) + i / 4];
        }
    }
}

/// Sums of products of codes 0..=2 and int8: four neighbours of each row.
pub(in super::super) trait Sums {
    /// Quads that may be added before [`Sums::widen`].
    const RUN: usize;
    /// # Safety
    /// The processor has the instructions.
    unsafe fn add(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i;
    /// As i32.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn widen(sums: __m256i) -> __m256i;
}

/// With AVX2: 2 * 2 * 127 in 16 bits.
pub(in super::super) struct Pairs;

impl Sums for Pairs {
    const RUN: usize = 64;

    #[inline(always)]
    unsafe fn add(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, x)) }
    }

    #[inline(always)]
    unsafe fn widen(sums: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_madd_epi16(sums, _mm256_set1_epi16(1)) }
    }
}

impl<D: Dpbusd> Sums for D {
    const RUN: usize = usize::MAX;

    #[inline(always)]
    unsafe fn add(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { D::dpbusd(sums, codes, x) }
    }

    #[inline(always)]
    unsafe fn widen(sums: __m256i) -> __m256i {
        sums
    }
}

/// # Safety
/// As [`super::super::mul_mat`]; `r0` is the first row of a block, and the processor has the instructions of `S`.
#[inline(always)]
pub(in super::super) unsafe fn mul_mat<S: Sums>(d: f32, job: &Job) {
    let mut ahead = Ahead::new(job);
    for r in (job.r0..job.r1).step_by(ROWS) {
        // SAFETY: 64 rows begin at r; the scratch memory has room for them; tokens are below n.
        unsafe {
            unpack(job.row(r), job.k.div_ceil(STEP), job.scratch, &mut ahead);
            for part in 0..ROWS / TILE_ROWS {
                let w = job.scratch.add(4 * TILE_ROWS * part);
                let r = r + TILE_ROWS * part;
                let mut t = 0;
                while t < job.n {
                    t += match MAX_TILE.min(job.n - t) {
                        1 => tile::<S, 1>(d, job, w, r, t),
                        2 => tile::<S, 2>(d, job, w, r, t),
                        3 => tile::<S, 3>(d, job, w, r, t),
                        _ => tile::<S, MAX_TILE>(d, job, w, r, t),
                    };
                }
            }
        }
    }
}

/// 16 rows times T tokens; returns T.
#[inline(always)]
unsafe fn tile<S: Sums, const T: usize>(d: f32, job: &Job, w: *const u8, r: usize, t: usize) -> usize {
    // SAFETY: the caller's promises.
    unsafe {
        let zero = _mm256_setzero_si256();
        let mut totals = [[zero; 2]; T];
        let mut x = [std::ptr::null(); T];
        for (i, x) in x.iter_mut().enumerate() {
            *x = job.token(t + i);
        }
        let quads = job.k.next_multiple_of(STEP) / 4;
        let mut q = 0;
        while q < quads {
            let end = quads.min(q.saturating_add(S::RUN));
            let mut sums = [[zero; 2]; T];
            while q < end {
                let w = w.add(q * QUAD);
                let w = [_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(32).cast())];
                for i in 0..T {
                    let x = _mm256_set1_epi32(x[i].add(4 * q).cast::<i32>().read());
                    sums[i][0] = S::add(sums[i][0], w[0], x);
                    sums[i][1] = S::add(sums[i][1], w[1], x);
                }
                q += 1;
            }
            for i in 0..T {
                totals[i][0] = _mm256_add_epi32(totals[i][0], S::widen(sums[i][0]));
                totals[i][1] = _mm256_add_epi32(totals[i][1], S::widen(sums[i][1]));
            }
        }
        for i in 0..T {
            let tail = &*x[i].add(padded(job.k)).cast::<I8Tail>();
            let scale = _mm256_set1_ps(d * tail.scale);
            for (j, &total) in totals[i].iter().enumerate() {
                let sum = _mm256_sub_epi32(total, _mm256_set1_epi32(tail.sum));
                let y = job.y.add((t + i) * job.y_stride + r + 8 * j);
                _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale));
            }
        }
    }
    T
}

/// By magnitude: the three digits, plus 1, in two bits each.
const DIGITS: [u8; 16] = {
    let mut digits = [0; 16];
    let mut m = 0;
    while m < 16 {
        let mut i = 0;
        while i < GROUP {
            digits[m] |= ((digit(m as i32, i) + 1) as u8) << (2 * i);
            i += 1;
        }
        m += 1;
    }
    digits
};

/// Weights plus 1, 0..=2: for each four of a row, 256 bytes, those of row i at 4 i.
#[inline(always)]
unsafe fn unpack(mut codes: *const u8, steps: usize, mut to: *mut u8, ahead: &mut Ahead) {
    // SAFETY: the caller has `steps` units of 64 rows, and six quads of room for each.
    unsafe {
        let digits = _mm256_broadcastsi128_si256(_mm_loadu_si128(DIGITS.as_ptr().cast()));
        let (three, fifteen, twos) = (_mm256_set1_epi8(3), _mm256_set1_epi8(15), _mm256_set1_epi8(0x2a));
        for _ in 0..steps {
            ahead.of::<Avx2>(codes.add(UNITS));
            for v in 0..ROWS / LANES {
                let codes = codes.add(UNIT * v);
                let to = to.add(4 * LANES * v);
                let mut signs = _mm256_loadu_si256(codes.add(4 * LANES).cast());
                for half in 0..2 {
                    let mut groups = [three; 4];
                    for (g, group) in groups.iter_mut().enumerate() {
                        let both = _mm256_loadu_si256(codes.add(LANES * (2 * half + g / 2)).cast());
                        let shifted = if g % 2 == 0 { both } else { _mm256_srli_epi16::<4>(both) };
                        let plus = _mm256_shuffle_epi8(digits, _mm256_and_si256(shifted, fifteen));
                        // Both signs' digits, plus 1, add up to 2.
                        *group = _mm256_blendv_epi8(plus, _mm256_sub_epi8(twos, plus), signs);
                        signs = _mm256_add_epi8(signs, signs);
                    }
                    for n in 0..GROUP {
                        let to = to.add(QUAD * (GROUP * half + n));
                        let mut digits = [three; 4];
                        for g in 0..4 {
                            digits[g] = _mm256_and_si256(groups[g], three);
                            groups[g] = _mm256_srli_epi16::<2>(groups[g]);
                        }
                        interleave(digits, to);
                    }
                }
            }
            codes = codes.add(UNITS);
            to = to.add(2 * GROUP * QUAD);
        }
    }
}

/// Bytes of four vectors side by side.
#[inline(always)]
unsafe fn interleave([a, b, c, d]: [__m256i; 4], to: *mut u8) {
    // SAFETY: the caller has AVX2, and 128 bytes of room.
    unsafe {
        let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
        let (ab2, cd2) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
        let all = [
            _mm256_unpacklo_epi16(ab, cd),
            _mm256_unpackhi_epi16(ab, cd),
            _mm256_unpacklo_epi16(ab2, cd2),
            _mm256_unpackhi_epi16(ab2, cd2),
        ];
        for (i, &v) in all.iter().enumerate() {
            _mm256_storeu_si256(to.add(LANES * i).cast(), v);
        }
    }
}
