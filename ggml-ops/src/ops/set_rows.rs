use super::*;
use crate::{Graph, TensorId, quants};

/// Writes rows: row `i` of `x` becomes row `ids[i]` of `table`, converted to the table's type. In place.
///
/// Operands: table `[k, n]` of one of [`TYPES`](SetRows::TYPES), x `[k, m]` of F32, ids `[m]` of I32. The result is the table.
#[derive(Clone, Debug, PartialEq)]
pub struct SetRows;

impl SetRows {
    /// Types that rows are written in, and that a KV cache may so have.
    pub const TYPES: &[GgmlType] = {
        use GgmlType::*;
        &[F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL]
    };
}

impl OpDef for SetRows {
    const NAME: &'static str = "set_rows";
    const IN_PLACE: Option<usize> = Some(0);

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [table, x, ids] = operands(Self::NAME, src)?;
        if !Self::TYPES.contains(&table.ty) {
            let expected = "one that a KV cache may have";
            return Err(ShapeError::Type { op: Self::NAME, operand: 0, expected, got: table.ty });
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
            let row = dst.row_mut(id as usize, 0, 0);
            row.copy_from_slice(src[1].row(i, 0, 0));
            if src[0].ty.block_size() > 1 {
                round_to_blocks(src[0].ty, row);
            }
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        b.not_differentiable("it writes a cache; training keeps none")
    }

    fn cases() -> Vec<Case<Self>> {
        let case = |ty: GgmlType, k: usize| {
            let src = [Operand::state(ty, &[k, 13]), Operand::f32(&[k, 5]).padded(), Operand::distinct(5, 13)];
            Case::new(SetRows, src, Tolerance::EXACT)
        };
        // Of 352 columns two threads or more have their share.
        Self::TYPES.iter().flat_map(|&ty| [case(ty, 352), case(ty, if ty.block_size() > 1 { 32 } else { 48 })]).collect()
    }
}

/// What the type makes of a row.
fn round_to_blocks(ty: GgmlType, row: &mut [f64]) {
    let mut values: Vec<f32> = row.iter().map(|&v| v as f32).collect();
    let mut blocks = vec![0; ty.row_size(row.len()).unwrap_or(0)];
    // The shape rule lets only types with a codec and whole blocks pass.
    if quants::quantize(ty, &values, &mut blocks).is_ok() && quants::dequantize(ty, &blocks, &mut values).is_ok() {
        row.iter_mut().zip(values).for_each(|(to, v)| *to = v.into());
    }
}

impl Graph {
    /// Writes the rows of `x` to rows `ids` of `table`, and returns the table as it is afterwards.
    pub fn set_rows(&mut self, table: TensorId, x: TensorId, ids: TensorId) -> Result<TensorId, ShapeError> {
        self.op(SetRows, &[table, x, ids])
    }
}
