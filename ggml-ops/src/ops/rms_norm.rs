use super::*;
use crate::{Graph, TensorId};

/// Root-mean-square normalization of each row, times a weight: `x / sqrt(mean(x^2) + eps) * w`
/// ([Zhang and Sennrich 2019](https://arxiv.org/abs/1910.07467)).
///
/// Operands: x `[n, ..]`, w `[n]`. Result: the shape of x.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNorm {
    /// Added to the mean before the root.
    pub eps: f32,
}

impl OpDef for RmsNorm {
    const NAME: &'static str = "rms_norm";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [x, w] = operands(Self::NAME, src)?;
        f32_rows(Self::NAME, 0, &x)?;
        f32_rows(Self::NAME, 1, &w)?;
        same_shape(Self::NAME, 1, &w, [x.ne[0], 1, 1, 1])?;
        TensorDesc::new(GgmlType::F32, &x.ne)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        let (x, w, n) = (&src[0], &src[1].data, src[0].ne[0]);
        for (x, y) in x.rows().zip(dst.data.chunks_exact_mut(n)) {
            let r = inverse_rms(x, self.eps);
            for i in 0..n {
                y[i] = x[i] * r * w[i];
            }
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        if b.wants(1) {
            return b.not_differentiable("norm weights are not trained");
        }
        let (x, w, grad) = (b.src(0), b.src(1), b.grad());
        let g = b.graph().rms_norm_back(x, w, grad, self.eps)?;
        b.add_to(0, g)
    }

    fn cases() -> Vec<Case<Self>> {
        // One division, one square root, two products, and a sum whose relative error is far below them.
        [&[64usize, 5][..], &[1, 3], &[100, 3, 2], &[2560, 2]]
            .iter()
            .map(|ne| {
                let x = Operand::f32(ne).padded();
                Case::new(RmsNorm { eps: 1e-5 }, [x, Operand::f32(&ne[..1])], Tolerance::relative(1e-6)).differentiable(&[0])
            })
            .collect()
    }
}

pub(super) fn inverse_rms(x: &[f64], eps: f32) -> f64 {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    1.0 / (mean + f64::from(eps)).sqrt()
}

impl Graph {
    /// `x / sqrt(mean(x^2) + eps) * w` for each row.
    pub fn rms_norm(&mut self, x: TensorId, w: TensorId, eps: f32) -> Result<TensorId, ShapeError> {
        self.op(RmsNorm { eps }, &[x, w])
    }
}
