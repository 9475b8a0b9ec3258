//! Attention: the scores of a query, their maximum, then weights and values chunk by chunk (docs/numerics.md).

use super::{exp, flash_attn_ext_decoded, max64, sum64};
#[cfg(target_arch = "x86_64")]
use super::{flash_attn_ext_few, flash_attn_ext_rows};
use crate::program::{Compiler, RawTensor, Step, Work};
#[cfg(target_arch = "x86_64")]
use crate::simd::{Floats, SimdLevel};
use ggml_ops::OpError;
use ggml_ops::numerics::tree;
use ggml_ops::ops::FlashAttnExt;
use gguf::GgmlType;
use half::f16;

pub(super) const CHUNK: usize = FlashAttnExt::CHUNK;
/// Queries of one head that a thread takes at a time: their keys and values are then in its cache.
const GRAIN: usize = 8;

/// One query of one head.
struct Query<'a> {
    q: &'a [f32],
    /// K of the first visible position, and bytes from one position to the next.
    k: *const u8,
    k_stride: usize,
    /// V likewise.
    v: *const u8,
    v_stride: usize,
    /// The first visible position.
    first: usize,
    scale: f32,
    /// One for each visible position.
    scores: &'a mut [f32],
    y: &'a mut [f32],
}

/// # Errors
/// [`OpError::Backend`] if there is no memory.
pub(crate) fn flash_attn_ext(c: Compiler, scale: f32) -> Result<Vec<Step>, OpError> {
    let (dst, q, k, v, span) = (c.dst, c.src[0], c.src[1], c.src[2], c.src[3]);
    #[cfg(target_arch = "x86_64")]
    if c.level != SimdLevel::Scalar && q.desc.ne[2] >= flash_attn_ext_rows::MANY {
        return Ok(many(c, scale));
    }
    if [k, v].iter().any(|cache| cache.desc.ty != GgmlType::F16) {
        return Ok(flash_attn_ext_decoded::few(c, scale));
    }
    #[cfg(target_arch = "x86_64")]
    if c.level.floats() != Floats::Plain && [k, v].iter().all(|cache| cache.desc.ne[0].is_multiple_of(16)) {
        return flash_attn_ext_few::few(c, scale);
    }
    let (n_ctx, n_seq) = (k.desc.ne[2], k.desc.ne[3]);
    c.shared.scratch = c.shared.scratch.max(4 * n_ctx);
    let (n_head, n_tokens) = (q.desc.ne[1], q.desc.ne[2]);
    let group = n_head / k.desc.ne[1];
    let run = move |work: &Work| {
        // SAFETY: span is contiguous I32 (checked by the operation) and not written in this step.
        let spans = unsafe { span.ints() };
        // SAFETY: the scratch is this thread's own, with room for n_ctx floats; 64-byte aligned.
        let scores = unsafe { std::slice::from_raw_parts_mut(work.scratch.cast::<f32>(), n_ctx) };
        work.share(n_head * n_tokens, GRAIN, |items| {
            for item in items {
                let (h, t) = (item / n_tokens, item % n_tokens);
                let Some((seq, first, end)) = visible(&spans[3 * t..3 * t + 3], n_seq, n_ctx) else {
                    work.fail(OpError::Index {
                        op: "flash_attn_ext",
                        index: spans[3 * t + 2].into(),
                        limit: n_ctx + 1,
                    });
                    continue;
                };
                // SAFETY: row (h, t) of q and of the result exist, the latter is this item's own.
                let (q, y) = unsafe { (q.row((h, t, 0)), dst.row_mut((h, t, 0))) };
                // SAFETY: position `first` of sequence `seq` exists if any is visible.
                let at = |x: &RawTensor| unsafe { x.at(x.desc.row_offset(h / group, first, seq)) }.cast_const();
                let (k_stride, v_stride) = (k.desc.nb[2], v.desc.nb[2]);
                let scores = &mut scores[..end - first];
                let query = Query { q, k: at(&k), k_stride, v: at(&v), v_stride, first, scale, scores, y };
                // SAFETY: K and V of the visible positions lie at these strides and are not written in this step.
                unsafe { plain(query) }
            }
        });
    };
    let reads = [q, k, v, span].iter().map(RawTensor::span).collect();
    Ok(vec![Step::shared(run, reads, vec![dst.span()])])
}

/// For many queries: blocks of those of one head.
#[cfg(target_arch = "x86_64")]
fn many(c: Compiler, scale: f32) -> Vec<Step> {
    use flash_attn_ext_rows::{Block, ROWS};
    let (level, dst, q, k, v, span) = (c.level, c.dst, c.src[0], c.src[1], c.src[2], c.src[3]);
    let (n_ctx, n_seq) = (k.desc.ne[2], k.desc.ne[3]);
    let scratch = flash_attn_ext_rows::scratch(k.desc.ne[0], v.desc.ne[0], n_ctx);
    c.shared.scratch = c.shared.scratch.max(scratch.saturating_mul(4));
    let (n_head, n_tokens) = (q.desc.ne[1], q.desc.ne[2]);
    let (group, blocks) = (n_head / k.desc.ne[1], n_tokens.div_ceil(ROWS));
    let run = move |work: &Work| {
        // SAFETY: span is contiguous I32 (checked by the operation) and not written in this step.
        let spans = unsafe { span.ints() };
        work.share(n_head * blocks, 1, |items| {
            for item in items {
                // The last queries see the most: first, so that all threads end together.
                let (head, block) = (item / blocks, blocks - 1 - item % blocks);
                let (mut from, end) = (block * ROWS, n_tokens.min((block + 1) * ROWS));
                while from < end {
                    let (mut n, mut seq, mut seen) = (0, 0, [(0, 0); ROWS]);
                    for span in spans[3 * from..3 * end].chunks_exact(3) {
                        let Some((of, first, end)) = visible(span, n_seq, n_ctx) else {
                            work.fail(OpError::Index { op: "flash_attn_ext", index: span[2].into(), limit: n_ctx + 1 });
                            return;
                        };
                        if n > 0 && of != seq {
                            break;
                        }
                        seq = of;
                        seen[n] = (first, end);
                        n += 1;
                    }
                    let (head_kv, scratch) = (head / group, work.scratch.cast());
                    let spans = &seen[..n];
                    let block =
                        Block { level, q: &q, k: &k, v: &v, y: &dst, head, head_kv, seq, from, spans, scale, scratch };
                    // SAFETY: the spans lie within the cache; the operands are not written in this step, the result's rows
                    // are this item's own, and the scratch this thread's; the level is one that the processor has.
                    unsafe { flash_attn_ext_rows::attend(&block) }
                    from += n;
                }
            }
        });
    };
    let reads = [q, k, v, span].iter().map(RawTensor::span).collect();
    vec![Step::shared(run, reads, vec![dst.span()])]
}

/// Sequence, first and end, if they lie within the cache.
pub(super) fn visible(span: &[i32], n_seq: usize, n_ctx: usize) -> Option<(usize, usize, usize)> {
    let [seq, first, end] = [0, 1, 2].map(|i| usize::try_from(span[i]).ok());
    let (seq, first, end) = (seq?, first?, end?);
    (seq < n_seq && first <= end && end <= n_ctx && first < n_ctx).then_some((seq, first, end))
}

/// # Safety
/// K and V are readable at every visible position.
unsafe fn plain(query: Query) {
    let Query { q, k, k_stride, v, v_stride, first, scale, scores, y } = query;
    // SAFETY: the caller's promise, for j below the number of scores.
    let row = |base: *const u8, stride: usize, j: usize, n: usize| unsafe {
        std::slice::from_raw_parts(base.add(j * stride).cast::<f16>(), n)
    };
    for (j, score) in scores.iter_mut().enumerate() {
        let mut lanes = [0f32; 16];
        for (i, (q, k)) in q.iter().zip(row(k, k_stride, j, q.len())).enumerate() {
            lanes[i % 16] += q * k.to_f32();
        }
        *score = tree(lanes) * scale;
    }
    soften(scores);
    y.fill(0.0);
    let mut total = 0f32;
    let mut part = vec![0f32; y.len()];
    for (start, weights) in chunks(first, scores) {
        total += sum64([weights], |[p]| p);
        part.fill(0.0);
        for (j, p) in weights.iter().enumerate() {
            for (o, v) in part.iter_mut().zip(row(v, v_stride, start + j, y.len())) {
                *o += p * v.to_f32();
            }
        }
        y.iter_mut().zip(&part).for_each(|(y, o)| *y += o);
    }
    normalize(y, total);
}

/// Positions whose rows are fetched ahead: those of a head lie far apart, where no processor looks for them by itself.
pub(super) const AHEAD: usize = 96;

/// Fetches a row of the cache from memory.
#[inline(always)]
pub(super) fn fetch(row: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is there on every x86-64, and fetching does nothing where nothing is mapped.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        for at in (0..bytes).step_by(64) {
            _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(at).cast());
        }
        // A row may begin within a line.
        _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(bytes.saturating_sub(1)).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (row, bytes);
}

/// Scores to weights: exp of the distance to the maximum.
#[inline(always)]
pub(super) fn soften(scores: &mut [f32]) {
    let max = max64(scores);
    scores.iter_mut().for_each(|s| *s = exp(*s - max));
}

/// The weights in chunks that end at multiples of [`CHUNK`] positions, with the index of each chunk's first.
#[inline(always)]
pub(super) fn chunks(first: usize, weights: &[f32]) -> impl Iterator<Item = (usize, &[f32])> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let len = (CHUNK - (first + start) % CHUNK).min(weights.len() - start);
        let part = &weights[start..start + len];
        start += len;
        (len > 0).then_some((start - len, part))
    })
}

#[inline(always)]
pub(super) fn normalize(y: &mut [f32], total: f32) {
    let factor = if total > 0.0 { 1.0 / total } else { 0.0 };
    y.iter_mut().for_each(|y| *y *= factor);
}
