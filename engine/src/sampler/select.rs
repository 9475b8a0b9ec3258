//! The last stage of a chain: it draws the token.

use super::candidates::Candidates;
use super::rng::Mt19937;

/// llama.cpp's `dist`: one uniform draw over the softmax, summed in f64 in the current order of candidates.
pub(super) fn dist(cur: &mut Candidates, rng: &mut Mt19937) {
    let total = cur.weights();
    let target = total * rng.uniform_f64();
    let mut sum = 0.0f64;
    let mut selected = None;
    for (i, c) in cur.data.iter_mut().enumerate() {
        if selected.is_none() {
            sum += f64::from(c.p);
            if sum >= target {
                selected = Some(i);
            }
        }
        c.p = (f64::from(c.p) / total) as f32;
    }
    cur.selected = selected.unwrap_or(cur.data.len().saturating_sub(1));
}

/// `std::discrete_distribution` over the probabilities `p`; a single candidate takes no draw.
fn discrete(cur: &mut Candidates, rng: &mut Mt19937) {
    cur.selected = 0;
    let last = cur.data.len().saturating_sub(1);
    if last == 0 {
        return;
    }
    let total: f64 = cur.data.iter().map(|c| f64::from(c.p)).sum();
    let u = rng.uniform_f64();
    let mut sum = 0.0f64;
    cur.selected = cur
        .data
        .iter()
        .position(|c| {
            sum += f64::from(c.p) / total;
            sum >= u
        })
        .unwrap_or(last);
}

/// Mirostat 1 and 2: holds the surprise of the chosen tokens near `tau` bits.
#[derive(Debug, Clone)]
pub(super) struct Mirostat {
    tau: f32,
    eta: f32,
    mu: f32,
    rng: Mt19937,
}

impl Mirostat {
    /// Tokens from which version 1 estimates the exponent of the distribution.
    const M: usize = 100;

    pub fn new(tau: f32, eta: f32, rng: Mt19937) -> Self {
        Self { tau, eta, mu: 2.0 * tau, rng }
    }

    pub fn reset(&mut self, seed: u32) {
        self.mu = 2.0 * self.tau;
        self.rng.seed(seed);
    }

    /// Version 1: top-k with k from the estimated Zipf exponent.
    pub fn sample_v1(&mut self, cur: &mut Candidates, n_vocab: usize) {
        cur.sort();
        cur.softmax();
        let mut sum_tb = 0.0f32;
        let mut sum_tt = 0.0f32;
        for (i, pair) in cur.data.windows(2).take(Self::M - 1).enumerate() {
            let t = ((i + 2) as f32 / (i + 1) as f32).ln();
            let b = (pair[0].p / pair[1].p).ln();
            sum_tb += t * b;
            sum_tt += t * t;
        }
        let s_hat = sum_tb / sum_tt;
        let eps = s_hat - 1.0;
        let k = ((eps * 2.0f32.powf(self.mu)) / (1.0 - (n_vocab as f32).powf(-eps))).powf(1.0 / s_hat);
        // saturating: NaN gives 0
        cur.keep_top((k as usize).max(1));
        self.draw(cur);
    }

    /// Version 2: cuts candidates with a surprise above `mu`.
    pub fn sample_v2(&mut self, cur: &mut Candidates) {
        cur.sort();
        cur.softmax();
        let keep = cur.data.iter().position(|c| -c.p.log2() > self.mu).unwrap_or(cur.data.len());
        cur.data.truncate(keep.max(1));
        self.draw(cur);
    }

    fn draw(&mut self, cur: &mut Candidates) {
        cur.softmax();
        discrete(cur, &mut self.rng);
        if let Some(c) = cur.data.get(cur.selected) {
            let surprise = -c.p.log2();
            self.mu -= self.eta * (surprise - self.tau);
        }
    }
}

/// Adaptive-p: favours tokens near a target probability, corrected by the average of those chosen.
#[derive(Debug, Clone)]
pub(super) struct AdaptiveP {
    target: f32,
    decay: f32,
    rng: Mt19937,
    weighted_sum: f32,
    total_weight: f32,
    original: Vec<f32>,
    /// The token chosen last and its probability before the transform.
    pending: Option<(u32, f32)>,
}

impl AdaptiveP {
    const INV_WIDTH: f32 = 1.0 / 0.3;
    const PEAK_LOGIT: f32 = 5.0;
    const SHARPNESS: f32 = 10.0;

    pub fn new(target: f32, decay: f32, rng: Mt19937) -> Self {
        let mut this = Self {
            target,
            decay: decay.clamp(0.0, 0.99),
            rng,
            weighted_sum: 0.0,
            total_weight: 0.0,
            original: Vec::new(),
            pending: None,
        };
        this.reset_average();
        this
    }

    fn reset_average(&mut self) {
        self.weighted_sum = self.target / (1.0 - self.decay);
        self.total_weight = 1.0 / (1.0 - self.decay);
        self.pending = None;
    }

    pub fn reset(&mut self, seed: u32) {
        self.reset_average();
        self.rng.seed(seed);
    }

    pub fn sample(&mut self, cur: &mut Candidates) {
        cur.softmax();
        if self.target < 0.0 {
            discrete(cur, &mut self.rng);
            return;
        }
        self.original.clear();
        self.original.extend(cur.data.iter().map(|c| c.p));
        let target = self.target.clamp(0.0, 1.0);
        let adapted = (2.0 * target - self.weighted_sum / self.total_weight).clamp(0.0, 1.0);
        for c in &mut cur.data {
            if c.logit != f32::NEG_INFINITY {
                let d = ((c.p - adapted) * Self::INV_WIDTH).abs();
                c.logit = Self::PEAK_LOGIT - Self::SHARPNESS * d * d / (1.0 + d);
            }
        }
        // the transform does not keep the order
        cur.sorted = false;
        cur.softmax();
        discrete(cur, &mut self.rng);
        self.pending = cur.data.get(cur.selected).zip(self.original.get(cur.selected)).map(|(c, &p)| (c.id, p));
    }

    pub fn accept(&mut self, token: u32) {
        if let Some((id, p)) = self.pending.take()
            && id == token
        {
            self.weighted_sum = p + self.decay * self.weighted_sum;
            self.total_weight = 1.0 + self.decay * self.total_weight;
        }
    }
}
