use super::*;
use crate::{Graph, TensorId};

/// Columns of one after those of the other: F32 `[m, n_a]` and `[m, n_b]` to `[m, n_a + n_b]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Concat;

impl OpDef for Concat {
    const NAME: &'static str = "concat";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [a, b] = operands(Self::NAME, src)?;
        for (i, t) in [a, b].iter().enumerate() {
            f32_rows(Self::NAME, i, t)?;
            same_shape(Self::NAME, i, t, [a.ne[0], t.ne[1], 1, 1])?;
        }
        TensorDesc::new(GgmlType::F32, &[a.ne[0], a.ne[1].saturating_add(b.ne[1])])
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        let rows = src.iter().flat_map(|t| (0..t.ne[1]).map(move |j| t.row(j, 0, 0)));
        for (j, row) in rows.enumerate() {
            dst.row_mut(j, 0, 0).copy_from_slice(row);
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        let grad = b.grad();
        let g = *b.graph().desc(grad);
        for (i, column) in [(0, 0), (1, b.desc(0).ne[1])] {
            let part = TensorDesc { ne: b.desc(i).ne, ..g };
            let part = b.graph().view(grad, part, column * g.nb[1])?;
            b.add_to(i, part)?;
        }
        Ok(())
    }

    fn cases() -> Vec<Case<Self>> {
        let case = |a, b| Case::new(Concat, [a, b], Tolerance::relative(0.0));
        vec![
            case(Operand::f32(&[7, 3]), Operand::f32(&[7, 2])),
            case(Operand::f32(&[70, 1]).padded(), Operand::f32(&[70, 20])),
        ]
    }
}

impl Graph {
    /// The columns of `a`, then those of `b`.
    pub fn concat(&mut self, a: TensorId, b: TensorId) -> Result<TensorId, ShapeError> {
        self.op(Concat, &[a, b])
    }
}
