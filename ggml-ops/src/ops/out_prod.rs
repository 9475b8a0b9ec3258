use super::*;
use crate::{Graph, TensorId, quants};

/// Sum of outer products: `y[i, j] = sum_r a[i, r] * b[j, r]`, the gradients of [`MulMat`].
///
/// Operands: a `[m, r, ..]` of any type with a codec, b `[p, r, ..]` of F32 with any strides, equal outer dimensions.
/// Result: `[m, p, ..]`.
#[derive(Clone, Debug, PartialEq)]
pub struct OutProd;

impl OpDef for OutProd {
    const NAME: &'static str = "out_prod";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [a, b] = operands(Self::NAME, src)?;
        if !quants::supported(a.ty) {
            return Err(ShapeError::Type { op: Self::NAME, operand: 0, expected: "one with a codec", got: a.ty });
        }
        if !a.has_contiguous_rows() {
            let expected = "contiguous along dimension 0";
            return Err(ShapeError::Strides { op: Self::NAME, operand: 0, expected, nb: a.nb });
        }
        if b.ty != GgmlType::F32 {
            return Err(ShapeError::Type { op: Self::NAME, operand: 1, expected: "F32", got: b.ty });
        }
        same_shape(Self::NAME, 1, &b, [b.ne[0], a.ne[1], a.ne[2], a.ne[3]])?;
        TensorDesc::new(GgmlType::F32, &[a.ne[0], b.ne[0], a.ne[2], a.ne[3]])
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        let (a, b, ne) = (&src[0], &src[1], dst.ne);
        for i3 in 0..ne[3] {
            for i2 in 0..ne[2] {
                for r in 0..a.ne[1] {
                    let (a, b) = (a.row(r, i2, i3), b.row(r, i2, i3));
                    for (j, &b) in b.iter().enumerate() {
                        for (y, a) in dst.row_mut(j, i2, i3).iter_mut().zip(a) {
                            *y += a * b;
                        }
                    }
                }
            }
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        b.not_differentiable("second derivatives are not needed")
    }

    fn cases() -> Vec<Case<Self>> {
        use GgmlType::*;
        let mut cases: Vec<_> = [F32, F16, Q8_0, Q4_0, Q4_K, Q6_K, TQ1_0, TQ2_0]
            .into_iter()
            .map(|ty| (Operand::weight(ty, &[256, 9]), Operand::f32(&[4, 9]).swapped(0, 1)))
            .collect();
        cases.push((Operand::f32(&[19, 7, 2, 3]), Operand::f32(&[5, 7, 2, 3])));
        cases.into_iter().map(|(a, b)| Case::new(OutProd, [a, b], Tolerance::relative(2e-6))).collect()
    }
}

impl Graph {
    /// `y[i, j] = sum_r a[i, r] * b[j, r]`.
    pub fn out_prod(&mut self, a: TensorId, b: TensorId) -> Result<TensorId, ShapeError> {
        self.op(OutProd, &[a, b])
    }
}
