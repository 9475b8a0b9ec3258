//! Many tokens: 64 rows at a time are unpacked to four weights of each row side by side, and multiplied by 16 rows.
//!
//! The tokens' int8 are in the order in which weights come out of four groups of five: the first four of each, then the
//! fifths of all; zeros follow the last one.

use std::arch::x86_64::*;

use super::super::super::Job;
use super::super::super::act::I8Tail;
use super::super::super::fetch::Ahead;
use super::super::super::vector_avx512::Avx512Vnni;
use super::super::{QUAD, ROWS, digit};
use super::{GROUP, groups};
use crate::amx::LINES;

/// Weights of a row that are unpacked together: four groups.
const STEP: usize = 4 * GROUP;
/// Most tokens of a tile of results: 24 registers of sums, 4 of weights, 1 of a token's values.
const MAX_TILE: usize = 6;

/// Values of a token, with the zeros behind them; a multiple of 64.
pub(in super::super::super) fn padded(k: usize) -> usize {
    k.next_multiple_of(STEP).next_multiple_of(64)
}

/// Brings int8 to the order of the product.
pub(in super::super) fn reorder(values: &mut [i8]) {
    for values in values.as_chunks_mut::<STEP>().0 {
        let from = *values;
        for (g, five) in from.as_chunks::<GROUP>().0.iter().enumerate() {
            values[4 * g..4 * g + 4].copy_from_slice(&five[..4]);
            values[16 + g] = five[4];
        }
    }
}

/// # Safety
/// As [`super::super::mul_mat`]; `r0` is the first row of a block.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni")]
pub(in super::super) unsafe fn mul_mat(d: f32, height: usize, job: &Job) {
    let mut ahead = Ahead::new(job);
    for r in (job.r0..job.r1).step_by(ROWS) {
        // SAFETY: 64 rows begin at r; the scratch memory has room for them; tokens are below n.
        unsafe {
            unpack::<false>(height, job, r, job.scratch, &mut ahead);
            let mut t = 0;
            while t < job.n {
                t += match MAX_TILE.min(job.n - t) {
                    1 => tile::<1>(d, job, r, t),
                    2 => tile::<2>(d, job, r, t),
                    3 => tile::<3>(d, job, r, t),
                    4 => tile::<4>(d, job, r, t),
                    5 => tile::<5>(d, job, r, t),
                    _ => tile::<MAX_TILE>(d, job, r, t),
                };
            }
        }
    }
}

/// 64 rows times T tokens; returns T.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni")]
unsafe fn tile<const T: usize>(d: f32, job: &Job, r: usize, t: usize) -> usize {
    // SAFETY: the caller's promises.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); T]; 4];
        let mut x = [std::ptr::null(); T];
        for (i, x) in x.iter_mut().enumerate() {
            *x = job.token(t + i);
        }
        for q in 0..job.k.next_multiple_of(STEP) / 4 {
            let mut w = [_mm512_setzero_si512(); 4];
            for (i, w) in w.iter_mut().enumerate() {
                *w = _mm512_load_si512(job.scratch.add(q * QUAD + 64 * i).cast());
            }
            for i in 0..T {
                let x = _mm512_set1_epi32(x[i].add(4 * q).cast::<i32>().read());
                for j in 0..4 {
                    sums[j][i] = _mm512_dpbusd_epi32(sums[j][i], w[j], x);
                }
            }
        }
        for i in 0..T {
            let tail = &*x[i].add(padded(job.k)).cast::<I8Tail>();
            let scale = _mm512_set1_ps(d * tail.scale);
            for (j, sums) in sums.iter().enumerate() {
                let sum = _mm512_sub_epi32(sums[i], _mm512_set1_epi32(tail.sum));
                let y = job.y.add((t + i) * job.y_stride + r + 16 * j);
                _mm512_storeu_ps(y, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale));
            }
        }
    }
    T
}

/// Weights plus 1, 0..=2: for each four of a row, 256 bytes, those of row i at 4 i. For AMX (`TILES`): for each 64 of a row four
/// tiles of 16 rows, one after the other, of which line q has the four from 4 q on.
///
/// # Safety
/// 64 rows begin at `r`, of which the block begins at or behind `job.r0`; `to` has [`padded`] times 64 bytes, aligned to 64.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni")]
pub(in super::super::super) unsafe fn unpack<const TILES: bool>(
    height: usize,
    job: &Job,
    r: usize,
    to: *mut u8,
    ahead: &mut Ahead,
) {
    let mut quads = 0;
    // Where the next four of each row go, and how far 16 rows are from the next.
    let mut next = || {
        let q = quads;
        quads += 1;
        if TILES {
            (to.wrapping_add(q / LINES * LINES * QUAD + q % LINES * 64), LINES * 64)
        } else {
            (to.wrapping_add(q * QUAD), 64)
        }
    };
    let first = job.r0 + (r - job.r0) / height * height;
    let height = height.min(job.r1 - first);
    let groups = groups(job.k);
    // SAFETY: the caller's promises.
    unsafe {
        let codes = job.row(first).add(r - first);
        for g in (0..groups).step_by(4) {
            let mut fifths = _mm512_setzero_si512();
            for i in 0..4 {
                let code = if g + i < groups {
                    let at = codes.add((g + i) * height);
                    ahead.of::<Avx512Vnni>(at);
                    _mm512_load_si512(at.cast())
                } else {
                    _mm512_setzero_si512()
                };
                let [four, fifth] = digits(code);
                spread(four, next());
                // Bits 2 i and 2 i + 1 of each byte: they do not reach the next.
                fifths = _mm512_or_si512(fifths, _mm512_sll_epi16(fifth, _mm_cvtsi32_si128(2 * i as i32)));
            }
            spread(fifths, next());
        }
    }
}

/// By magnitude: the first four digits, plus 1, in two bits each; the fifth plus 1.
const DIGITS: [[u8; 128]; 2] = {
    let mut digits = [[0; 128]; 2];
    let mut m = 0;
    while m < 128 {
        let mut i = 0;
        while i < GROUP {
            digits[i / 4][m] |= ((digit(m as i32, i) + 1) as u8) << (i % 4 * 2);
            i += 1;
        }
        m += 1;
    }
    digits
};

/// The digits of 64 codes, each plus 1: four in two bits each, and the fifth.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn digits(code: __m512i) -> [__m512i; 2] {
    let minus = _mm512_movepi8_mask(code);
    let mut out = [code; 2];
    // Both signs' digits, plus 1, add up to 2.
    for (i, (out, twos)) in out.iter_mut().zip([0xaau8, 2]).enumerate() {
        // SAFETY: the table has 128 bytes.
        let (low, high) = unsafe {
            let table = DIGITS[i].as_ptr();
            (_mm512_loadu_si512(table.cast()), _mm512_loadu_si512(table.add(64).cast()))
        };
        let plus = _mm512_permutex2var_epi8(low, code, high);
        *out = _mm512_mask_sub_epi8(plus, minus, _mm512_set1_epi8(twos as i8), plus);
    }
    out
}

/// Four numbers of two bits in each of 64 bytes, as bytes: those of bytes 2 i and 2 i + 1 of each eight in vector i, of four.
///
/// # Safety
/// Vectors as far apart as said can be written at `to`, aligned to 64.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn spread(v: __m512i, (to, apart): (*mut u8, usize)) {
    // Which bits of eight bytes come to each byte; what is above two bits is cut off.
    const FIRST: i64 = 0x0e_0c_0a_08_06_04_02_00;
    for i in 0..4 {
        let from = _mm512_set1_epi64(FIRST + i * 0x10_10_10_10_10_10_10_10);
        let out = _mm512_and_si512(_mm512_multishift_epi64_epi8(from, v), _mm512_set1_epi8(3));
        // SAFETY: the caller's promise.
        unsafe { _mm512_store_si512(to.add(apart * i as usize).cast(), out) }
    }
}
