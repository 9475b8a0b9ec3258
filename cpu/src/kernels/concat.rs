use crate::program::{Compiler, RawTensor, Step, Work};

/// Columns of the operands, copied one after the other.
pub(crate) fn concat(c: Compiler) -> Vec<Step> {
    let (dst, a, b) = (c.dst, c.src[0], c.src[1]);
    let run = move |work: &Work| {
        work.share(dst.desc.ne[1], 8, |items| {
            for item in items {
                let (t, j) = if item < a.desc.ne[1] { (a, item) } else { (b, item - a.desc.ne[1]) };
                // SAFETY: column j of the operand exists and is not written in this step; each column of the result
                // belongs to one thread.
                unsafe { dst.row_mut((item, 0, 0)).copy_from_slice(t.row((j, 0, 0))) }
            }
        });
    };
    vec![Step::over(dst.desc.elements(), run, [a, b].iter().map(RawTensor::span).collect(), vec![dst.span()])]
}
