//! One token: each code's sum is looked up in the table of its group.
//!
//! With S the sum of a magnitude's digits times the group's int8, and x = 16 h + l for each of them (l in -8..=7), S = 16 H + L, where H
//! and L are the same sums of h and l, 24 at most. A group has 16 bytes L, then 16 bytes H, by magnitude.

use std::arch::x86_64::*;

use super::super::super::Job;
use super::super::super::act::I8Tail;
use super::super::super::fetch::Ahead;
use super::super::super::vector_avx2::Avx2;
use super::super::{ROOM, ROWS, apart, digit};
use super::product::padded;
use super::{GROUP, GROUPS, LANES, STEP, UNIT, UNITS, position};

/// Bytes of a group's table.
const TABLE: usize = 32;
/// Steps whose sums of 24 products fit 16 bits.
const RUN: usize = 10;
const VECTORS: usize = ROWS / LANES;

/// Bytes of a thread's tables.
pub(in super::super) fn tables_size(k: usize) -> usize {
    k.div_ceil(STEP) * GROUPS * TABLE
}

/// # Safety
/// As [`super::super::mul_mat`]; `r0` is the first row of a block, and the processor has AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) unsafe fn mul_mat(d: f32, job: &Job) {
    let mut ahead = Ahead::new(job);
    let steps = job.k.div_ceil(STEP);
    // SAFETY: the token has this many values and a tail; the scratch memory has an id and tables; each 64 rows from r0 are a block.
    unsafe {
        let values = std::slice::from_raw_parts(job.token(0).cast(), padded(job.k));
        let tail = &*job.token(0).add(values.len()).cast::<I8Tail>();
        let (id, tables) = (job.scratch.cast::<u64>(), job.scratch.add(ROOM));
        if *id != tail.id {
            make(&values[..steps * STEP], tables);
            *id = tail.id;
        }
        for r in (job.r0..job.r1).step_by(ROWS) {
            let y = std::slice::from_raw_parts_mut(job.y.add(r), ROWS);
            block(job.row(r), steps, tables, d * tail.scale, y, &mut ahead);
        }
    }
}

/// Digits of magnitudes 0..16, as factors of one byte. (None is above 13.)
const DIGITS: [[i8; 16]; GROUP] = {
    let mut digits = [[0; 16]; GROUP];
    let mut m = 0;
    while m < 14 {
        let mut i = 0;
        while i < GROUP {
            digits[i][m] = digit(m as i32, i) as i8;
            i += 1;
        }
        m += 1;
    }
    digits
};

/// Writes the tables of whole groups.
#[target_feature(enable = "avx2")]
unsafe fn make(values: &[i8], mut to: *mut u8) {
    /// Values that are taken apart together.
    const PIECE: usize = 10 * STEP;
    for piece in values.chunks(PIECE) {
        let (mut low, mut high) = ([0i8; PIECE + 16], [0i8; PIECE + 16]);
        for (i, &x) in piece.iter().enumerate() {
            (low[i], high[i]) = apart(x);
        }
        for g in 0..piece.len() / GROUP {
            // SAFETY: loads of 16 bytes stay within `low` and `high`; the caller has room for the tables of all groups.
            unsafe {
                let l = _mm256_castsi128_si256(_mm_loadu_si128(low.as_ptr().add(GROUP * g).cast()));
                let both = _mm256_inserti128_si256::<1>(l, _mm_loadu_si128(high.as_ptr().add(GROUP * g).cast()));
                let mut table = _mm256_setzero_si256();
                for (n, digits) in DIGITS.iter().enumerate() {
                    let digits = _mm256_broadcastsi128_si256(_mm_loadu_si128(digits.as_ptr().cast()));
                    let x = _mm256_shuffle_epi8(both, _mm256_set1_epi8(n as i8));
                    table = _mm256_add_epi8(table, _mm256_sign_epi8(x, digits));
                }
                _mm256_storeu_si256(to.cast(), table);
                to = to.add(TABLE);
            }
        }
    }
}

/// Results of 64 rows.
#[target_feature(enable = "avx2")]
unsafe fn block(
    mut codes: *const u8,
    steps: usize,
    mut tables: *const u8,
    scale: f32,
    y: &mut [f32],
    ahead: &mut Ahead,
) {
    // SAFETY: the caller has the codes of 64 rows and the tables of all groups.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 4]; VECTORS];
        let mut left = steps;
        while left > 0 {
            let run = left.min(RUN);
            // Of even bytes, and of odd ones.
            let mut sums16 = [[_mm256_setzero_si256(); 2]; VECTORS];
            for _ in 0..run {
                ahead.of::<Avx2>(codes.add(UNITS));
                step(&mut sums16, codes, tables);
                codes = codes.add(UNITS);
                tables = tables.add(GROUPS * TABLE);
            }
            for v in 0..VECTORS {
                for i in 0..2 {
                    let low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sums16[v][i]));
                    let high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256::<1>(sums16[v][i]));
                    sums[v][2 * i] = _mm256_add_epi32(sums[v][2 * i], low);
                    sums[v][2 * i + 1] = _mm256_add_epi32(sums[v][2 * i + 1], high);
                }
            }
            left -= run;
        }
        for (sums, y) in sums.into_iter().zip(y.chunks_exact_mut(LANES)) {
            let mut scaled = [0.0f32; LANES];
            for (sum, scaled) in sums.into_iter().zip(scaled.chunks_exact_mut(8)) {
                let v = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(scale));
                _mm256_storeu_ps(scaled.as_mut_ptr(), v);
            }
            for (row, y) in y.iter_mut().enumerate() {
                let at = position(row);
                *y = scaled[at % 2 * 16 + at / 2];
            }
        }
    }
}

/// Adds eight groups of 64 rows.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn step(sums: &mut [[__m256i; 2]; VECTORS], codes: *const u8, tables: *const u8) {
    // SAFETY: the caller has codes of 64 rows and the tables of eight groups.
    unsafe {
        let mask = _mm256_set1_epi8(15);
        let one = _mm256_set1_epi8(1);
        let mut signs = [mask; VECTORS];
        for (v, signs) in signs.iter_mut().enumerate() {
            *signs = _mm256_loadu_si256(codes.add(UNIT * v + 4 * LANES).cast());
        }
        for half in 0..2 {
            let (mut low, mut high) = ([_mm256_setzero_si256(); VECTORS], [_mm256_setzero_si256(); VECTORS]);
            for pair in 2 * half..2 * half + 2 {
                let table: *const __m128i = tables.add(2 * pair * TABLE).cast();
                for second in 0..2 {
                    let l = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.add(2 * second)));
                    let h = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.add(2 * second + 1)));
                    for v in 0..VECTORS {
                        let both = _mm256_loadu_si256(codes.add(UNIT * v + LANES * pair).cast());
                        let shifted = if second == 0 { both } else { _mm256_srli_epi16::<4>(both) };
                        let code = _mm256_and_si256(shifted, mask);
                        // Bit 7 is the group's sign; never 0.
                        let sign = _mm256_or_si256(signs[v], one);
                        low[v] = _mm256_add_epi8(low[v], _mm256_sign_epi8(_mm256_shuffle_epi8(l, code), sign));
                        high[v] = _mm256_add_epi8(high[v], _mm256_sign_epi8(_mm256_shuffle_epi8(h, code), sign));
                        signs[v] = _mm256_add_epi8(signs[v], signs[v]);
                    }
                }
            }
            // Four groups: at most 4 * 24 in a byte.
            for v in 0..VECTORS {
                let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(low[v]));
                let even_high = _mm256_srai_epi16::<4>(_mm256_slli_epi16::<8>(high[v]));
                let odd = _mm256_srai_epi16::<8>(low[v]);
                let odd_high = _mm256_srai_epi16::<4>(_mm256_and_si256(high[v], _mm256_set1_epi16(-256)));
                sums[v][0] = _mm256_add_epi16(sums[v][0], _mm256_add_epi16(even, even_high));
                sums[v][1] = _mm256_add_epi16(sums[v][1], _mm256_add_epi16(odd, odd_high));
            }
        }
    }
}
