//! cross_entropy_loss and its gradient: row by row, the maximum, the sum of the exponentials, and what follows from them.

use super::{exp, max64, multiversion, sum64};
use crate::program::{Compiler, RawTensor, Step, Work};
use ggml_ops::OpError;
use ggml_ops::numerics::{log, tree};

/// Less of the largest probability has no gradient: 2^-60.
const LEAST: f32 = f32::from_bits((127 - 60) << 23);

multiversion! {
    fn loss_row(x: &[f32], label: usize) -> f32 {
        let max = max64(x);
        log(sum64([x], |[x]| exp(x - max))) - (x[label] - max)
    }
}

multiversion! {
    /// Turns a row of logits into `factor * (soft_max - onehot)`.
    fn back_row(x: &mut [f32], label: usize, factor: f32) {
        let max = max64(x);
        let mut lanes = [0f32; 64];
        let (groups, rest) = x.as_chunks_mut::<64>();
        let add = |lane: &mut f32, x: &mut f32| {
            *x = exp(*x - max);
            *lane += *x;
        };
        for group in groups {
            lanes.iter_mut().zip(group).for_each(|(lane, x)| add(lane, x));
        }
        lanes.iter_mut().zip(rest).for_each(|(lane, x)| add(lane, x));
        let scale = factor * (1.0 / tree(lanes));
        x.iter_mut().for_each(|x| *x = if *x < LEAST { 0.0 } else { *x * scale });
        x[label] -= factor;
    }
}

/// Operands of both.
#[derive(Clone, Copy)]
struct Rows {
    logits: RawTensor,
    labels: RawTensor,
    weights: RawTensor,
}

impl Rows {
    /// Calls `f` for each row with its label, `None` where its weight is 0, and the weight. A label out of range fails the run.
    fn each(self, op: &'static str, work: &Work, mut f: impl FnMut(usize, Option<usize>, f32)) {
        let limit = self.logits.desc.ne[0];
        // SAFETY: labels are contiguous I32 and weights a row of F32, one for each row of the logits (checked by the
        // operation); neither is written in this step.
        let (labels, weights) = unsafe { (self.labels.ints(), self.weights.row((0, 0, 0))) };
        work.share(labels.len(), 1, |rows| {
            for t in rows {
                if weights[t] == 0.0 {
                    f(t, None, 0.0);
                    continue;
                }
                match usize::try_from(labels[t]).ok().filter(|&label| label < limit) {
                    Some(label) => f(t, Some(label), weights[t]),
                    None => work.fail(OpError::Index { op, index: labels[t].into(), limit }),
                }
            }
        });
    }
}

pub(crate) fn cross_entropy_loss(c: Compiler) -> Vec<Step> {
    let (level, dst) = (c.level, c.dst);
    let rows = Rows { logits: c.src[0], labels: c.src[1], weights: c.src[2] };
    let run = move |work: &Work| {
        rows.each("cross_entropy_loss", work, |t, label, weight| {
            // SAFETY: row t of the logits exists and is not written in this step; element t of the result is this item's own.
            let (x, y) = unsafe { (rows.logits.row((t, 0, 0)), &mut dst.piece_mut((0, 0, 0), t..t + 1)[0]) };
            *y = label.map_or(0.0, |label| weight * loss_row(level, x, label));
        });
    };
    let reads = c.src.iter().map(RawTensor::span).collect();
    vec![Step::over(rows.logits.desc.elements(), run, reads, vec![dst.span()])]
}

pub(crate) fn cross_entropy_loss_back(c: Compiler) -> Vec<Step> {
    let (level, dst, dy) = (c.level, c.dst, c.src[3]);
    let rows = Rows { logits: c.src[0], labels: c.src[1], weights: c.src[2] };
    // The plan may have given the result the logits' place.
    let same_place = rows.logits.span().start == dst.span().start;
    let run = move |work: &Work| {
        rows.each("cross_entropy_loss_back", work, |t, label, weight| {
            // SAFETY: row t of the result, and of the logits where they lie there, is this item's own; dy is not written.
            let (x, dy) = unsafe { (dst.row_mut((t, 0, 0)), dy.row((0, 0, 0))[t]) };
            let Some(label) = label else { return x.fill(0.0) };
            if !same_place {
                // SAFETY: row t of the logits exists, lies elsewhere than the result, and is not written in this step.
                x.copy_from_slice(unsafe { rows.logits.row((t, 0, 0)) });
            }
            back_row(level, x, label, dy * weight);
        });
    };
    let reads = c.src.iter().map(RawTensor::span).collect();
    vec![Step::over(dst.desc.elements(), run, reads, vec![dst.span()])]
}
