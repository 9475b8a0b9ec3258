use super::*;
use crate::{Graph, TensorId};

/// Softmax of each row of `x * scale + mask`.
///
/// Operands: x `[n, m, ..]`, mask `[n, m]` of F32 (0 to keep, -inf to hide), repeated over the outer dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftMax {
    /// Multiplies x.
    pub scale: f32,
}

impl OpDef for SoftMax {
    const NAME: &'static str = "soft_max";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [x, mask] = operands(Self::NAME, src)?;
        f32_rows(Self::NAME, 0, &x)?;
        f32_rows(Self::NAME, 1, &mask)?;
        same_shape(Self::NAME, 1, &mask, [x.ne[0], x.ne[1], 1, 1])?;
        TensorDesc::new(GgmlType::F32, &x.ne)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        let (x, ne) = (&src[0], src[0].ne);
        for r in 0..ne[1] * ne[2] * ne[3] {
            let (i1, i2, i3) = (r % ne[1], r / ne[1] % ne[2], r / (ne[1] * ne[2]));
            let mask = src[1].row(i1, 0, 0);
            let z: Vec<f64> =
                x.row(i1, i2, i3).iter().zip(mask).map(|(v, m)| v * f64::from(self.scale) + m).collect();
            let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = z.iter().map(|v| (v - max).exp()).sum();
            for (y, v) in dst.row_mut(i1, i2, i3).iter_mut().zip(z) {
                *y = (v - max).exp() / sum;
            }
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        if b.wants(1) {
            return b.not_differentiable("masks are not trained");
        }
        let (y, grad) = (b.result(), b.grad());
        let g = b.graph().op(SoftMaxBack { scale: self.scale }, &[y, grad])?;
        b.add_to(0, g)
    }

    fn cases() -> Vec<Case<Self>> {
        [&[1usize, 1][..], &[70, 3], &[33, 5, 4], &[512, 2]]
            .iter()
            .map(|ne| {
                let src = [Operand::f32(ne).range(-4.0, 4.0), Operand::causal_mask(ne[0], ne[1])];
                Case::new(SoftMax { scale: 0.7 }, src, Tolerance::relative(2e-6)).differentiable(&[0])
            })
            .collect()
    }
}

impl Graph {
    /// Softmax of each row of `x * scale + mask`.
    pub fn soft_max(&mut self, x: TensorId, mask: TensorId, scale: f32) -> Result<TensorId, ShapeError> {
        self.op(SoftMax { scale }, &[x, mask])
    }
}
