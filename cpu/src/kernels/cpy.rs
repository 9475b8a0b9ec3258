use crate::program::{Compiler, Step, Work};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Elements that a thread takes at a time: enough to pay for taking them.
const GRAIN: usize = 2048;

/// F32 to F16.
pub(crate) fn cpy(c: Compiler) -> Vec<Step> {
    let (dst, x) = (c.dst, c.src[0]);
    let len = dst.desc.ne[0];
    let run = move |work: &Work| {
        work.share(dst.desc.rows(), (GRAIN / len.max(1)).max(1), |rows| {
            for r in rows {
                let index @ (i1, i2, i3) = dst.desc.row_index(r);
                // SAFETY: each row of the result, contiguous F16 and aligned as its storage is, belongs to one thread; x has
                // the result's shape and is not written.
                let (x, y) = unsafe {
                    let at = dst.at(dst.desc.row_offset(i1, i2, i3)).cast::<f16>();
                    (x.row(index), std::slice::from_raw_parts_mut(at, len))
                };
                y.convert_from_f32_slice(x);
            }
        });
    };
    vec![Step::over(dst.desc.elements(), run, vec![x.span()], vec![dst.span()])]
}
