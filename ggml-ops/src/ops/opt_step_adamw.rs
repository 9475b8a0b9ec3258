use super::*;
use crate::{Graph, TensorId};

/// One step of AdamW ([Loshchilov and Hutter 2017](https://arxiv.org/abs/1711.05101)) on a parameter, in place.
///
/// Operands: state `[n, 3]` of F32, whose rows are the parameter and the running means of its gradient and of the gradient's
/// square (ggml has a tensor each); gradient `[n]` of F32; and what is the same for all elements, `[7]` of F32, as in
/// [`AdamwStep`](crate::numerics::AdamwStep). The result is the state.
#[derive(Clone, Debug, PartialEq)]
pub struct OptStepAdamw;

impl OpDef for OptStepAdamw {
    const NAME: &'static str = "opt_step_adamw";
    const IN_PLACE: Option<usize> = Some(0);

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [state, grad, step] = operands(Self::NAME, src)?;
        for (i, t) in [state, grad, step].iter().enumerate() {
            f32_rows(Self::NAME, i, t)?;
        }
        if !state.is_contiguous() {
            return Err(ShapeError::Strides { op: Self::NAME, operand: 0, expected: "contiguous", nb: state.nb });
        }
        same_shape(Self::NAME, 0, &state, [state.ne[0], 3, 1, 1])?;
        same_shape(Self::NAME, 1, &grad, [state.ne[0], 1, 1, 1])?;
        same_shape(Self::NAME, 2, &step, [7, 1, 1, 1])?;
        Ok(state)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        let [grad_scale, beta1, beta2, eps, step, root, keep] = std::array::from_fn(|i| src[2].data[i]);
        let n = dst.ne[0];
        for i in 0..n {
            let g = src[1].data[i] * grad_scale;
            let m = beta1 * dst.data[n + i] + (1.0 - beta1) * g;
            let v = beta2 * dst.data[2 * n + i] + (1.0 - beta2) * g * g;
            dst.data[i] = dst.data[i] * keep - step * m / (v.sqrt() / root + eps);
            (dst.data[n + i], dst.data[2 * n + i]) = (m, v);
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        b.not_differentiable("it changes a parameter; nothing is optimized through it")
    }

    fn cases() -> Vec<Case<Self>> {
        let first = [1.0, 0.9, 0.999, 1e-8, 1e-2, 0.031_622_8, 0.999_9];
        let later = [0.37, 0.9, 0.99, 1e-5, 3e-4, 0.9, 1.0];
        // The step is up to 30 times as large as the parameter, and 1 - beta is rounded to f32.
        let tolerance = Tolerance::relative(2e-6);
        let case = |n: usize, high: f64, grad: Operand, step: &[f32]| {
            let state = Operand::state(GgmlType::F32, &[n, 3]).range(0.0, high);
            Case::new(OptStepAdamw, [state, grad, Operand::floats(&[7], step)], tolerance)
        };
        vec![
            case(1, 1.0, Operand::f32(&[1]), &first),
            case(1000, 1.0, Operand::f32(&[1000]), &later),
            case(5000, 1.0, Operand::f32(&[5000]), &first),
            // Moments near the smallest numbers, and gradients of zero.
            case(333, 1e-30, Operand::f32(&[333]).range(-1e-18, 1e-18), &first),
            case(64, 1e-30, Operand::floats(&[64], &[0.0, 1.0, -1.0]), &later),
        ]
    }
}

impl Graph {
    /// Changes parameter and moments by a step of AdamW, and returns them.
    pub fn opt_step_adamw(&mut self, state: TensorId, grad: TensorId, step: TensorId) -> Result<TensorId, ShapeError> {
        self.op(OptStepAdamw, &[state, grad, step])
    }
}
