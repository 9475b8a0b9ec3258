use super::multiversion;
use crate::program::{Compiler, RawTensor, Step, Work};
use ggml_ops::numerics::AdamwStep;

/// Elements that a thread takes at a time: enough to pay for taking them.
const GRAIN: usize = 2048;

multiversion! {
    fn adamw_row(x: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], step: AdamwStep) {
        for (((x, m), v), g) in x.iter_mut().zip(m).zip(v).zip(grad) {
            step.apply(x, m, v, *g);
        }
    }
}

pub(crate) fn opt_step_adamw(c: Compiler) -> Vec<Step> {
    let (level, state, grad, step) = (c.level, c.src[0], c.src[1], c.src[2]);
    let n = state.desc.ne[0];
    let run = move |work: &Work| {
        // SAFETY: step is seven contiguous F32 (checked by the operation) and not written in this step.
        let values = unsafe { step.row((0, 0, 0)) };
        let step = AdamwStep::from_values(std::array::from_fn(|i| values[i]));
        work.share(n, GRAIN, |range| {
            // SAFETY: the state has three rows; these columns of them belong to this thread.
            let [x, m, v] = [0, 1, 2].map(|r| unsafe { state.piece_mut((r, 0, 0), range.clone()) });
            // SAFETY: the gradient has as many elements, and is not written in this step.
            adamw_row(level, x, m, v, unsafe { &grad.row((0, 0, 0))[range] }, step);
        });
    };
    let reads = [state, grad, step].iter().map(RawTensor::span).collect();
    vec![Step::over(state.desc.elements(), run, reads, vec![state.span()])]
}
