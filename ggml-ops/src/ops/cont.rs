use super::*;
use crate::{Graph, TensorId};

/// A contiguous copy of a view with any strides.
#[derive(Clone, Debug, PartialEq)]
pub struct Cont;

impl OpDef for Cont {
    const NAME: &'static str = "cont";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [x] = operands(Self::NAME, src)?;
        if x.ty != GgmlType::F32 {
            return Err(ShapeError::Type { op: Self::NAME, operand: 0, expected: "F32", got: x.ty });
        }
        TensorDesc::new(GgmlType::F32, &x.ne)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        dst.data.clone_from(&src[0].data);
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        let grad = b.grad();
        b.add_to(0, grad)
    }

    fn cases() -> Vec<Case<Self>> {
        let f = Operand::f32;
        [f(&[5]), f(&[8, 6]).swapped(0, 1), f(&[8, 6, 5]).swapped(0, 2), f(&[32, 4, 3]).swapped(1, 2), f(&[9, 4]).padded()]
            .map(|x| Case::new(Cont, [x], Tolerance::EXACT))
            .into()
    }
}

impl Graph {
    /// A contiguous copy of `x`.
    pub fn cont(&mut self, x: TensorId) -> Result<TensorId, ShapeError> {
        self.op(Cont, &[x])
    }
}
