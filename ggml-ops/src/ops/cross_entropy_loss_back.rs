use super::cross_entropy_loss::{check, operands_of_cases};
use super::*;

/// The gradient of [`CrossEntropyLoss`] with respect to the logits: `dy[t] * w[t] * (soft_max(x[t])[i] - (i == label[t]))`.
///
/// Operands: logits, labels, weights, dy `[n]`. Result: the shape of the logits, in their place where nothing reads them
/// afterwards. Rows of weight 0 get zeros.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropyLossBack;

impl OpDef for CrossEntropyLossBack {
    const NAME: &'static str = "cross_entropy_loss_back";
    const MAY_REPLACE: &[usize] = &[0];

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [logits, labels, weights, dy] = operands(Self::NAME, src)?;
        check(Self::NAME, &logits, &labels, &weights)?;
        f32_rows(Self::NAME, 3, &dy)?;
        same_shape(Self::NAME, 3, &dy, [logits.ne[1], 1, 1, 1])?;
        TensorDesc::new(GgmlType::F32, &logits.ne)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        for (t, x) in src[0].rows().enumerate().filter(|(t, _)| src[2].data[*t] != 0.0) {
            let factor = src[3].data[t] * src[2].data[t];
            let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = x.iter().map(|v| (v - max).exp()).sum();
            let dx = dst.row_mut(t, 0, 0);
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = factor * (x - max).exp() / sum;
            }
            dx[src[1].data[t] as usize] -= factor;
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        b.not_differentiable("second derivatives are not needed")
    }

    fn cases() -> Vec<Case<Self>> {
        operands_of_cases()
            .into_iter()
            .map(|[logits, labels, weights]| {
                let dy = Operand::f32(&weights.ne);
                Case::new(CrossEntropyLossBack, [logits, labels, weights, dy], Tolerance::relative(1e-6))
            })
            .collect()
    }
}
