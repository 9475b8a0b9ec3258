//! Probabilities from logits, and sums over them.

/// A row of logits as log-probabilities.
pub(in crate::cmd) struct LogProbs {
    /// The largest logit.
    pub max: f32,
    /// Its index.
    pub argmax: usize,
    /// Logarithm of the sum of `exp(logit - max)`.
    pub log_sum_exp: f64,
}

impl LogProbs {
    pub fn of(logits: &[f32]) -> LogProbs {
        let (mut max, mut argmax) = (f32::NEG_INFINITY, 0);
        for (i, &l) in logits.iter().enumerate() {
            if l > max {
                (max, argmax) = (l, i);
            }
        }
        let sum: f64 = logits.iter().map(|&l| f64::from((l - max).exp())).sum();
        LogProbs { max, argmax, log_sum_exp: sum.ln() }
    }

    /// That of a token; not a number where there is no such token.
    pub fn log_prob(&self, logits: &[f32], token: u32) -> f64 {
        logits.get(token as usize).map_or(f64::NAN, |&l| f64::from(l - self.max) - self.log_sum_exp)
    }
}

/// Negative log-likelihoods of tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cmd) struct Nll {
    n: usize,
    sum: f64,
    sum2: f64,
}

impl Nll {
    pub fn push(&mut self, nll: f64) {
        self.n += 1;
        self.sum += nll;
        self.sum2 += nll * nll;
    }

    pub fn mean(&self) -> f64 {
        self.sum / self.n as f64
    }

    /// The standard error of the mean.
    pub fn error(&self) -> f64 {
        let variance = self.sum2 / self.n as f64 - self.mean() * self.mean();
        if variance > 0.0 { (variance / (self.n as f64 - 1.0)).sqrt() } else { 0.0 }
    }

    /// The perplexity.
    pub fn ppl(&self) -> f64 {
        self.mean().exp()
    }
}

/// A mean and its uncertainty, from sums; no uncertainty for so few values that it says nothing.
pub(super) fn mean_and_uncertainty(sum: f64, sum2: f64, n: usize) -> (f64, f64) {
    if n < 1 {
        return (0.0, 0.0);
    }
    let mean = sum / n as f64;
    let variance = sum2 / n as f64 - mean * mean;
    (mean, if variance > 0.0 && n > 10 { (variance / (n - 1) as f64).sqrt() } else { 0.0 })
}

/// The covariance of two means.
pub(super) fn covariance(sum_a: f64, sum_b: f64, sum_ab: f64, n: usize) -> f64 {
    if n < 10 {
        return 0.0;
    }
    let count = n as f64;
    (sum_ab / count - (sum_a / count) * (sum_b / count)) / (count - 1.0)
}

/// The value below which this fraction of sorted values lies, interpolated.
pub(super) fn percentile(sorted: &[f32], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = fraction.clamp(0.0, 1.0) * last as f64;
    let i = (at as usize).min(last);
    let p = at - i as f64;
    (1.0 - p) * f64::from(sorted[i]) + p * f64::from(sorted[(i + 1).min(last)])
}

/// As C prints with `%{width}.{precision}f`.
pub(in crate::cmd) fn fixed(x: f64, width: usize, precision: usize) -> String {
    if x.is_nan() {
        let name = if x.is_sign_negative() { "-nan" } else { "nan" };
        return format!("{name:>width$}");
    }
    format!("{x:width$.precision$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one() {
        let logits = [1.0f32, -2.0, 30.0, 29.5, f32::NEG_INFINITY];
        let probs = LogProbs::of(&logits);
        let sum: f64 = (0..5).map(|t| probs.log_prob(&logits, t).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-7, "{sum}");
        assert_eq!((probs.max, probs.argmax), (30.0, 2));
        assert!(probs.log_prob(&logits, 5).is_nan());
    }

    #[test]
    fn errors_of_means() {
        let mut nll = Nll::default();
        [1.0, 2.0, 3.0, 6.0].iter().for_each(|&v| nll.push(v));
        // Variance (4 + 1 + 0 + 9) / 4 = 3.5, over 3.
        assert_eq!((nll.mean(), nll.error()), (3.0, (3.5f64 / 3.0).sqrt()));
        assert_eq!(mean_and_uncertainty(12.0, 50.0, 4), (3.0, 0.0), "too few for an uncertainty");
        assert_eq!(mean_and_uncertainty(36.0, 150.0, 12), (3.0, (3.5f64 / 11.0).sqrt()));
        assert_eq!(covariance(10.0, 20.0, 30.0, 10), (3.0 - 2.0) / 9.0);
    }

    #[test]
    fn percentiles_are_interpolated() {
        let sorted = [0.0, 1.0, 2.0, 4.0];
        assert_eq!(percentile(&sorted, 0.5), 1.5);
        assert_eq!(percentile(&sorted, 1.0), 4.0);
        assert!((percentile(&sorted, 0.9) - 3.4).abs() < 1e-9);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn numbers_look_as_in_c() {
        assert_eq!(fixed(1.25, 10, 4), "    1.2500");
        assert_eq!(fixed(f64::NAN.copysign(-1.0), 6, 3), "  -nan");
        assert_eq!(fixed(f64::INFINITY, 6, 3), "   inf");
    }
}
