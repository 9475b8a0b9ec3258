use super::*;
use crate::{Graph, TensorId};

/// A contiguous copy rounded to F16: in training, what the KV cache does to K and V.
///
/// Operand: x of F32. Result: its shape in F16. The gradient passes straight through the rounding
/// ([Bengio et al. 2013](https://arxiv.org/abs/1308.3432)) and stays F32.
#[derive(Clone, Debug, PartialEq)]
pub struct Cpy;

impl OpDef for Cpy {
    const NAME: &'static str = "cpy";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [x] = operands(Self::NAME, src)?;
        f32_rows(Self::NAME, 0, &x)?;
        TensorDesc::new(GgmlType::F16, &x.ne)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        // The evaluator rounds every F16 result.
        dst.data.clone_from(&src[0].data);
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        let grad = b.grad();
        b.add_to(0, grad)
    }

    fn cases() -> Vec<Case<Self>> {
        let f = Operand::f32;
        [
            f(&[5]),
            f(&[64, 3, 7]),
            f(&[32, 4, 3]).swapped(1, 2),
            f(&[9, 4]).padded().range(-6e4, 6e4),
            f(&[64, 2]).range(-1e-6, 1e-6),
        ]
        // A staircase has no slope to compare with.
        .map(|x| Case::new(Cpy, [x], Tolerance::EXACT).differentiable(&[]))
        .into()
    }
}

impl Graph {
    /// A contiguous copy of `x`, rounded to F16.
    pub fn cpy_f16(&mut self, x: TensorId) -> Result<TensorId, ShapeError> {
        self.op(Cpy, &[x])
    }
}
