//! Attention for many queries at once, with the bits that each alone has. Keys are transposed, so that a vector holds 16 keys
//! instead of 16 elements of one: the tree over the lanes of a dot product becomes plain additions of vectors.

use super::flash_attn_ext::{CHUNK, chunks, soften};
use super::flash_attn_ext_decoded::decode;
use super::gemm_f32::{Gemm, MatMul, Vector};
use super::sum64;
use crate::mul_mat::{vector::Simd, vector_avx2::Avx2, vector_avx512::Avx512};
use crate::program::RawTensor;
use crate::simd::{Floats, SimdLevel};
use gguf::GgmlType;

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
                    load::<S>(b.level, b.k, at, wide.add(i * d));
                }
                Vector::<S>::transpose16(wide, d, keys.add(j), KEYS);
            }
            dots::<S>(q, q_row, rows, d, keys, n.next_multiple_of(16), scores.add(from - low), s);
        }
        let mut factors = [0f32; ROWS];
        for (i, &(first, end)) in b.spans.iter().enumerate() {
            let p = std::slice::from_raw_parts_mut(scores.add(i * s), padded);
            let (from, to) = if first < end { (first - low, end - low) } else { (0, 0) };
            p[..from].fill(0.0);
            p[to..].fill(0.0);
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
                load::<S>(b.level, b.v, at, values.add(j * dv));
            }
            let (a, c) = (scores.add(from - low).cast_const(), part);
            let weighted = Gemm {
                rows,
                columns: dv,
                inner: n,
                a,
                a_row: s,
                a_col: 1,
                b: values,
                b_row: dv,
                c,
                c_row: dv,
                fresh: true,
            };
            Vector::<S>::mul(weighted);
            for i in 0..rows {
                let y = std::slice::from_raw_parts_mut(y.add(i * y_row), dv);
                let part = std::slice::from_raw_parts(part.add(i * dv), dv);
                y.iter_mut().zip(part).for_each(|(y, o)| *y += o);
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

/// `out[i][j] = dot16(q_i, k_j)` for `n` keys, a multiple of 16.
///
/// # Safety
/// As [`body`]: all rows may be read and written.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // two matrices and where the result goes
unsafe fn dots<S: Simd>(
    q: *const f32,
    q_row: usize,
    rows: usize,
    d: usize,
    keys: *const f32,
    n: usize,
    out: *mut f32,
    out_row: usize,
) {
    let mut j = 0;
    while j < n {
        let two = n - j >= 32;
        let mut i = 0;
        while i < rows {
            // SAFETY: the caller's promise.
            unsafe {
                let (q, k, out) = (q.add(i * q_row), keys.add(j), out.add(i * out_row + j));
                match (rows - i >= 2, two) {
                    (true, true) => tile::<S, 2, 2>(q, q_row, d, k, out, out_row),
                    (true, false) => tile::<S, 2, 1>(q, q_row, d, k, out, out_row),
                    (false, true) => tile::<S, 1, 2>(q, q_row, d, k, out, out_row),
                    (false, false) => tile::<S, 1, 1>(q, q_row, d, k, out, out_row),
                }
            }
            i += 2;
        }
        j += if two { 32 } else { 16 };
    }
}

/// # Safety
/// As [`dots`], for M queries and 16 N keys.
#[inline(always)]
unsafe fn tile<S: Simd, const M: usize, const N: usize>(
    q: *const f32,
    q_row: usize,
    d: usize,
    k: *const f32,
    out: *mut f32,
    out_row: usize,
) {
    // SAFETY: the caller's promise.
    let sums = unsafe { all_lanes::<S, M, N>(q, q_row, d, k, 0) };
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
unsafe fn lane<S: Simd, const M: usize, const N: usize>(
    q: *const f32,
    q_row: usize,
    d: usize,
    k: *const f32,
    l: usize,
) -> [[S::F; N]; M] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[S::zero_f(); N]; M];
        let mut e = l;
        while e < d {
            let mut keys = [S::zero_f(); N];
            for (n, key) in keys.iter_mut().enumerate() {
                *key = S::load_f(k.add(e * KEYS + 16 * n));
            }
            for (i, acc) in acc.iter_mut().enumerate() {
                let q = S::splat_f(*q.add(i * q_row + e));
                for (acc, &key) in acc.iter_mut().zip(&keys) {
                    *acc = S::add_f(*acc, S::mul_f(q, key));
                }
            }
            e += 16;
        }
        acc
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
        unsafe fn $name<S: Simd, const M: usize, const N: usize>(
            q: *const f32,
            q_row: usize,
            d: usize,
            k: *const f32,
            l: usize,
        ) -> [[S::F; N]; M] {
            // SAFETY: the caller's promise.
            unsafe {
                let (a, b) = ($inner::<S, M, N>(q, q_row, d, k, l), $inner::<S, M, N>(q, q_row, d, k, l + $step));
                add::<S, M, N>(a, b)
            }
        }
    };
}
pair_of!(two_lanes, lane, 8);
pair_of!(four_lanes, two_lanes, 4);
pair_of!(eight_lanes, four_lanes, 2);
pair_of!(all_lanes, eight_lanes, 1);
