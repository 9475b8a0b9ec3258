//! mul_mat as steps: activations rounded by all threads, then rows of weights shared out.

use super::elementwise::Then;
use crate::mul_mat::packed::tables_size;
use crate::mul_mat::{
    ActFormat, Packing, WeightKind, act_size, act_stride, mul_mat as multiply, prepare, scratch_size,
};
use crate::program::{Compiler, Step, Weights, Work};
use crate::simd::SimdLevel;
use ggml_ops::ops::MulMat;
use ggml_ops::{OpError, TensorDesc};

/// How these weights are multiplied; `packed`: how they are packed, if they are.
///
/// # Errors
/// [`OpError::Unsupported`] for a type without a kernel.
pub(crate) fn weight_kind(op: &MulMat, w: &TensorDesc, packed: Option<Packing>) -> Result<WeightKind, OpError> {
    if let Some(packing) = packed {
        let missing = || OpError::Backend { backend: "cpu", what: "repacked weights have one scale".into() };
        return Ok(WeightKind::TernaryPacked { packing, d: op.uniform_scale.ok_or_else(missing)? });
    }
    WeightKind::new(w.ty, op.uniform_scale).ok_or_else(|| OpError::Unsupported {
        backend: "cpu",
        op: "mul_mat",
        why: format!("weights of type {}", w.ty),
    })
}

/// Bytes for the prepared activations of `x`.
pub(crate) fn activation_bytes(level: SimdLevel, kind: WeightKind, w: &TensorDesc, x: &TensorDesc) -> usize {
    if in_place(kind, w, x.ne[1]) { 0 } else { one_batch(level, kind, x) * x.ne[2] * x.ne[3] }
}

/// Whether the activations of n tokens are read where they are. Floats could always be: with more rows than an adapter's A has
/// and more columns than its B, it pays to copy them to distances that suit the caches.
fn in_place(kind: WeightKind, w: &TensorDesc, n: usize) -> bool {
    const FEW_ROWS: usize = 64;
    let [k, n_out, ..] = w.ne;
    let few = k.is_multiple_of(16) && (n_out <= FEW_ROWS || k == 16 && n > 1) || k == 8 && n > 1;
    kind.act_format() == ActFormat::F32 && few
}

fn one_batch(level: SimdLevel, kind: WeightKind, x: &TensorDesc) -> usize {
    act_size(level, kind.act_format(), x.ne[0], x.ne[1]).next_multiple_of(crate::memory::ALIGN)
}

pub(crate) fn mul_mat(c: Compiler, op: &MulMat) -> Result<Vec<Step>, OpError> {
    let (level, dst, w, x) = (c.level, c.dst, c.src[0], c.src[1]);
    let kind = weight_kind(op, &w.desc, w.packed)?;
    let format = kind.act_format();
    let (k, n_out) = (w.desc.ne[0], w.desc.ne[1]);
    let (n, batches) = (x.desc.ne[1], x.desc.ne[2] * x.desc.ne[3]);
    c.shared.scratch = c.shared.scratch.max(scratch_size(level, kind, k));
    let tables = tables_size(kind, k, n);
    c.shared.kept = c.shared.kept.max(tables);
    let in_place = in_place(kind, &w.desc, n);
    let missing = || OpError::Backend { backend: "cpu", what: "no memory was planned for activations".into() };
    let memory = if in_place { None } else { Some(c.shared.activations.clone().ok_or_else(missing)?) };
    let stride = one_batch(level, kind, &x.desc);
    let act_span = memory
        .as_ref()
        .map_or_else(|| x.span(), |memory| memory.as_ptr() as usize..memory.as_ptr() as usize + stride * batches);
    let mut steps = Vec::new();

    // Projections of the same input follow each other (q k v; gate up): it is rounded once.
    if let Some(memory) = &memory
        && c.shared.holds != Some((c.src_ids[1], format))
    {
        c.shared.holds = Some((c.src_ids[1], format));
        let to = memory.clone();
        let run = move |work: &Work| {
            work.share(batches * n, 4, |items| {
                for item in items {
                    let (t, batch) = (item % n, item / n);
                    let (i2, i3) = (batch % x.desc.ne[2], batch / x.desc.ne[2]);
                    // SAFETY: x is F32 with contiguous rows and is not written in this step; the memory has `stride`
                    // bytes for each batch, aligned, and each item is one token's part of one.
                    unsafe {
                        let from = x.at(x.desc.row_offset(0, i2, i3)).cast();
                        let act = to.as_ptr().add(batch * stride);
                        prepare(level, format, k, from, x.desc.nb[1] / 4, n, t, t + 1, act);
                    }
                }
            });
        };
        steps.push(Step::over(x.desc.elements(), run, vec![x.span()], vec![act_span.clone()]));
    }

    // Rows one after the other in memory are multiplied together; others (views of a permuted tensor) one by one.
    let dense = w.packed.is_some() || w.desc.nb[1] == kind.row_bytes(k);
    let grain =
        if dense { row_grain(n_out, c.threads).next_multiple_of(w.packed.map_or(1, Packing::height)) } else { 1 };
    let portions = n_out.div_ceil(grain);
    // Few rows are shared out by tokens. (One token may remain, which takes whole registers of x.)
    let by_tokens = dense && in_place && k.is_multiple_of(16) && portions * batches < c.threads;
    let token_grain = if by_tokens { n.div_ceil(2 * c.threads).next_multiple_of(8) } else { n };
    let parts = n.div_ceil(token_grain);
    let (r2, r3) = (x.desc.ne[2] / w.desc.ne[2], x.desc.ne[3] / w.desc.ne[3]);
    let (start, row_bytes) = (w.span().start, if dense { kind.row_bytes(k) } else { w.desc.nb[1] });
    // Within one batch the weights of a portion are known before its turn.
    let weights = if batches == 1 && dense && !by_tokens {
        Weights { start, size: n_out * row_bytes, portion: grain * row_bytes }
    } else {
        Weights::default()
    };
    let act_stride = act_stride(level, format, k, n);
    let then = c.then;
    let mut reads = vec![act_span, w.span()];
    reads.extend(Then::reads(&then));
    let run = move |work: &Work| {
        work.share_ahead(batches * portions * parts, &weights, |item| {
            let (portion, part, batch) = (item % portions, item / portions % parts, item / portions / parts);
            let (t0, n) = (part * token_grain, token_grain.min(n - part * token_grain));
            let (i2, i3) = (batch % x.desc.ne[2], batch / x.desc.ne[2]);
            let (r0, r1) = (portion * grain, (portion * grain + grain).min(n_out));
            // SAFETY: rows r0..r1 of this batch's weights exist and, if more than one, follow each other; the
            // activations were prepared in an earlier step, or are x itself, whose rows are contiguous; these columns
            // and tokens of the result belong to this item; the scratch is this thread's own, of the size asked for.
            unsafe {
                let from = w.at(w.desc.row_offset(0, i2 / r2, i3 / r3));
                let to = dst.at(dst.desc.row_offset(t0, i2, i3)).cast::<f32>();
                let (act, act_stride) = match &memory {
                    Some(memory) => (memory.as_ptr().add(batch * stride), act_stride),
                    None => (x.at(x.desc.row_offset(t0, i2, i3)), x.desc.nb[1]),
                };
                let y_stride = dst.desc.nb[1] / 4;
                let columns = r0..r1;
                let (from, r0, r1, to) =
                    if dense { (from, r0, r1, to) } else { (from.add(r0 * row_bytes), 0, 1, to.add(r0)) };
                let scratch = if tables > 0 { work.kept } else { work.scratch };
                multiply(level, kind, k, from, r0, r1, n, act, act_stride, to, y_stride, scratch, work.fetch);
                Then::apply(&then, level, &dst, columns, t0..t0 + n, (i2, i3));
            }
        });
    };
    steps.push(Step { run: Box::new(run), reads, writes: vec![dst.span()], alone: false, weights });
    Ok(steps)
}

/// Rows that a thread takes at a time: some ten portions for each, so that all end together, and no portion so small
/// that taking it costs more than computing it.
fn row_grain(n_out: usize, threads: usize) -> usize {
    if threads == 1 {
        return n_out;
    }
    n_out.div_ceil(threads * 10).next_multiple_of(32)
}
