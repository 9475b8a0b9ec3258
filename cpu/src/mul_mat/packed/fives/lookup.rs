//! One token: each code's sum is looked up in the tables of its group.

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::super::Job;
use super::super::super::act::I8Tail;
use super::super::super::fetch::Ahead;
use super::super::super::vector_avx512::Avx512Vnni;
use super::super::{ROOM, ROWS};
use super::groups;
use super::product::padded;
use super::tables::{self, TABLES};

/// Groups whose L and H, 40 at most, are summed in bytes.
const RUN: usize = 3;

/// Bytes of a thread's tables.
pub(in super::super) fn tables_size(k: usize) -> usize {
    groups(k) * TABLES
}

/// # Safety
/// As [`super::super::mul_mat`]; `r0` is the first row of a block.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni")]
pub(in super::super) unsafe fn mul_mat(d: f32, height: usize, job: &Job) {
    let mut ahead = Ahead::new(job);
    let groups = groups(job.k);
    // SAFETY: the token has this many values and a tail; the scratch memory has an id and tables.
    unsafe {
        let values = std::slice::from_raw_parts(job.token(0).cast(), padded(job.k));
        let tail = &*job.token(0).add(values.len()).cast::<I8Tail>();
        let (id, tables) = (job.scratch.cast::<u64>(), job.scratch.add(ROOM));
        // Each thread makes its own: to take them from another's cache costs more.
        if *id != tail.id {
            tables::make(values, groups, tables, job.row(job.r0), &mut ahead);
            *id = tail.id;
        }
        let mut r0 = job.r0;
        while r0 < job.r1 {
            let rows = height.min(job.r1 - r0);
            let (codes, y) = (job.row(r0), job.y.add(r0));
            let scale = d * tail.scale;
            match rows / ROWS {
                1 => block::<1>(codes, groups, tables, scale, y, &mut ahead),
                2 => block::<2>(codes, groups, tables, scale, y, &mut ahead),
                3 => block::<3>(codes, groups, tables, scale, y, &mut ahead),
                _ => block::<4>(codes, groups, tables, scale, y, &mut ahead),
            }
            r0 += rows;
        }
    }
}

/// Results of V x 64 rows.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni")]
unsafe fn block<const V: usize>(
    mut codes: *const u8,
    groups: usize,
    mut tables: *const u8,
    scale: f32,
    y: *mut f32,
    ahead: &mut Ahead,
) {
    // SAFETY: the caller has codes of V x 64 rows and tables of all groups, and room for the results.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); 4]; V];
        for _ in 0..groups / RUN {
            run::<V, RUN>(&mut sums, codes, tables, ahead);
            codes = codes.add(RUN * V * ROWS);
            tables = tables.add(RUN * TABLES);
        }
        for _ in 0..groups % RUN {
            run::<V, 1>(&mut sums, codes, tables, ahead);
            codes = codes.add(V * ROWS);
            tables = tables.add(TABLES);
        }
        for (v, sums) in sums.into_iter().enumerate() {
            for (i, sum) in by_rows(sums).into_iter().enumerate() {
                let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(scale));
                _mm512_storeu_ps(y.add(v * ROWS + 16 * i), scaled);
            }
        }
    }
}

/// Adds `N` groups of V x 64 rows: byte i of a dword of codes to the dwords of `sums[i]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni")]
unsafe fn run<const V: usize, const N: usize>(
    sums: &mut [[__m512i; 4]; V],
    codes: *const u8,
    tables: *const u8,
    ahead: &mut Ahead,
) {
    // SAFETY: the caller has N groups of codes and tables.
    unsafe {
        let zero = _mm512_setzero_si512();
        let (mut low, mut high) = ([zero; V], [zero; V]);
        for n in 0..N {
            let table: *const __m512i = tables.add(n * TABLES).cast();
            let (l0, l1) = (_mm512_load_si512(table), _mm512_load_si512(table.add(1)));
            let (h0, h1) = (_mm512_load_si512(table.add(2)), _mm512_load_si512(table.add(3)));
            let codes = codes.add(n * V * ROWS);
            ahead.of::<Avx512Vnni>(codes.add(V * ROWS));
            for v in 0..V {
                let code = _mm512_load_si512(codes.add(v * ROWS).cast());
                // The lookup leaves bit 7 out.
                let l = _mm512_permutex2var_epi8(l0, code, l1);
                let h = _mm512_permutex2var_epi8(h0, code, h1);
                add_signed(&mut low[v], &mut high[v], code, l, h);
            }
        }
        for v in 0..V {
            for (i, sum) in sums[v].iter_mut().enumerate() {
                *sum = _mm512_dpbusd_epi32(*sum, _mm512_set1_epi32(1 << (8 * i)), low[v]);
                *sum = _mm512_dpbusd_epi32(*sum, _mm512_set1_epi32(16 << (8 * i)), high[v]);
            }
        }
    }
}

/// `low + l`, `high + h` in bytes; where a code is negative, minus. Not with intrinsics: the compiler makes six instructions of the
/// four additions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn add_signed(low: &mut __m512i, high: &mut __m512i, code: __m512i, l: __m512i, h: __m512i) {
    // SAFETY: the caller promises AVX-512BW; nothing but the sums is written.
    unsafe {
        asm!(
            "vpmovb2m {minus}, {code}",
            "knotq {plus}, {minus}",
            "vpaddb {low}{{{plus}}}, {low}, {l}",
            "vpaddb {high}{{{plus}}}, {high}, {h}",
            "vpsubb {low}{{{minus}}}, {low}, {l}",
            "vpsubb {high}{{{minus}}}, {high}, {h}",
            low = inout(zmm_reg) *low,
            high = inout(zmm_reg) *high,
            code = in(zmm_reg) code,
            l = in(zmm_reg) l,
            h = in(zmm_reg) h,
            minus = out(kreg) _,
            plus = out(kreg) _,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
}

/// Sums by place in the vector of codes to four times 16 rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn by_rows([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let even = |a, b| _mm512_mask_blend_epi32(0xaaaa, a, _mm512_slli_epi64::<32>(b));
    let odd = |a, b| _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64::<32>(a), b);
    [even(a, b), even(c, d), odd(a, b), odd(c, d)]
}
