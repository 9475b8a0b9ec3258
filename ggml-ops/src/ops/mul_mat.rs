use super::*;
use crate::numerics::{BF16_RESULT, bf16_activation, rne, round13};
use crate::{Graph, TensorId, quants};

/// Matrix multiplication: `y[o, t] = sum_i w[i, o] * x[i, t]`.
///
/// Operands: w `[k, n_out, ..]` of any type with a codec, x `[k, n_tokens, ..]` of F32; outer dimensions of w are
/// repeated to those of x (grouped-query attention). Result: `[n_out, n_tokens, ..]`.
/// The type of w decides how x is rounded first: docs/numerics.md.
#[derive(Clone, Debug, PartialEq)]
pub struct MulMat {
    /// For ternary weights whose blocks all hold this scale: x is then rounded to int8 once per token.
    pub uniform_scale: Option<f32>,
}

impl OpDef for MulMat {
    const NAME: &'static str = "mul_mat";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [w, x] = operands(Self::NAME, src)?;
        if !quants::supported(w.ty) {
            return Err(ShapeError::Type { op: Self::NAME, operand: 0, expected: "one with a codec", got: w.ty });
        }
        if !w.has_contiguous_rows() {
            let expected = "contiguous along dimension 0";
            return Err(ShapeError::Strides { op: Self::NAME, operand: 0, expected, nb: w.nb });
        }
        f32_rows(Self::NAME, 1, &x)?;
        let fits = x.ne[0] == w.ne[0] && (2..4).all(|i| w.ne[i] != 0 && x.ne[i].is_multiple_of(w.ne[i]));
        if !fits {
            let expected = format!("[{}, n_tokens, {} * n, {} * m]", w.ne[0], w.ne[2], w.ne[3]);
            return Err(ShapeError::Shape { op: Self::NAME, operand: 1, expected, got: x.ne });
        }
        if self.uniform_scale.is_some() && !matches!(w.ty, GgmlType::TQ1_0 | GgmlType::TQ2_0) {
            let what = format!("a uniform scale is for ternary weights, not {}", w.ty);
            return Err(ShapeError::Parameter { op: Self::NAME, what });
        }
        TensorDesc::new(GgmlType::F32, &[w.ne[1], x.ne[1], x.ne[2], x.ne[3]])
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        let (w, x) = (&src[0], &src[1]);
        let (r2, r3) = (x.ne[2] / w.ne[2], x.ne[3] / w.ne[3]);
        for i3 in 0..x.ne[3] {
            for i2 in 0..x.ne[2] {
                for t in 0..x.ne[1] {
                    let x = rounded(w.ty, self.uniform_scale.is_some(), x.row(t, i2, i3));
                    let y = dst.row_mut(t, i2, i3);
                    for (o, y) in y.iter_mut().enumerate() {
                        *y = w.row(o, i2 / r2, i3 / r3).iter().zip(&x).map(|(w, x)| w * x).sum();
                    }
                }
            }
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        let (w, x, grad) = (b.src(0), b.src(1), b.grad());
        if b.desc(0).ne[2..] != b.desc(1).ne[2..] {
            return b.not_differentiable("repeated outer dimensions: repeat the operand first");
        }
        // Rounding of x is passed straight through, as BitNet was trained (Bengio et al. 2013, arXiv:1308.3432).
        if b.wants(1) {
            let rows = b.graph().permute(grad, [1, 0, 2, 3])?;
            let g = b.graph().op(OutProd { uniform_scale: self.uniform_scale }, &[w, rows])?;
            b.add_to(1, g)?;
        }
        if b.wants(0) {
            let g = b.graph().out_prod(x, grad)?;
            b.add_to(0, g)?;
        }
        Ok(())
    }

    fn cases() -> Vec<Case<Self>> {
        use GgmlType::*;
        let mut cases = Vec::new();
        let case = |w: Operand, x: Operand, uniform_scale| {
            // Products of the same rounded operands: what differs is f32 summation over k <= 1024.
            let float = w.ty == F32;
            let case = Case::new(MulMat { uniform_scale }, [w, x], Tolerance::relative(3e-6));
            // Other types round x, and a staircase has no slope to compare with.
            if float { case } else { case.differentiable(&[]) }
        };
        for &ty in quants::ALL {
            for (k, n, t) in [(256, 1, 1), (512, 37, 1), (768, 19, 5), (1024, 66, 33)] {
                cases.push(case(Operand::weight(ty, &[k, n]), Operand::f32(&[k, t]).padded(), None));
            }
        }
        for ty in [TQ1_0, TQ2_0] {
            for (k, n, t) in [(256, 3, 1), (1024, 70, 2), (768, 33, 17)] {
                cases.push(case(Operand::ternary(ty, &[k, n], 0.0625), Operand::f32(&[k, t]), Some(0.0625)));
            }
        }
        cases.push(case(Operand::weight(Q8_0, &[64, 3, 5]).swapped(1, 2), Operand::f32(&[64, 2, 5]), None));
        // Adapters: few rows, or rows of few elements.
        for (k, n, t) in [(64, 8, 70), (8, 200, 33), (16, 70, 9), (5, 140, 12)] {
            cases.push(case(Operand::weight(F32, &[k, n]), Operand::f32(&[k, t]).padded(), None));
        }
        for ty in [F32, F16] {
            cases.push(case(Operand::weight(ty, &[19, 7]), Operand::f32(&[19, 3]), None));
            cases.push(case(Operand::weight(ty, &[32, 5, 2, 3]), Operand::f32(&[32, 4, 4, 3]), None));
        }
        cases.push(case(Operand::f32(&[20, 6, 3]).swapped(1, 2), Operand::f32(&[20, 4, 3]).swapped(1, 2).padded(), None).differentiable(&[]));
        cases
    }
}

/// x as it is after rounding for weights of type `ty`.
fn rounded(ty: GgmlType, uniform: bool, x: &[f64]) -> Vec<f64> {
    let block = match ty {
        GgmlType::TQ1_0 | GgmlType::TQ2_0 if uniform => x.len().max(1),
        _ => match ty.block_size() {
            1 if ty == GgmlType::F16 => return x.iter().map(|&v| f64::from(round13(v as f32))).collect(),
            1 if ty == GgmlType::BF16 => return x.iter().map(|&v| f64::from(bf16_activation(v as f32) * BF16_RESULT)).collect(),
            1 => return x.to_vec(),
            block => block,
        },
    };
    let mut out = Vec::with_capacity(x.len());
    for x in x.chunks(block) {
        let max = x.iter().fold(0f32, |m, &v| m.max((v as f32).abs()));
        let (max, scale) = match block {
            32 => (max, half::f16::from_f32(max / 127.0).to_f32()),
            256 if !uniform => (max, 1.0 / (127.0 / max)),
            _ => (max.max(1e-5), max.max(1e-5) / 127.0),
        };
        let inverse = if max > 0.0 { 127.0 / max } else { 0.0 };
        let scale = if max > 0.0 { scale } else { 0.0 };
        out.extend(x.iter().map(|&v| f64::from(rne(v as f32 * inverse)) * f64::from(scale)));
    }
    out
}

impl Graph {
    /// `w x` for weights whose numerics follow from their type alone.
    pub fn mul_mat(&mut self, w: TensorId, x: TensorId) -> Result<TensorId, ShapeError> {
        self.op(MulMat { uniform_scale: None }, &[w, x])
    }
}
