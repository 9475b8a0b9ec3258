//! Activations as tables: for each group of five, what every code's weights give with them.
//!
//! With S the sum of a magnitude's digits times the group's int8, and x = 16 h + l for each of them (l in -8..=7), S = 16 H + L, where
//! H and L are the same sums of h and l, 40 at most. A group has 128 bytes L, then 128 bytes H, by magnitude.

use std::arch::x86_64::*;

use super::super::super::fetch::Ahead;
use super::super::super::vector_avx512::Avx512Vnni;
use super::super::{apart, digit};
use super::GROUP;

/// Bytes of a group's tables.
pub(super) const TABLES: usize = 256;

/// Values that are taken apart together.
const PIECE: usize = 320;
const GROUPS: usize = PIECE / GROUP;

/// Partial sums, in bytes 0..32 of l and 32..64 of h: upper digits (9 a, a = 0..=13) at a, lower ones (b = -4..=4) at 20 + b.
/// Entry 0 has the digits that count the group's values 0 (lower) and 2 (upper), entry 1 values 1 and 3, entry 2 value 4.
struct Digits {
    plus: [u64; 3],
    minus: [u64; 3],
}

const LOWER: usize = 16;

const DIGITS: Digits = {
    let mut digits = Digits { plus: [0; 3], minus: [0; 3] };
    let mut n = 0;
    while n < 3 {
        let mut at = 0;
        while at < 32 {
            let d = if at < LOWER {
                if at <= 13 { digit(at as i32, n) } else { 0 }
            } else if at <= LOWER + 8 && n < 2 {
                digit(at as i32 - LOWER as i32 - 4, n)
            } else {
                0
            };
            let both = 1 << at | 1 << (at + 32);
            if d > 0 {
                digits.plus[n] |= both;
            } else if d < 0 {
                digits.minus[n] |= both;
            }
            at += 1;
        }
        n += 1;
    }
    digits
};

/// Where magnitudes 0..128 have their partial sums: upper digits, lower digits. (None is above 121.)
const PARTS: [[u8; 128]; 2] = {
    let mut parts = [[0; 128]; 2];
    let mut m = 0;
    while m < 122 {
        let a = (m + 4) / 9;
        parts[0][m] = a as u8;
        parts[1][m] = (LOWER + 4 + m - 9 * a) as u8;
        m += 1;
    }
    parts
};

/// For `vpshufb`: which of the group's values entry n counts at each place.
const VALUES: [[u8; 16]; 6] = [[2; 16], [0; 16], [3; 16], [1; 16], [4; 16], [4; 16]];

/// Writes the tables of the groups of `values`, which are zeros behind those of the token; fetches a line of weights for each.
///
/// # Safety
/// The processor is one that packs fives; `to` has room for the tables and is aligned to 64 bytes.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")]
pub(super) unsafe fn make(values: &[i8], groups: usize, mut to: *mut u8, weights: *const u8, ahead: &mut Ahead) {
    let mut values = values.chunks(PIECE);
    for first in (0..groups).step_by(GROUPS) {
        let (mut low, mut high) = ([0i8; PIECE + 16], [0i8; PIECE + 16]);
        for (i, &x) in values.next().unwrap_or_default().iter().enumerate() {
            (low[i], high[i]) = apart(x);
        }
        for g in 0..GROUPS.min(groups - first) {
            // SAFETY: there is room for the tables of all groups; loads of 16 bytes stay within `low` and `high`.
            unsafe {
                ahead.up_to::<Avx512Vnni>(weights.wrapping_add(64 * (first + g)));
                group(low.as_ptr().add(GROUP * g), high.as_ptr().add(GROUP * g), to);
                to = to.add(TABLES);
            }
        }
    }
}

/// The tables of five values; 16 bytes are read of each.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")]
unsafe fn group(low: *const i8, high: *const i8, to: *mut u8) {
    // SAFETY: the caller's promises; constants have the sizes that are loaded.
    unsafe {
        let l = _mm256_broadcastsi128_si256(_mm_loadu_si128(low.cast()));
        let h = _mm256_broadcastsi128_si256(_mm_loadu_si128(high.cast()));
        let values = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(l), h);
        let mut sums = _mm512_setzero_si512();
        for n in 0..3 {
            let which = _mm256_loadu_si256(VALUES[2 * n].as_ptr().cast());
            let v = _mm512_shuffle_epi8(values, _mm512_broadcast_i64x4(which));
            sums = _mm512_mask_add_epi8(sums, DIGITS.plus[n], sums, v);
            sums = _mm512_mask_sub_epi8(sums, DIGITS.minus[n], sums, v);
        }
        let swapped = _mm512_shuffle_i64x2::<0b01_00_11_10>(sums, sums);
        for half in 0..2 {
            let upper = _mm512_loadu_si512(PARTS[0].as_ptr().add(64 * half).cast());
            let lower = _mm512_loadu_si512(PARTS[1].as_ptr().add(64 * half).cast());
            let of = |sums| _mm512_add_epi8(_mm512_permutexvar_epi8(upper, sums), _mm512_permutexvar_epi8(lower, sums));
            _mm512_store_si512(to.add(64 * half).cast(), of(sums));
            _mm512_store_si512(to.add(128 + 64 * half).cast(), of(swapped));
        }
    }
}
