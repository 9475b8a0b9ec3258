//! Attention for a few queries over a cache of another type than F16, with the bits that decoded rows have in
//! docs/numerics.md. A row is decoded once for all query heads that read it.

use super::flash_attn_ext::{AHEAD, CHUNK, chunks, fetch, normalize, soften, visible};
use super::gemm_f32::{Gemm, MatMul, Plain};
use super::sum64;
use crate::out_prod::decode::row_to_f32;
use crate::program::{Compiler, RawTensor, Step, Work};
use crate::simd::SimdLevel;
use ggml_ops::OpError;
use ggml_ops::numerics::tree;

/// Query heads `head..head + heads` of token t, which all read head `head_kv` of K and V.
struct Part<'a> {
    level: SimdLevel,
    q: &'a RawTensor,
    k: &'a RawTensor,
    v: &'a RawTensor,
    y: &'a RawTensor,
    head: usize,
    heads: usize,
    head_kv: usize,
    t: usize,
    /// Sequence, first visible position and the one after the last.
    span: (usize, usize, usize),
    scale: f32,
    /// As many floats as [`scratch`] says.
    scratch: *mut f32,
}

/// Floats of scratch for so many heads.
fn scratch(heads: usize, d: usize, dv: usize, n_ctx: usize) -> usize {
    let rows = d.max(dv).saturating_mul(CHUNK);
    heads.saturating_mul(n_ctx.saturating_add(dv)).saturating_add(rows)
}

pub(super) fn few(c: Compiler, scale: f32) -> Vec<Step> {
    let (level, dst, q, k, v, span) = (c.level, c.dst, c.src[0], c.src[1], c.src[2], c.src[3]);
    let (n_head_kv, n_ctx, n_seq) = (k.desc.ne[1], k.desc.ne[2], k.desc.ne[3]);
    let n_tokens = q.desc.ne[2];
    let group = q.desc.ne[1] / n_head_kv;
    // Groups are divided only where threads would have nothing to do: each part decodes the rows anew.
    let parts = c.threads.div_ceil((n_head_kv * n_tokens).max(1)).min(group).max(1);
    let heads = group.div_ceil(parts).max(1);
    let parts = group.div_ceil(heads);
    c.shared.scratch = c.shared.scratch.max(scratch(heads, k.desc.ne[0], v.desc.ne[0], n_ctx).saturating_mul(4));
    let run = move |work: &Work| {
        // SAFETY: span is contiguous I32 (checked by the operation) and not written in this step.
        let spans = unsafe { span.ints() };
        work.share(n_head_kv * parts * n_tokens, 1, |items| {
            for item in items {
                let (of, t) = (item / n_tokens, item % n_tokens);
                let (head_kv, first) = (of / parts, of % parts * heads);
                let Some(span) = visible(&spans[3 * t..3 * t + 3], n_seq, n_ctx) else {
                    let index = spans[3 * t + 2].into();
                    return work.fail(OpError::Index { op: "flash_attn_ext", index, limit: n_ctx + 1 });
                };
                let (head, heads) = (head_kv * group + first, heads.min(group - first));
                let scratch = work.scratch.cast();
                let part = Part { level, q: &q, k: &k, v: &v, y: &dst, head, heads, head_kv, t, span, scale, scratch };
                // SAFETY: the span lies within the cache; the operands are not written in this step, the result's rows are
                // this item's own, and the scratch this thread's; the level is one that the processor has.
                unsafe { attend(&part) }
            }
        });
    };
    let reads = [q, k, v, span].iter().map(RawTensor::span).collect();
    vec![Step::shared(run, reads, vec![dst.span()])]
}

/// Bytes of a row of a cache: the shape rule let only whole blocks pass.
pub(super) fn row_bytes(cache: &RawTensor) -> usize {
    cache.desc.ne[0] / cache.desc.ty.block_size() * cache.desc.ty.type_size()
}

/// Decodes the row of a cache that lies `offset` bytes behind its first.
///
/// # Safety
/// The row exists and nobody writes it meanwhile; as many floats may be written.
pub(super) unsafe fn decode(level: SimdLevel, cache: &RawTensor, offset: usize, to: *mut f32) {
    let (ty, n) = (cache.desc.ty, cache.desc.ne[0]);
    // SAFETY: the caller's promise.
    unsafe {
        let row = std::slice::from_raw_parts(cache.at(offset).cast_const(), row_bytes(cache));
        row_to_f32(level, ty, row, std::slice::from_raw_parts_mut(to, n));
    }
}

/// # Safety
/// The level is supported. K and V may be read at all positions of the span, q at the part's rows; nobody else touches those
/// of y, or the scratch.
unsafe fn attend(part: &Part) {
    #[cfg(target_arch = "x86_64")]
    {
        use super::gemm_f32::Vector;
        use crate::mul_mat::{vector_avx2::Avx2, vector_avx512::Avx512};
        use crate::simd::Floats;
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2(part: &Part) {
            // SAFETY: the caller's promises.
            unsafe { body::<Vector<Avx2>>(part) }
        }
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
        unsafe fn avx512(part: &Part) {
            // SAFETY: the caller's promises.
            unsafe { body::<Vector<Avx512>>(part) }
        }
        match part.level.floats() {
            Floats::Plain => {}
            // SAFETY: the caller's promises.
            Floats::Avx2 => return unsafe { avx2(part) },
            // SAFETY: the caller's promises.
            Floats::Avx512 => return unsafe { avx512(part) },
        }
    }
    // SAFETY: the caller's promises.
    unsafe { body::<Plain>(part) }
}

/// # Safety
/// As [`attend`], and this is inlined where the features of `M` are enabled.
#[inline(always)]
unsafe fn body<M: MatMul>(b: &Part) {
    let (d, dv, n_ctx) = (b.k.desc.ne[0], b.v.desc.ne[0], b.k.desc.ne[2]);
    let (seq, first, end) = b.span;
    // Positions of one chunk: first and number.
    let parts = || {
        (first / CHUNK..end.div_ceil(CHUNK)).map(|c| {
            let from = first.max(c * CHUNK);
            (from, end.min((c + 1) * CHUNK) - from)
        })
    };
    let scores = b.scratch;
    // SAFETY: `scratch` has counted these; all rows and positions exist (the caller's promise).
    unsafe {
        let sums = scores.add(b.heads * n_ctx);
        let rows = sums.add(b.heads * dv);
        let load = |cache: &RawTensor, from: usize, n: usize| {
            for j in 0..n {
                let row = |position| cache.desc.row_offset(b.head_kv, position, seq);
                if from + j + AHEAD < end {
                    fetch(cache.at(row(from + j + AHEAD)), row_bytes(cache));
                }
                let at = row(from + j);
                decode(b.level, cache, at, rows.add(j * cache.desc.ne[0]));
            }
        };
        for (from, n) in parts() {
            load(b.k, from, n);
            for h in 0..b.heads {
                let q = b.q.row((b.head + h, b.t, 0));
                for j in 0..n {
                    let k = std::slice::from_raw_parts(rows.add(j * d), d);
                    *scores.add(h * n_ctx + from - first + j) = dot16(q, k) * b.scale;
                }
            }
        }
        for h in 0..b.heads {
            soften(std::slice::from_raw_parts_mut(scores.add(h * n_ctx), end - first));
            b.y.row_mut((b.head + h, b.t, 0)).fill(0.0);
        }
        for (from, n) in parts() {
            load(b.v, from, n);
            let a = scores.add(from - first).cast_const();
            M::mul(Gemm {
                rows: b.heads,
                columns: dv,
                inner: n,
                a,
                a_row: n_ctx,
                a_col: 1,
                b: rows,
                b_row: dv,
                c: sums,
                c_row: dv,
                fresh: true,
            });
            for h in 0..b.heads {
                let sum = std::slice::from_raw_parts(sums.add(h * dv), dv);
                b.y.row_mut((b.head + h, b.t, 0)).iter_mut().zip(sum).for_each(|(y, o)| *y += o);
            }
        }
        for h in 0..b.heads {
            let weights = std::slice::from_raw_parts(scores.add(h * n_ctx), end - first);
            let total = chunks(first, weights).fold(0f32, |sum, (_, p)| sum + sum64([p], |[p]| p));
            normalize(b.y.row_mut((b.head + h, b.t, 0)), total);
        }
    }
}

/// dot16 of docs/numerics.md.
#[inline(always)]
fn dot16(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += a[i] * b[i];
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += a * b;
    }
    tree(lanes)
}
