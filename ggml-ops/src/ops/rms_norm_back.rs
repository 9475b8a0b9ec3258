use super::rms_norm::inverse_rms;
use super::*;
use crate::{Graph, TensorId};

/// The gradient of [`RmsNorm`] with respect to x.
///
/// With `r = 1 / sqrt(mean(x^2) + eps)` and `h = dy * w`: `dx = r * h - x * r^3 * mean(h * x)`.
/// Operands: x, w, dy. Result: the shape of x.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNormBack {
    /// As in [`RmsNorm`].
    pub eps: f32,
}

impl OpDef for RmsNormBack {
    const NAME: &'static str = "rms_norm_back";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [x, w, dy] = operands(Self::NAME, src)?;
        f32_rows(Self::NAME, 0, &x)?;
        f32_rows(Self::NAME, 1, &w)?;
        f32_rows(Self::NAME, 2, &dy)?;
        same_shape(Self::NAME, 1, &w, [x.ne[0], 1, 1, 1])?;
        same_shape(Self::NAME, 2, &dy, x.ne)?;
        TensorDesc::new(GgmlType::F32, &x.ne)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        let (x, w, dy, n) = (&src[0], &src[1].data, &src[2], src[0].ne[0]);
        for ((x, dy), dx) in x.rows().zip(dy.rows()).zip(dst.data.chunks_exact_mut(n)) {
            let r = inverse_rms(x, self.eps);
            let mean = (0..n).map(|i| dy[i] * w[i] * x[i]).sum::<f64>() / n as f64;
            for i in 0..n {
                dx[i] = r * dy[i] * w[i] - x[i] * (r * r * r * mean);
            }
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        b.not_differentiable("second derivatives are not needed")
    }

    fn cases() -> Vec<Case<Self>> {
        // A difference of two terms of similar size: absolute error, relative to the largest value.
        [&[64usize, 5][..], &[100, 3, 2], &[2560, 2]]
            .iter()
            .map(|ne| {
                let src = [Operand::f32(ne), Operand::f32(&ne[..1]), Operand::f32(ne)];
                Case::new(RmsNormBack { eps: 1e-5 }, src, Tolerance::relative(3e-6))
            })
            .collect()
    }
}

impl Graph {
    /// The gradient of [`Graph::rms_norm`] with respect to `x`.
    pub fn rms_norm_back(&mut self, x: TensorId, w: TensorId, dy: TensorId, eps: f32) -> Result<TensorId, ShapeError> {
        self.op(RmsNormBack { eps }, &[x, w, dy])
    }
}
