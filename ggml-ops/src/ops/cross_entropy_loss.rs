use super::*;
use crate::{Graph, TensorId};

/// Cross entropy of each row of logits with its label: `w[t] * (log(sum_i exp(x[i, t])) - x[label[t], t])`.
///
/// Operands: logits `[n_vocab, n]` of F32, labels `[n]` of I32, weights `[n]` of F32. Result: `[n]`.
/// Where the weight is 0 neither the logits nor the label are read, and the loss is 0.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropyLoss;

impl OpDef for CrossEntropyLoss {
    const NAME: &'static str = "cross_entropy_loss";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [logits, labels, weights] = operands(Self::NAME, src)?;
        check(Self::NAME, &logits, &labels, &weights)?;
        TensorDesc::new(GgmlType::F32, &[logits.ne[1]])
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        for (t, x) in src[0].rows().enumerate().filter(|(t, _)| src[2].data[*t] != 0.0) {
            let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = x.iter().map(|v| (v - max).exp()).sum();
            dst.data[t] = src[2].data[t] * (max + sum.ln() - x[src[1].data[t] as usize]);
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        if b.wants(2) {
            return b.not_differentiable("weights of tokens are not trained");
        }
        let src = [b.src(0), b.src(1), b.src(2), b.grad()];
        let g = b.graph().op(CrossEntropyLossBack, &src)?;
        b.add_to(0, g)
    }

    fn cases() -> Vec<Case<Self>> {
        operands_of_cases()
            .into_iter()
            // A sum of up to 5000 terms, its logarithm, and a difference.
            .map(|src| Case::new(CrossEntropyLoss, src, Tolerance::relative(1e-6)).differentiable(&[0]))
            .collect()
    }
}

pub(super) fn check(
    op: &'static str,
    logits: &TensorDesc,
    labels: &TensorDesc,
    weights: &TensorDesc,
) -> Result<(), ShapeError> {
    f32_rows(op, 0, logits)?;
    same_shape(op, 0, logits, [logits.ne[0], logits.ne[1], 1, 1])?;
    indices(op, 1, labels, &[logits.ne[1]])?;
    f32_rows(op, 2, weights)?;
    same_shape(op, 2, weights, [logits.ne[1], 1, 1, 1])
}

/// Logits, labels and weights; rows of weight 0 have labels that no row has.
pub(super) fn operands_of_cases() -> [[Operand; 3]; 5] {
    let labels = |ne, values: &[i32]| Operand::ints(&[ne], values);
    [
        [Operand::f32(&[7, 1]), labels(1, &[6]), Operand::floats(&[1], &[1.0])],
        [
            Operand::f32(&[130, 5]).padded(),
            labels(5, &[129, -100, 0, 64, 9999]),
            Operand::floats(&[5], &[0.5, 0.0, 1.0, 0.25, 0.0]),
        ],
        [
            Operand::f32(&[5000, 3]).range(-20.0, 20.0),
            labels(3, &[17, 4999, 0]),
            Operand::floats(&[3], &[1.0, 0.3, -0.7]),
        ],
        // Far out: all the weight on a few.
        [Operand::f32(&[64, 4]).range(-3e4, 3e4), labels(4, &[1, 2, 3, 4]), Operand::floats(&[4], &[1.0])],
        // Around 2^-60 of the largest, below which probabilities have no gradient, and further down to the last numbers.
        [
            Operand::floats(&[11, 3], &[3.0, -38.5, -38.588, -38.589, 3.0, -38.6, -39.0, -57.0, -84.0, -84.4, -99.0]),
            labels(3, &[0, 5, 10]),
            Operand::floats(&[3], &[1.0, 0.5, 1e-3]),
        ],
    ]
}

impl Graph {
    /// Cross entropy of each row of `logits` with its label, times its weight.
    pub fn cross_entropy_loss(
        &mut self,
        logits: TensorId,
        labels: TensorId,
        weights: TensorId,
    ) -> Result<TensorId, ShapeError> {
        self.op(CrossEntropyLoss, &[logits, labels, weights])
    }
}
