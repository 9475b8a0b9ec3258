use super::multiversion;
use crate::program::{Compiler, RawTensor, Step, Work};
use ggml_ops::ops::{Rope, RopeMode};

multiversion! {
    fn rope_row(x: &[f32], cs: &[f32], y: &mut [f32], mode: RopeMode, inverse: bool) {
        let n_rot = cs.len();
        y[n_rot..].copy_from_slice(&x[n_rot..]);
        let sign = if inverse { -1.0f32 } else { 1.0 };
        match mode {
            RopeMode::Normal => {
                for ((y, x), cs) in y.chunks_exact_mut(2).zip(x.chunks_exact(2)).zip(cs.chunks_exact(2)) {
                    let (c, s) = (cs[0], sign * cs[1]);
                    (y[0], y[1]) = (x[0] * c - x[1] * s, x[0] * s + x[1] * c);
                }
            }
            RopeMode::Neox => {
                let half = n_rot / 2;
                let ((x0, x1), (y0, y1)) = (x[..n_rot].split_at(half), y[..n_rot].split_at_mut(half));
                let x = x0.iter().zip(&x1[..half]);
                for ((y0, y1), ((x0, x1), cs)) in y0.iter_mut().zip(y1).zip(x.zip(cs.as_chunks::<2>().0)) {
                    let (c, s) = (cs[0], sign * cs[1]);
                    (*y0, *y1) = (x0 * c - x1 * s, x0 * s + x1 * c);
                }
            }
        }
    }
}

pub(crate) fn rope(c: Compiler, op: &Rope) -> Vec<Step> {
    let (level, dst, x, table) = (c.level, c.dst, c.src[0], c.src[1]);
    let (mode, inverse) = (op.mode, op.inverse);
    let run = move |work: &Work| {
        work.share(dst.desc.rows(), 16, |rows| {
            for r in rows {
                let index @ (_, t, _) = dst.desc.row_index(r);
                // SAFETY: each row of the result belongs to one thread; the operands are not written.
                let (x, cs, y) = unsafe { (x.row(index), table.row((t, 0, 0)), dst.row_mut(index)) };
                rope_row(level, x, cs, y, mode, inverse);
            }
        });
    };
    vec![Step::over(dst.desc.elements(), run, [x, table].iter().map(RawTensor::span).collect(), vec![dst.span()])]
}
