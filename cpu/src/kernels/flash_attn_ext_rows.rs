//! Attention for many queries at once, with the bits that each alone has. Keys are transposed, so that a vector holds 16 keys
//! instead of 16 elements of one: the tree over the lanes of a dot product becomes plain additions of vectors.

use super::flash_attn_ext::{AHEAD, CHUNK, chunks, fetch, soften};
use super::flash_attn_ext_decoded::{decode, row_bytes};
use super::gemm_f32::{Gemm, MatMul, Vector};
use super::sum64;
use crate::mul_mat::{vector::Simd, vector_avx2::Avx2, vector_avx512::Avx512};
use crate::program::RawTensor;
use crate::simd::{Floats, SimdLevel};
use gguf::GgmlType;
use std::hint::black_box;
use std::ops::Range;

/// Queries whose weights meet the values together: as far as the last of them sees.
const GROUP: usize = 8;
/// Queries of one head that are worked on together.
pub(super) const ROWS: usize = 64;
/// From this many queries on it pays to transpose the keys.
pub(super) const MANY: usize = 8;

/// Queries `from..from + spans.len()` of head `head`, all of sequence `seq`; spans are first and end of what each sees.
pub(super) struct Block<'a> {
    pub level: SimdLevel,
    pub q: &'a RawTensor,
    pub k: &'a RawTensor,
    pub v: &'a RawTensor,
    pub y: &'a RawTensor,
    pub head: usize,
    pub head_kv: usize,
    pub seq: usize,
    pub from: usize,
    pub spans: &'a [(usize, usize)],
    pub scale: f32,
    /// As many floats as [`scratch`] says.
    pub scratch: *mut f32,
}

/// Floats from one row of scores to the next.
fn stride(n_ctx: usize) -> usize {
    n_ctx.saturating_add(32) / 16 * 16
}

/// Floats from one row of transposed keys to the next.
const KEYS: usize = CHUNK + 16;

/// Floats of scratch for heads of `d` and `dv` and this many positions.
pub(super) fn scratch(d: usize, dv: usize, n_ctx: usize) -> usize {
    let chunk = d.saturating_mul(KEYS + 16).saturating_add(dv.saturating_mul(CHUNK + ROWS));
    stride(n_ctx).saturating_mul(ROWS).saturating_add(chunk)
}

/// # Safety
/// The level is not `Scalar`, and supported. K and V may be read at all positions seen, q at the block's rows; nobody else
/// touches those of y, or the scratch. At most [`ROWS`] queries.
pub(super) unsafe fn attend(block: &Block) {
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2(block: &Block) {
        // SAFETY: the caller's promises.
        unsafe { body::<Avx2>(block) }
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn avx512(block: &Block) {
        // SAFETY: the caller's promises.
        unsafe { body::<Avx512>(block) }
    }
    match block.level.floats() {
        Floats::Plain => unreachable!("plain loops have no blocks of queries"),
        // SAFETY: the caller's promises.
        Floats::Avx2 => unsafe { avx2(block) },
        // SAFETY: the caller's promises.
        Floats::Avx512 => unsafe { avx512(block) },
    }
}

/// # Safety
/// As [`attend`], and this is inlined where the features of `S` are enabled.
#[inline(always)]
unsafe fn body<S: Simd>(b: &Block) {
    let (d, dv, s, rows) = (b.k.desc.ne[0], b.v.desc.ne[0], stride(b.k.desc.ne[2]), b.spans.len());
    let (q_row, y_row) = (b.q.desc.nb[2] / 4, b.y.desc.nb[2] / 4);
    let seen = || b.spans.iter().filter(|s| s.0 < s.1);
    let low = seen().map(|s| s.0).min().unwrap_or(0) / 16 * 16;
    let end = seen().map(|s| s.1).max().unwrap_or(low);
    let padded = (end - low).next_multiple_of(16);
    // Positions of one chunk that somebody sees: first and number.
    let parts = || {
        (low / CHUNK..end.div_ceil(CHUNK)).map(|c| {
            let from = low.max(c * CHUNK);
            (from, end.min((c + 1) * CHUNK) - from)
        })
    };
    let scores = b.scratch;
    // SAFETY: `scratch` has counted these; all rows and positions exist (the caller's promise), and reads of whole vectors of
    // keys stay within KEYS or `s` floats.
    unsafe {
        let keys = scores.add(s * ROWS);
        let (wide, values) = (keys.add(KEYS * d), keys.add((KEYS + 16) * d));
        let part = values.add(CHUNK * dv);
        let q = b.q.row((b.head, b.from, 0)).as_ptr();
        let y = b.y.row_mut((b.head, b.from, 0)).as_mut_ptr();
        for (from, n) in parts() {
            for j in (0..n).step_by(16) {
                for i in 0..16 {
                    let at = b.k.desc.row_offset(b.head_kv, from + (j + i).min(n - 1), b.seq);
                    fetch(b.k.at(at).wrapping_add(AHEAD * b.k.desc.nb[2]), row_bytes(b.k));
                    load::<S>(b.level, b.k, at, wide.add(i * d));
                }
                Vector::<S>::transpose16(wide, d, keys.add(j), KEYS);
            }
            dots::<S>(q, q_row, b.spans, d, keys, from..from + n.next_multiple_of(16), scores.add(from - low), s);
        }
        let mut factors = [0f32; ROWS];
        for (i, &(first, end)) in b.spans.iter().enumerate() {
            let p = std::slice::from_raw_parts_mut(scores.add(i * s), padded);
            let (from, to) = if first < end { (first - low, end - low) } else { (0, 0) };
            // What others of its group see weighs nothing.
            let group = range(&b.spans[i / GROUP * GROUP..rows.min(i / GROUP * GROUP + GROUP)]);
            p[group.start.saturating_sub(low).min(from)..from].fill(0.0);
            p[to..group.end.saturating_sub(low).max(to)].fill(0.0);
            let p = &mut p[from..to];
            p.iter_mut().for_each(|p| *p *= b.scale);
            soften(p);
            let total = chunks(first, p).fold(0f32, |sum, (_, p)| sum + sum64([p], |[p]| p));
            factors[i] = if total > 0.0 { 1.0 / total } else { 0.0 };
            std::slice::from_raw_parts_mut(y.add(i * y_row), dv).fill(0.0);
        }
        for (from, n) in parts() {
            for j in 0..n {
                let at = b.v.desc.row_offset(b.head_kv, from + j, b.seq);
                fetch(b.v.at(at).wrapping_add(AHEAD * b.v.desc.nb[2]), row_bytes(b.v));
                load::<S>(b.level, b.v, at, values.add(j * dv));
            }
            for i in (0..rows).step_by(GROUP) {
                let group = rows.min(i + GROUP) - i;
                let seen = range(&b.spans[i..i + group]);
                let (first, end) = (seen.start.max(from), seen.end.min(from + n));
                if first >= end {
                    continue;
                }
                let c = part.add(i * dv);
                let weighted = Gemm {
                    rows: group,
                    columns: dv,
                    inner: end - first,
                    a: scores.add(i * s + first - low),
                    a_row: s,
                    a_col: 1,
                    b: values.add((first - from) * dv),
                    b_row: dv,
                    c,
                    c_row: dv,
                    fresh: true,
                };
                Vector::<S>::mul(weighted);
                for i in i..i + group {
                    let y = std::slice::from_raw_parts_mut(y.add(i * y_row), dv);
                    let part = std::slice::from_raw_parts(part.add(i * dv), dv);
                    y.iter_mut().zip(part).for_each(|(y, o)| *y += o);
                }
            }
        }
        for (i, factor) in factors.iter().enumerate().take(rows) {
            std::slice::from_raw_parts_mut(y.add(i * y_row), dv).iter_mut().for_each(|y| *y *= factor);
        }
    }
}

/// A row of K or V as f32.
///
/// # Safety
/// As [`body`]: the row at this offset may be read, and as many floats written.
#[inline(always)]
unsafe fn load<S: Simd>(level: SimdLevel, cache: &RawTensor, offset: usize, to: *mut f32) {
    let (ty, n) = (cache.desc.ty, cache.desc.ne[0]);
    // SAFETY: the caller's promise; the row has whole blocks.
    unsafe {
        if ty == GgmlType::F16 {
            return Vector::<S>::widen(cache.at(offset).cast(), to, n);
        }
        decode(level, cache, offset, to);
    }
}

/// Positions that some of these queries see: from the first to the last.
fn range(spans: &[(usize, usize)]) -> Range<usize> {
    let (mut first, mut end) = (usize::MAX, 0);
    for &(f, e) in spans.iter().filter(|s| s.0 < s.1) {
        (first, end) = (first.min(f), end.max(e));
    }
    first.min(end)..end
}

/// `out[i][j] = dot16(q_i, k_j)` for a multiple of 16 positions j, where query i sees any near it.
///
/// # Safety
/// As [`body`]: all rows may be read and written.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // two matrices and where the result goes
unsafe fn dots<S: Simd>(
    q: *const f32,
    q_row: usize,
    spans: &[(usize, usize)],
    d: usize,
    keys: *const f32,
    at: Range<usize>,
    out: *mut f32,
    out_row: usize,
) {
    let (rows, n) = (spans.len(), at.len());
    let mut j = 0;
    while j < n {
        let width = if n - j >= 32 { 32 } else { 16 };
        for i in (0..rows).step_by(2) {
            let seen = range(&spans[i..rows.min(i + 2)]);
            if seen.end <= at.start + j || at.start + j + width <= seen.start {
                continue;
            }
            // SAFETY: the caller's promise.
            unsafe {
                let (q, k, out) = (q.add(i * q_row), keys.add(j), out.add(i * out_row + j));
                match (rows - i >= 2, width == 32) {
                    (true, true) => match d {
                        64 => tile::<S, 2, 2, 64>(q, q_row, d, k, out, out_row),
                        96 => tile::<S, 2, 2, 96>(q, q_row, d, k, out, out_row),
                        128 => tile::<S, 2, 2, 128>(q, q_row, d, k, out, out_row),
                        _ => tile::<S, 2, 2, 0>(q, q_row, d, k, out, out_row),
                    },
                    (true, false) => tile::<S, 2, 1, 0>(q, q_row, d, k, out, out_row),
                    (false, true) => tile::<S, 1, 2, 0>(q, q_row, d, k, out, out_row),
                    (false, false) => tile::<S, 1, 1, 0>(q, q_row, d, k, out, out_row),
                }
            }
        }
        j += width;
    }
}

/// # Safety
/// As [`dots`], for M queries and 16 N keys.
#[inline(always)]
unsafe fn tile<S: Simd, const M: usize, const N: usize, const D: usize>(
    q: *const f32,
    q_row: usize,
    d: usize,
    k: *const f32,
    out: *mut f32,
    out_row: usize,
) {
    // Else the addresses of all elements are computed beforehand, and put aside in memory.
    let (q, k) = (black_box(q), black_box(k));
    // SAFETY: the caller's promise.
    let sums = unsafe { all_lanes::<S, M, N, D>(q, q_row, d, k, 0) };
    for (i, sums) in sums.into_iter().enumerate() {
        for (n, sum) in sums.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { S::store_f(out.add(i * out_row + 16 * n), sum) }
        }
    }
}

// Functions and loops, not closures and `from_fn`: those are compiled without the level's instructions.

/// What lane `l` of dot16 holds, of every query and key.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn lane<S: Simd, const M: usize, const N: usize, const D: usize>(
    q: *const f32,
    q_row: usize,
    d: usize,
    k: *const f32,
    l: usize,
) -> [[S::F; N]; M] {
    let d = if D > 0 { D } else { d };
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[S::zero_f(); N]; M];
        if l < d {
            acc = products::<S, M, N>(q.add(l), q_row, k.add(l * KEYS));
        }
        let mut e = l + 16;
        while e < d {
            acc = add::<S, M, N>(acc, products::<S, M, N>(q.add(e), q_row, k.add(e * KEYS)));
            e += 16;
        }
        acc
    }
}

/// # Safety
/// As [`tile`], for one element.
#[inline(always)]
unsafe fn products<S: Simd, const M: usize, const N: usize>(
    q: *const f32,
    q_row: usize,
    k: *const f32,
) -> [[S::F; N]; M] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut out = [[S::zero_f(); N]; M];
        let mut keys = [S::zero_f(); N];
        for (n, key) in keys.iter_mut().enumerate() {
            *key = S::load_f(k.add(16 * n));
        }
        for (i, out) in out.iter_mut().enumerate() {
            let q = S::splat_f(*q.add(i * q_row));
            for (out, &key) in out.iter_mut().zip(&keys) {
                *out = S::mul_f(q, key);
            }
        }
        out
    }
}

/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
unsafe fn add<S: Simd, const M: usize, const N: usize>(mut a: [[S::F; N]; M], b: [[S::F; N]; M]) -> [[S::F; N]; M] {
    for i in 0..M {
        for n in 0..N {
            // SAFETY: the caller's promise.
            a[i][n] = unsafe { S::add_f(a[i][n], b[i][n]) };
        }
    }
    a
}

/// The tree of dot16 over its lanes: what `$inner` sums from lane l, and from lane l + `$step`.
macro_rules! pair_of {
    ($name:ident, $inner:ident, $step:literal) => {
        /// # Safety
        /// As [`tile`].
        #[inline(always)]
        unsafe fn $name<S: Simd, const M: usize, const N: usize, const D: usize>(
            q: *const f32,
            q_row: usize,
            d: usize,
            k: *const f32,
            l: usize,
        ) -> [[S::F; N]; M] {
            // SAFETY: the caller's promise.
            unsafe {
                let (a, b) = ($inner::<S, M, N, D>(q, q_row, d, k, l), $inner::<S, M, N, D>(q, q_row, d, k, l + $step));
                add::<S, M, N>(a, b)
            }
        }
    };
}
pair_of!(two_lanes, lane, 8);
pair_of!(four_lanes, two_lanes, 4);
pair_of!(eight_lanes, four_lanes, 2);
pair_of!(all_lanes, eight_lanes, 1);
