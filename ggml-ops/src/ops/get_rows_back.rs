use super::*;

/// The gradient of [`GetRows`] with respect to its table: row `i` of dy is added to row `ids[i]`, in order of i.
///
/// Operands: dy `[k, m]` of F32, ids `[m]` of I32. Result: `[k, n_rows]` of F32.
#[derive(Clone, Debug, PartialEq)]
pub struct GetRowsBack {
    /// Rows of the table.
    pub n_rows: usize,
}

impl OpDef for GetRowsBack {
    const NAME: &'static str = "get_rows_back";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [dy, ids] = operands(Self::NAME, src)?;
        f32_rows(Self::NAME, 0, &dy)?;
        same_shape(Self::NAME, 0, &dy, [dy.ne[0], dy.ne[1], 1, 1])?;
        indices(Self::NAME, 1, &ids, &[dy.ne[1]])?;
        TensorDesc::new(GgmlType::F32, &[dy.ne[0], self.n_rows])
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        for (dy, &id) in src[0].rows().zip(&src[1].data) {
            dst.row_mut(id as usize, 0, 0).iter_mut().zip(dy).for_each(|(to, dy)| *to += dy);
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        b.not_differentiable("second derivatives are not needed")
    }

    fn cases() -> Vec<Case<Self>> {
        // Many rows of dy for few of the table, and the other way round. A few roundings in a row.
        [(8, 11, 200), (70, 300, 9), (3000, 2, 5)]
            .map(|(k, n_rows, m)| {
                let src = [Operand::f32(&[k, m]).padded(), Operand::index(&[m], n_rows)];
                Case::new(GetRowsBack { n_rows }, src, Tolerance::relative(1e-6))
            })
            .into()
    }
}
