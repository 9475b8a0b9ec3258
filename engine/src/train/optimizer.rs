//! AdamW ([Loshchilov and Hutter 2017](https://arxiv.org/abs/1711.05101)).

use ggml_ops::numerics::AdamwStep;
use rayon::prelude::*;

/// Constants of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Added to the root of the latter.
    pub eps: f32,
    /// Fraction of a parameter, times the learning rate, that a step takes away.
    pub weight_decay: f32,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        AdamWOptions { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

/// A trained tensor with its gradient and the optimizer's moments; all of one length.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// As in the adapter's file: `blk.0.attn_q.weight.lora_a`.
    pub name: String,
    /// Shape, as in the file.
    pub ne: Vec<usize>,
    /// Values.
    pub value: Vec<f32>,
    /// Sum of the gradients since the last step.
    pub grad: Vec<f32>,
    /// Running mean of gradients.
    pub m: Vec<f32>,
    /// Running mean of squared gradients.
    pub v: Vec<f32>,
}

impl Param {
    /// With moments of zero.
    pub fn new(name: String, ne: Vec<usize>, value: Vec<f32>) -> Param {
        let zeros = || vec![0.0; value.len()];
        Param { name, ne, grad: zeros(), m: zeros(), v: zeros(), value }
    }
}

/// The root of the sum of squares of all gradients. The same bits whatever the number of threads.
pub fn global_norm(params: &[Param]) -> f64 {
    let squares = |p: &Param| p.grad.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
    params.par_iter().map(squares).collect::<Vec<f64>>().iter().sum::<f64>().sqrt()
}

/// What the `iteration`-th step, counted from 1, has in common for all parameters: in f64, rounded at the end.
pub fn adamw_step(options: &AdamWOptions, lr: f64, iteration: u64, grad_scale: f32) -> AdamwStep {
    let AdamWOptions { beta1, beta2, eps, weight_decay } = *options;
    let t = i32::try_from(iteration).unwrap_or(i32::MAX);
    let correction = |beta: f32| 1.0 - f64::from(beta).powi(t);
    let step = (lr / correction(beta1)) as f32;
    let root = correction(beta2).sqrt() as f32;
    let keep = (1.0 - lr * f64::from(weight_decay)) as f32;
    AdamwStep { grad_scale, beta1, beta2, eps, step, root, keep }
}

/// One step, the `iteration`-th counted from 1, with each gradient times `grad_scale`. Gradients are zero afterwards.
pub fn adamw(params: &mut [Param], options: &AdamWOptions, lr: f64, iteration: u64, grad_scale: f32) {
    let step = adamw_step(options, lr, iteration, grad_scale);
    params.par_iter_mut().for_each(|p| {
        for (((x, g), m), v) in p.value.iter_mut().zip(&mut p.grad).zip(&mut p.m).zip(&mut p.v) {
            step.apply(x, m, v, *g);
            *g = 0.0;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against `torch.optim.AdamW` (2.x, f64): lr 0.1, weight_decay 0.1, gradients 1, -2, 0.5 on a parameter of 1.
    #[test]
    fn steps_are_those_of_pytorch() {
        let options = AdamWOptions { weight_decay: 0.1, ..AdamWOptions::default() };
        let mut params = vec![Param::new("p".into(), vec![1], vec![1.0])];
        let mut got = Vec::new();
        for (i, g) in [1.0, -2.0, 0.5].into_iter().enumerate() {
            params[0].grad[0] = g;
            adamw(&mut params, &options, 0.1, i as u64 + 1, 1.0);
            got.push(params[0].value[0]);
        }
        for (got, want) in got.iter().zip([0.89, 0.917_710_35, 0.922_202_3]) {
            assert!((got - want).abs() < 1e-6, "{got}, expected {want}");
        }
        assert_eq!(params[0].grad, [0.0]);
    }

    #[test]
    fn the_norm_is_over_all_tensors() {
        let mut params =
            vec![Param::new("a".into(), vec![2], vec![0.0; 2]), Param::new("b".into(), vec![1], vec![0.0])];
        params[0].grad = vec![3.0, 0.0];
        params[1].grad = vec![-4.0];
        assert_eq!(global_norm(&params), 5.0);
    }
}
