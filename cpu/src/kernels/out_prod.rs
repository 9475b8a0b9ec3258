//! out_prod as steps: gradients rounded where the weights ask for it, then tiles of the result shared out.

use super::elementwise::Then;
use crate::out_prod::{
    COLUMNS, Job, Rounding, Split, bf16, float, record_size, records_size, round_token, scratch_size, uniform,
};
use crate::program::{ALONE, Compiler, RawTensor, Step, Work};
use crate::simd::SimdLevel;
use ggml_ops::ops::OutProd;
use ggml_ops::{OpError, TensorDesc};

/// To what the gradients `b` are rounded; `None`: they stay f32.
pub(crate) fn rounding(op: &OutProd, a: &TensorDesc, b: &TensorDesc, bf16_gradients: bool) -> Option<Rounding> {
    /// Rounding pays where each value is used this often: with weights, and not with an adapter of low rank.
    const USES: usize = 32;
    match op.uniform_scale {
        Some(d) => Some(Rounding::Int16(d)),
        None => (bf16_gradients && a.ne[0].min(a.ne[1]).min(b.ne[0]) >= USES).then_some(Rounding::Bf16),
    }
}

/// Bytes for gradients `b`, so rounded.
pub(crate) fn activation_bytes(level: SimdLevel, to: Rounding, b: &TensorDesc) -> usize {
    let tokens = b.ne[0].saturating_mul(b.ne[2]).saturating_mul(b.ne[3]);
    records_size(b.ne[1], tokens, to.takes_tiles(level, b.ne[0]))
}

pub(crate) fn out_prod(c: Compiler, op: &OutProd) -> Result<Vec<Step>, OpError> {
    let (level, dst, a, b) = (c.level, c.dst, c.src[0], c.src[1]);
    let ([m, rows, n2, n3], tokens) = (a.desc.ne, b.desc.ne[0]);
    let rounding = rounding(op, &a.desc, &b.desc, c.bf16_gradients);
    let amx = rounding.is_some_and(|to| to.takes_tiles(level, tokens));
    c.shared.scratch = c.shared.scratch.max(scratch_size(rows, op.uniform_scale.is_some()));
    let mut steps = Vec::new();
    let mut records = None;
    if let Some(to_type) = rounding {
        let missing = || OpError::Backend { backend: "cpu", what: "no memory was planned for gradients".into() };
        let memory = c.shared.activations.clone().ok_or_else(missing)?;
        // What it held for a multiplication is overwritten.
        c.shared.holds = None;
        let to = memory.clone();
        let round = move |work: &Work| {
            work.share(tokens * n2 * n3, 4, |items| {
                for item in items {
                    let (t, i2, i3) = (item % tokens, item / tokens % n2, item / tokens / n2);
                    // SAFETY: values of b, which is F32, are not written in this step; each item has a record.
                    unsafe {
                        let x = b.at(b.desc.row_offset(0, i2, i3) + t * b.desc.nb[0]);
                        let record = to.as_ptr().add(item * record_size(rows));
                        round_token(level, to_type, amx, x, rows, b.desc.nb[1], record);
                    }
                }
            });
        };
        let start = memory.as_ptr() as usize;
        let span = start..start + activation_bytes(level, to_type, &b.desc);
        steps.push(Step::over(b.desc.elements(), round, vec![b.span()], vec![span.clone()]));
        records = Some((memory, span));
    }

    let split = Split::new(m, tokens, n2 * n3, c.threads, amx);
    let per_batch = split.items(m, tokens);
    let then = c.then;
    let mut reads = vec![a.span(), records.as_ref().map_or_else(|| b.span(), |(_, span)| span.clone())];
    reads.extend(Then::reads(&then));
    let run = move |work: &Work| {
        work.share(per_batch * n2 * n3, 1, |items| {
            for item in items {
                let batch = item / per_batch;
                let (i2, i3) = (batch % n2, batch / n2);
                let (tiles, range) = split.item(item % per_batch, m, tokens);
                // SAFETY: the batch exists in all three tensors; a and b (or its records) are not written in this step;
                // the tiles of these tokens belong to this item; the scratch is this thread's own, of the size asked for.
                unsafe {
                    let at = |t: &RawTensor| t.at(t.desc.row_offset(0, i2, i3));
                    let (a_stride, y_token) = (a.desc.nb[1], dst.desc.nb[1]);
                    let (b, b_token, b_step) = match &records {
                        Some((memory, _)) => {
                            let size = record_size(rows);
                            (memory.as_ptr().add(batch * tokens * size), size, 4)
                        }
                        None => (at(&b), b.desc.nb[0], b.desc.nb[1]),
                    };
                    let (ty, y, scratch) = (a.desc.ty, at(&dst), work.scratch);
                    let a = at(&a);
                    let job = Job { level, amx, ty, m, rows, a, a_stride, b, b_token, b_step, y, y_token, scratch };
                    let columns = tiles.start * COLUMNS..(tiles.end * COLUMNS).min(m);
                    match rounding {
                        Some(Rounding::Int16(d)) => uniform(&job, d, tiles, range.clone()),
                        Some(Rounding::Bf16) => bf16(&job, tiles, range.clone()),
                        None => float(&job, tiles, range.clone()),
                    }
                    Then::apply(&then, level, &dst, columns, range, (i2, i3));
                }
            }
        });
    };
    let products = dst.desc.elements().saturating_mul(rows);
    let alone = products <= 8 * ALONE;
    steps.push(Step { alone, ..Step::shared(run, reads, vec![dst.span()]) });
    Ok(steps)
}
