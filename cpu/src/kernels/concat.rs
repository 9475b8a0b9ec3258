use crate::program::{Compiler, RawTensor, Step, Work};
use ggml_ops::ops::Concat;

/// One operand beside the other, column by column.
pub(crate) fn concat(c: Compiler, op: &Concat) -> Vec<Step> {
    let (dst, a, b) = (c.dst, c.src[0], c.src[1]);
    let dim = op.dim;
    let run = move |work: &Work| {
        work.share(dst.desc.ne[1], 8, |items| {
            for j in items {
                // SAFETY: column j of the result belongs to one thread; the columns of the operands that it is made of exist
                // and are not written in this step.
                unsafe {
                    let y = dst.row_mut((j, 0, 0));
                    if dim == 0 {
                        let (left, right) = y.split_at_mut(a.desc.ne[0]);
                        left.copy_from_slice(a.row((j, 0, 0)));
                        right.copy_from_slice(b.row((j, 0, 0)));
                    } else if j < a.desc.ne[1] {
                        y.copy_from_slice(a.row((j, 0, 0)));
                    } else {
                        y.copy_from_slice(b.row((j - a.desc.ne[1], 0, 0)));
                    }
                }
            }
        });
    };
    vec![Step::over(dst.desc.elements(), run, [a, b].iter().map(RawTensor::span).collect(), vec![dst.span()])]
}
