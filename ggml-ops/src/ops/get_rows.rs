use super::*;
use crate::{Graph, TensorId, quants};

/// Looks rows up: row `ids[i]` of the table becomes row `i` of the result, decoded to f32.
///
/// Operands: table `[k, n]` of any type with a codec, ids `[m]` of I32. Result `[k, m]`.
#[derive(Clone, Debug, PartialEq)]
pub struct GetRows;

impl OpDef for GetRows {
    const NAME: &'static str = "get_rows";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [table, ids] = operands(Self::NAME, src)?;
        if !quants::supported(table.ty) {
            return Err(ShapeError::Type { op: Self::NAME, operand: 0, expected: "one with a codec", got: table.ty });
        }
        if !table.is_contiguous() {
            return Err(ShapeError::Strides { op: Self::NAME, operand: 0, expected: "contiguous", nb: table.nb });
        }
        same_shape(Self::NAME, 0, &table, [table.ne[0], table.ne[1], 1, 1])?;
        indices(Self::NAME, 1, &ids, &[ids.ne[0]])?;
        TensorDesc::new(GgmlType::F32, &[table.ne[0], ids.ne[0]])
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        for (i, &id) in src[1].data.iter().enumerate() {
            dst.row_mut(i, 0, 0).copy_from_slice(src[0].row(id as usize, 0, 0));
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        let (n_rows, grad, ids) = (b.desc(0).ne[1], b.grad(), b.src(1));
        let g = b.graph().op(GetRowsBack { n_rows }, &[grad, ids])?;
        b.add_to(0, g)
    }

    fn cases() -> Vec<Case<Self>> {
        quants::ALL
            .iter()
            .map(|&ty| {
                Case::new(GetRows, [Operand::weight(ty, &[512, 11]), Operand::index(&[7], 11)], Tolerance::EXACT)
            })
            .collect()
    }
}

impl Graph {
    /// Rows `ids` of `table`, in f32.
    pub fn get_rows(&mut self, table: TensorId, ids: TensorId) -> Result<TensorId, ShapeError> {
        self.op(GetRows, &[table, ids])
    }
}
