use super::*;
use crate::{Graph, TensorId};

/// Writes rows: row `i` of `x` becomes row `ids[i]` of `table`, converted to the table's type. In place.
///
/// Operands: table `[k, n]` of F16 or F32, x `[k, m]` of F32, ids `[m]` of I32. The result is the table.
#[derive(Clone, Debug, PartialEq)]
pub struct SetRows;

impl OpDef for SetRows {
    const NAME: &'static str = "set_rows";
    const IN_PLACE: Option<usize> = Some(0);

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [table, x, ids] = operands(Self::NAME, src)?;
        if !matches!(table.ty, GgmlType::F16 | GgmlType::F32) {
            return Err(ShapeError::Type { op: Self::NAME, operand: 0, expected: "F16 or F32", got: table.ty });
        }
        if !table.is_contiguous() {
            return Err(ShapeError::Strides { op: Self::NAME, operand: 0, expected: "contiguous", nb: table.nb });
        }
        same_shape(Self::NAME, 0, &table, [table.ne[0], table.ne[1], 1, 1])?;
        f32_rows(Self::NAME, 1, &x)?;
        same_shape(Self::NAME, 1, &x, [table.ne[0], x.ne[1], 1, 1])?;
        indices(Self::NAME, 2, &ids, &[x.ne[1]])?;
        Ok(table)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        for (i, &id) in src[2].data.iter().enumerate() {
            dst.row_mut(id as usize, 0, 0).copy_from_slice(src[1].row(i, 0, 0));
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        b.not_differentiable("it writes a cache; training keeps none")
    }

    fn cases() -> Vec<Case<Self>> {
        [GgmlType::F16, GgmlType::F32]
            .into_iter()
            .map(|ty| {
                let src = [Operand::state(ty, &[48, 13]), Operand::f32(&[48, 5]).padded(), Operand::distinct(5, 13)];
                Case::new(SetRows, src, Tolerance::EXACT)
            })
            .collect()
    }
}

impl Graph {
    /// Writes the rows of `x` to rows `ids` of `table`, and returns the table as it is afterwards.
    pub fn set_rows(&mut self, table: TensorId, x: TensorId, ids: TensorId) -> Result<TensorId, ShapeError> {
        self.op(SetRows, &[table, x, ids])
    }
}
