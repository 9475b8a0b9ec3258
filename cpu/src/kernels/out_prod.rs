use super::multiversion;
use crate::program::{Compiler, RawTensor, Step, Work};
use ggml_ops::{OpError, quants};

multiversion! {
    fn add_scaled(y: &mut [f32], a: &[f32], b: f32) {
        y.iter_mut().zip(a).for_each(|(y, a)| *y += a * b);
    }
}

/// Plain: one decoded row of `a` at a time, added to each row of the result, in order of r.
pub(crate) fn out_prod(c: Compiler) -> Vec<Step> {
    let (level, dst, a, b) = (c.level, c.dst, c.src[0], c.src[1]);
    c.shared.scratch = c.shared.scratch.max(4 * a.desc.ne[0]);
    // An item is a block of rows of the result, so that a row of `a` is decoded once for many of them.
    let per_item = dst.desc.ne[1].div_ceil(c.threads).clamp(1, 64);
    let items = dst.desc.ne[1].div_ceil(per_item);
    let run = move |work: &Work| {
        // SAFETY: the scratch is this thread's own and has at least ne[0] floats; alignment is 64.
        let row = unsafe { std::slice::from_raw_parts_mut(work.scratch.cast::<f32>(), a.desc.ne[0]) };
        work.share(items * dst.desc.ne[2] * dst.desc.ne[3], 1, |range| {
            for item in range {
                let (j0, i2, i3) =
                    (item % items * per_item, item / items % dst.desc.ne[2], item / (items * dst.desc.ne[2]));
                let rows = j0..(j0 + per_item).min(dst.desc.ne[1]);
                for j in rows.clone() {
                    // SAFETY: these rows of the result belong to this item.
                    unsafe { dst.row_mut((j, i2, i3)) }.fill(0.0);
                }
                for r in 0..a.desc.ne[1] {
                    let bytes = a.desc.ty.row_size(a.desc.ne[0]).unwrap_or(0);
                    // SAFETY: row r of a exists, has contiguous elements and is not written in this step.
                    let from =
                        unsafe { std::slice::from_raw_parts(a.at(a.desc.row_offset(r, i2, i3)).cast_const(), bytes) };
                    if let Err(e) = quants::dequantize(a.desc.ty, from, row) {
                        return work.fail(OpError::Backend { backend: "cpu", what: e.to_string() });
                    }
                    for j in rows.clone() {
                        // SAFETY: element (j, r) of b exists and is F32; the row of the result belongs to this item.
                        unsafe {
                            let b = b.at(b.desc.row_offset(r, i2, i3) + j * b.desc.nb[0]).cast::<f32>().read();
                            add_scaled(level, dst.row_mut((j, i2, i3)), row, b);
                        }
                    }
                }
            }
        });
    };
    vec![Step {
        run: Box::new(run),
        reads: [a, b].iter().map(RawTensor::span).collect(),
        writes: vec![dst.span()],
        alone: false,
    }]
}
