//! rms_norm and its gradient.

use super::{multiversion, sum64};
use crate::program::{Compiler, RawTensor, Step, Work};

multiversion! {
    fn norm_row(x: &[f32], w: &[f32], y: &mut [f32], eps: f32) {
        let r = 1.0 / (sum64([x], |[x]| x * x) / x.len() as f32 + eps).sqrt();
        for (y, (x, w)) in y.iter_mut().zip(x.iter().zip(w)) {
            *y = (x * r) * w;
        }
    }
}

multiversion! {
    fn norm_back_row(x: &[f32], w: &[f32], dy: &[f32], dx: &mut [f32], eps: f32) {
        let n = x.len() as f32;
        let r = 1.0 / (sum64([x], |[x]| x * x) / n + eps).sqrt();
        let mean = sum64([x, w, dy], |[x, w, dy]| (dy * w) * x) / n;
        let k = ((r * r) * r) * mean;
        for i in 0..dx.len() {
            dx[i] = r * (dy[i] * w[i]) - x[i] * k;
        }
    }
}

/// One step over whole rows of the result; operand `i` has the result's rows, or one row for all.
pub(crate) fn whole_rows<const N: usize>(
    c: Compiler,
    row: impl Fn(crate::simd::SimdLevel, [&[f32]; N], &mut [f32]) + Send + Sync + 'static,
) -> Vec<Step> {
    let (level, dst) = (c.level, c.dst);
    let src: [RawTensor; N] = std::array::from_fn(|i| c.src[i]);
    // Several rows at a time, so that threads seldom write what others read.
    let grain = (dst.desc.rows() / (8 * c.threads)).clamp(1, 16);
    let run = move |work: &Work| {
        work.share(dst.desc.rows(), grain, |rows| {
            for r in rows {
                let index @ (i1, i2, i3) = dst.desc.row_index(r);
                let operands = src.map(|t| {
                    let ne = t.desc.ne;
                    // SAFETY: operands are not written in this step; the index is reduced to the operand's shape.
                    unsafe { t.row((i1 % ne[1], i2 % ne[2], i3 % ne[3])) }
                });
                // SAFETY: each row of the result belongs to one thread.
                row(level, operands, unsafe { dst.row_mut(index) });
            }
        });
    };
    vec![Step::over(dst.desc.elements(), run, src.iter().map(RawTensor::span).collect(), vec![dst.span()])]
}

pub(crate) fn rms_norm(c: Compiler, eps: f32) -> Vec<Step> {
    whole_rows(c, move |level, [x, w], y| norm_row(level, x, w, y, eps))
}

pub(crate) fn rms_norm_back(c: Compiler, eps: f32) -> Vec<Step> {
    whole_rows(c, move |level, [x, w, dy], dx| norm_back_row(level, x, w, dy, dx, eps))
}
