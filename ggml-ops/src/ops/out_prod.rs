use super::*;
use crate::numerics::rne;
use crate::{Graph, TensorId, quants};

/// Sum of outer products: `y[i, j] = sum_r a[i, r] * b[j, r]`, the gradients of [`MulMat`].
///
/// Operands: a `[m, r, ..]` of any type with a codec, b `[p, r, ..]` of F32 with any strides, equal outer dimensions.
/// Result: `[m, p, ..]`.
#[derive(Clone, Debug, PartialEq)]
pub struct OutProd {
    /// For ternary a whose blocks all hold this scale: each `b[j, ..]` is then rounded to 16 bits once, and sums are
    /// exact (docs/numerics.md).
    pub uniform_scale: Option<f32>,
}

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
        if self.uniform_scale.is_some() && !matches!(a.ty, GgmlType::TQ1_0 | GgmlType::TQ2_0) {
            let what = format!("a uniform scale is for ternary weights, not {}", a.ty);
            return Err(ShapeError::Parameter { op: Self::NAME, what });
        }
        TensorDesc::new(GgmlType::F32, &[a.ne[0], b.ne[0], a.ne[2], a.ne[3]])
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        let (a, b, ne) = (&src[0], &src[1], dst.ne);
        for i3 in 0..ne[3] {
            for i2 in 0..ne[2] {
                for j in 0..ne[1] {
                    let mut b: Vec<f64> = (0..a.ne[1]).map(|r| b.row(r, i2, i3)[j]).collect();
                    if self.uniform_scale.is_some() {
                        round(&mut b);
                    }
                    for (r, b) in b.into_iter().enumerate() {
                        for (y, a) in dst.row_mut(j, i2, i3).iter_mut().zip(a.row(r, i2, i3)) {
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
        let mut cases = Vec::new();
        // f32 sums in parts of 256.
        let float = |a, b| Case::new(OutProd { uniform_scale: None }, [a, b], Tolerance::relative(3e-6));
        // Exact sums; they, the scales' product and its product with the sum are rounded.
        let uniform = |ty, [m, r, p]: [usize; 3], b| {
            Case::new(
                OutProd { uniform_scale: Some(0.0625) },
                [
                    Operand::ternary(ty, &[m, r], 0.0625),
                    if b { Operand::f32(&[p, r]) } else { Operand::f32(&[p, r]).swapped(0, 1).padded() },
                ],
                Tolerance::relative(2e-7),
            )
        };
        for &ty in quants::ALL {
            for (m, r, p) in [(256, 9, 4), (512, 300, 7), (256, 1, 1), (768, 513, 23)] {
                cases.push(float(Operand::weight(ty, &[m, r]), Operand::f32(&[p, r]).swapped(0, 1)));
            }
        }
        for ty in [TQ1_0, TQ2_0] {
            for (i, shape) in [[256, 9, 4], [512, 600, 7], [256, 1, 1], [768, 1025, 23]].into_iter().enumerate() {
                cases.push(uniform(ty, shape, i % 2 == 1));
            }
        }
        for ty in [Q8_0, Q4_0] {
            cases.push(float(Operand::weight(ty, &[96, 20, 2]), Operand::f32(&[13, 20, 2])));
        }
        // As of adapters: few columns, few results, gradients that are not permuted.
        for (m, r, p) in [(8, 33, 70), (70, 33, 8), (16, 257, 5), (20, 7, 130), (100, 16, 3), (1, 1, 1), (33, 300, 64)]
        {
            cases.push(float(Operand::f32(&[m, r]), Operand::f32(&[p, r])));
            cases.push(float(Operand::f32(&[m, r]).padded(), Operand::f32(&[p, r]).swapped(0, 1).padded()));
            cases.push(float(Operand::weight(F16, &[m, r]), Operand::f32(&[p, r])));
        }
        cases.push(float(Operand::f32(&[19, 7, 2, 3]), Operand::f32(&[5, 7, 2, 3])));
        cases.push(float(Operand::f32(&[70, 3, 4]).swapped(1, 2), Operand::f32(&[5, 3, 4]).swapped(1, 2)));
        let ternary = Operand::ternary(TQ2_0, &[256, 5, 2, 3], 0.0625);
        cases.push(Case::new(
            OutProd { uniform_scale: Some(0.0625) },
            [ternary, Operand::f32(&[7, 5, 2, 3])],
            Tolerance::relative(2e-7),
        ));
        // A gradient of zeros only.
        let zeros = Operand::floats(&[4, 8], &[0.0, -0.0]);
        cases.push(Case::new(
            OutProd { uniform_scale: Some(0.5) },
            [Operand::ternary(TQ2_0, &[256, 8], 0.5), zeros],
            Tolerance::EXACT,
        ));
        cases
    }
}

/// A row of gradients as it is after rounding for weights of one scale.
fn round(b: &mut [f64]) {
    let largest = b.iter().fold(0f32, |m, &v| m.max((v as f32).abs()));
    let (factor, scale) = (32512.0 / largest, largest / 32512.0);
    for b in b {
        *b = if factor.is_finite() { f64::from(rne(*b as f32 * factor)) * f64::from(scale) } else { 0.0 };
    }
}

impl Graph {
    /// `y[i, j] = sum_r a[i, r] * b[j, r]`, for a of any type, with b as it is.
    pub fn out_prod(&mut self, a: TensorId, b: TensorId) -> Result<TensorId, ShapeError> {
        self.op(OutProd { uniform_scale: None }, &[a, b])
    }
}
