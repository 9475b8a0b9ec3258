use super::*;
use crate::{Graph, TensorId};

/// One matrix beside the other: F32 `[m_a, n]` and `[m_b, n]` to `[m_a + m_b, n]` along dimension 0, `[m, n_a]` and `[m, n_b]` to
/// `[m, n_a + n_b]` along dimension 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Concat {
    /// 0 or 1.
    pub dim: usize,
}

impl OpDef for Concat {
    const NAME: &'static str = "concat";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [a, b] = operands(Self::NAME, src)?;
        if self.dim > 1 {
            return Err(ShapeError::Parameter { op: Self::NAME, what: format!("dim {} must be 0 or 1", self.dim) });
        }
        for (i, t) in [a, b].iter().enumerate() {
            f32_rows(Self::NAME, i, t)?;
            let mut ne = [a.ne[0], a.ne[1], 1, 1];
            ne[self.dim] = t.ne[self.dim];
            same_shape(Self::NAME, i, t, ne)?;
        }
        let mut ne = [a.ne[0], a.ne[1]];
        ne[self.dim] = ne[self.dim].saturating_add(b.ne[self.dim]);
        TensorDesc::new(GgmlType::F32, &ne)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        let (a, b) = (&src[0], &src[1]);
        for j in 0..dst.ne[1] {
            let row = match self.dim {
                0 => [a.row(j, 0, 0), b.row(j, 0, 0)].concat(),
                _ if j < a.ne[1] => a.row(j, 0, 0).to_vec(),
                _ => b.row(j - a.ne[1], 0, 0).to_vec(),
            };
            dst.row_mut(j, 0, 0).copy_from_slice(&row);
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        let grad = b.grad();
        let g = *b.graph().desc(grad);
        for (i, at) in [(0, 0), (1, b.desc(0).ne[self.dim])] {
            let part = TensorDesc { ne: b.desc(i).ne, ..g };
            let part = b.graph().view(grad, part, at * g.nb[self.dim])?;
            b.add_to(i, part)?;
        }
        Ok(())
    }

    fn cases() -> Vec<Case<Self>> {
        let case = |dim, a, b| Case::new(Concat { dim }, [a, b], Tolerance::relative(0.0));
        vec![
            case(1, Operand::f32(&[7, 3]), Operand::f32(&[7, 2])),
            case(1, Operand::f32(&[70, 1]).padded(), Operand::f32(&[70, 20])),
            case(0, Operand::f32(&[7, 3]), Operand::f32(&[2, 3])),
            case(0, Operand::f32(&[70, 20]), Operand::f32(&[1, 20]).padded()),
        ]
    }
}

impl Graph {
    /// `a`, then `b`, along dimension `dim`.
    pub fn concat(&mut self, a: TensorId, b: TensorId, dim: usize) -> Result<TensorId, ShapeError> {
        self.op(Concat { dim }, &[a, b])
    }
}
