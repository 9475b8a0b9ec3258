use super::add::{elementwise, pairs};
use super::*;
use crate::{Graph, TensorId};

/// `a * b`, element by element, with `b` repeated to the shape of `a`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mul;

impl OpDef for Mul {
    const NAME: &'static str = "mul";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [a, b] = operands(Self::NAME, src)?;
        f32_rows(Self::NAME, 0, &a)?;
        f32_rows(Self::NAME, 1, &b)?;
        repeats_to(Self::NAME, 1, &b, &a)?;
        TensorDesc::new(GgmlType::F32, &a.ne)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        elementwise(src, dst, |a, b| a * b);
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        if b.wants(0) {
            let (grad, other) = (b.grad(), b.src(1));
            let g = b.graph().mul(grad, other)?;
            b.add_to(0, g)?;
        }
        if b.wants(1) {
            if b.desc(1).ne != b.desc(0).ne {
                return b.not_differentiable("the gradient of a repeated operand is not implemented");
            }
            let (grad, other) = (b.grad(), b.src(0));
            let g = b.graph().mul(grad, other)?;
            b.add_to(1, g)?;
        }
        Ok(())
    }

    fn cases() -> Vec<Case<Self>> {
        pairs().into_iter().map(|(a, b)| Case::new(Mul, [a, b], Tolerance::ELEMENTWISE)).collect()
    }
}

impl Graph {
    /// `a * b` element by element, `b` repeated to the shape of `a`.
    pub fn mul(&mut self, a: TensorId, b: TensorId) -> Result<TensorId, ShapeError> {
        self.op(Mul, &[a, b])
    }
}
