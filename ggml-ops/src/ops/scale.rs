use super::*;
use crate::{Graph, TensorId};

/// `x * factor`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// The factor.
    pub factor: f32,
}

impl OpDef for Scale {
    const NAME: &'static str = "scale";
    const MAY_REPLACE: &[usize] = &[0];

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [x] = operands(Self::NAME, src)?;
        f32_rows(Self::NAME, 0, &x)?;
        TensorDesc::new(GgmlType::F32, &x.ne)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        for (y, x) in dst.data.iter_mut().zip(&src[0].data) {
            *y = x * f64::from(self.factor);
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        let grad = b.grad();
        let g = b.graph().scale(grad, self.factor)?;
        b.add_to(0, g)
    }

    fn cases() -> Vec<Case<Self>> {
        [Operand::f32(&[37, 3]), Operand::f32(&[16, 2, 3]).padded()]
            .map(|x| Case::new(Scale { factor: -1.7 }, [x], Tolerance::ELEMENTWISE))
            .into()
    }
}

impl Graph {
    /// `x * factor`.
    pub fn scale(&mut self, x: TensorId, factor: f32) -> Result<TensorId, ShapeError> {
        self.op(Scale { factor }, &[x])
    }
}
