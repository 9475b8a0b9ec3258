//! Learning rate by step.

/// How the learning rate goes down after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LrShape {
    /// Not at all.
    #[default]
    Constant,
    /// In a straight line to the minimum.
    Linear,
    /// Along half a cosine to the minimum ([Loshchilov and Hutter 2016](https://arxiv.org/abs/1608.03983)).
    Cosine,
}

/// A learning rate for each optimizer step: a line from 0 up to `lr` during the warm-up, then by `shape` down to `lr_min` at
/// the last step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LrSchedule {
    /// The highest rate.
    pub lr: f64,
    /// The lowest after the warm-up; a constant schedule has no use for it.
    pub lr_min: f64,
    /// Form.
    pub shape: LrShape,
    /// Steps of the warm-up.
    pub warmup_steps: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
}

impl LrSchedule {
    /// The rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        let LrSchedule { lr, lr_min, shape, warmup_steps, total_steps } = *self;
        let warmup = warmup_steps.min(total_steps);
        let x = (step + 1).min(total_steps.max(1));
        if x < warmup {
            return lr * x as f64 / warmup as f64;
        }
        let p = ((x - warmup) as f64 / (total_steps - warmup).max(1) as f64).min(1.0);
        match shape {
            LrShape::Constant => lr,
            LrShape::Linear => lr + (lr_min - lr) * p,
            LrShape::Cosine => lr_min + (lr - lr_min) * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * p)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(shape: LrShape) -> LrSchedule {
        LrSchedule { lr: 2.0, lr_min: 0.5, shape, warmup_steps: 4, total_steps: 12 }
    }

    #[test]
    fn warms_up_in_a_line() {
        let s = schedule(LrShape::Constant);
        assert_eq!([0, 1, 2, 3, 4, 11, 100].map(|i| s.at(i)), [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn goes_down_to_the_minimum() {
        for shape in [LrShape::Linear, LrShape::Cosine] {
            let s = schedule(shape);
            assert_eq!(s.at(3), 2.0);
            assert!((s.at(7) - 1.25).abs() < 1e-12, "{shape:?}: half way at {}", s.at(7));
            assert!((s.at(11) - 0.5).abs() < 1e-12 && (s.at(50) - 0.5).abs() < 1e-12);
        }
        assert!(schedule(LrShape::Cosine).at(5) > schedule(LrShape::Linear).at(5));
    }

    #[test]
    fn no_steps_and_no_warmup_are_no_trouble() {
        let s = LrSchedule { lr: 1.0, lr_min: 0.0, shape: LrShape::Cosine, warmup_steps: 0, total_steps: 0 };
        assert!(s.at(0).is_finite());
        let s = LrSchedule { warmup_steps: 9, total_steps: 3, ..s };
        assert!((0..9).all(|i| (0.0..=1.0).contains(&s.at(i))));
    }
}
