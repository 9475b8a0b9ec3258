//! The candidate list a chain works on (ggml's `llama_token_data_array`).

use std::cmp::Ordering;

/// One token that may still be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Token id.
    pub id: u32,
    /// Logit after the samplers run so far; never NaN.
    pub logit: f32,
    /// Probability, as far as the last sampler that needed one computed it.
    pub p: f32,
}

/// Descending by logit, then ascending by token id: a total order, so that results never depend on the sort.
fn by_logit(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then_with(|| a.id.cmp(&b.id))
}

/// NaN carries no preference: it counts as impossible.
pub(super) fn nan_to_neg_inf(x: f32) -> f32 {
    if x.is_nan() { f32::NEG_INFINITY } else { x }
}

/// The candidates, with scratch space that lives as long as the chain.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidates {
    pub data: Vec<Candidate>,
    /// Whether `data` is in descending order of logits.
    pub sorted: bool,
    /// Index into `data` of the token chosen by the last stage.
    pub selected: usize,
    scratch: Vec<Candidate>,
    scores: Vec<(f32, u32)>,
}

impl Candidates {
    /// Restarts with every token of the vocabulary in order of ids.
    pub fn load(&mut self, logits: &[f32]) {
        self.data.clear();
        self.data.extend((0u32..).zip(logits).map(|(id, &l)| Candidate { id, logit: nan_to_neg_inf(l), p: 0.0 }));
        self.sorted = false;
        self.selected = 0;
    }

    /// The largest logit (`-inf` for an empty list).
    pub fn max_logit(&self) -> f32 {
        if self.sorted {
            return self.data.first().map_or(f32::NEG_INFINITY, |c| c.logit);
        }
        self.data.iter().fold(f32::NEG_INFINITY, |m, c| m.max(c.logit))
    }

    /// Brings the `k` largest to the front in descending order; the rest is left in no order.
    fn sort_front(&mut self, k: usize) {
        if k == 0 {
            return;
        }
        if k < self.data.len() {
            self.data.select_nth_unstable_by(k - 1, by_logit);
            self.data[..k].sort_unstable_by(by_logit);
        } else {
            self.data.sort_unstable_by(by_logit);
        }
    }

    /// Sorts all candidates by descending logit.
    pub fn sort(&mut self) {
        if !self.sorted {
            self.sort_front(self.data.len());
            self.sorted = true;
        }
    }

    /// Keeps the `k` largest, sorted.
    pub fn keep_top(&mut self, k: usize) {
        if !self.sorted {
            if k < self.data.len() / 8 {
                self.collect_top(k);
            }
            self.sort_front(k);
            self.sorted = true;
        }
        self.data.truncate(k);
    }

    /// Reduces the candidates to fewer than `2 * k` that include the `k` largest: one pass, which rarely writes.
    fn collect_top(&mut self, k: usize) {
        self.scratch.clear();
        let mut kth: Option<Candidate> = None;
        for c in &self.data {
            if kth.is_some_and(|kth| by_logit(&kth, c).is_lt()) {
                continue;
            }
            self.scratch.push(*c);
            if k > 0 && self.scratch.len() >= 2 * k {
                self.scratch.select_nth_unstable_by(k - 1, by_logit);
                self.scratch.truncate(k);
                kth = self.scratch.last().copied();
            }
        }
        std::mem::swap(&mut self.data, &mut self.scratch);
    }

    /// `exp(logit - max)`, with 1 for the maximum itself even if it is infinite.
    fn weight(logit: f32, max: f32) -> f32 {
        if logit == max { 1.0 } else { (logit - max).exp() }
    }

    /// Sets the unnormalized weights in `p` and returns their sum in f64.
    pub fn weights(&mut self) -> f64 {
        let max = self.max_logit();
        let mut sum = 0.0f64;
        for c in &mut self.data {
            c.p = Self::weight(c.logit, max);
            sum += f64::from(c.p);
        }
        sum
    }

    /// Sets `p` to the softmax of the logits, in f32 in the current order of candidates.
    pub fn softmax(&mut self) {
        let max = self.max_logit();
        let mut sum = 0.0f32;
        for c in &mut self.data {
            c.p = Self::weight(c.logit, max);
            sum += c.p;
        }
        for c in &mut self.data {
            c.p /= sum;
        }
    }

    /// Keeps the smallest sorted prefix with a probability of at least `p`, and at least `min_keep` candidates.
    ///
    /// The probabilities are taken before sorting, in the order of candidates found.
    pub fn keep_top_p(&mut self, p: f32, min_keep: usize) {
        self.softmax();
        let n = self.data.len();
        // in a large vocabulary the nucleus is nearly always within the first few hundred
        let mut n_sorted = n;
        if !self.sorted {
            if n > 1024 {
                n_sorted = 256;
            }
            self.sort_front(n_sorted);
        }
        let mut sum = 0.0f32;
        let mut keep = n;
        for i in 0..n {
            sum += self.data[i].p;
            if sum >= p && i + 1 >= min_keep {
                keep = i + 1;
                break;
            }
            if i + 1 == n_sorted && n_sorted < n {
                self.sort_front(n);
                n_sorted = n;
            }
        }
        self.data.truncate(keep);
        self.sorted = true;
    }

    /// Keeps logits of at least `max + ln(p)`, and at least `min_keep` candidates.
    pub fn keep_min_p(&mut self, p: f32, min_keep: usize) {
        let threshold = self.max_logit() + p.ln();
        if !self.sorted {
            let n = self.data.iter().filter(|c| c.logit >= threshold).count();
            if n > 0 && n >= min_keep {
                self.data.retain(|c| c.logit >= threshold);
                return;
            }
            self.sort();
        }
        let keep =
            (1..self.data.len()).find(|&i| self.data[i].logit < threshold && i >= min_keep).unwrap_or(self.data.len());
        self.data.truncate(keep);
    }

    /// Locally typical sampling: keeps candidates by increasing `|-ln p - H|` until their probability exceeds `p`.
    ///
    /// Leaves the candidates in that order (unsorted). A candidate of probability 0 adds nothing to the entropy.
    pub fn keep_typical(&mut self, p: f32, min_keep: usize) {
        self.sort();
        self.softmax();
        let mut entropy = 0.0f32;
        for c in self.data.iter().filter(|c| c.p > 0.0) {
            entropy += -c.p * c.p.ln();
        }
        self.scores.clear();
        self.scores.extend((0u32..).zip(&self.data).map(|(i, c)| ((-c.p.ln() - entropy).abs(), i)));
        self.scores.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        self.scratch.clear();
        let mut sum = 0.0f32;
        for (i, &(_, idx)) in self.scores.iter().enumerate() {
            let c = self.data[idx as usize];
            self.scratch.push(c);
            sum += c.p;
            if sum > p && i + 1 >= min_keep {
                break;
            }
        }
        std::mem::swap(&mut self.data, &mut self.scratch);
        self.sorted = false;
    }

    /// Masks logits below `max - n * sigma`, with the population deviation of the logits that are not `-inf`.
    pub fn mask_below_n_sigma(&mut self, n: f32) {
        if self.data.len() <= 1 {
            return;
        }
        let max = self.max_logit();
        let mut sum = 0.0f32;
        let mut valid = 0usize;
        for c in self.data.iter().filter(|c| c.logit != f32::NEG_INFINITY) {
            sum += c.logit;
            valid += 1;
        }
        let mean = if valid > 0 { sum / valid as f32 } else { 0.0 };
        let mut acc = 0.0f32;
        for c in self.data.iter().filter(|c| c.logit != f32::NEG_INFINITY) {
            let d = f64::from(c.logit - mean);
            acc = (f64::from(acc) + d * d) as f32;
        }
        let sigma = if valid > 0 { (acc / valid as f32).sqrt() } else { 0.0 };
        let threshold = max - n * sigma;
        for c in &mut self.data {
            if c.logit < threshold {
                c.logit = f32::NEG_INFINITY;
            }
        }
    }

    /// Divides the logits by `temp`; at `temp <= 0` masks all but the first maximum.
    pub fn apply_temp(&mut self, temp: f32) {
        if temp > 0.0 {
            for c in &mut self.data {
                c.logit = nan_to_neg_inf(c.logit / temp);
            }
            return;
        }
        let max = self.max_logit();
        let mut found = false;
        for c in &mut self.data {
            if !found && c.logit == max {
                found = true;
            } else {
                c.logit = f32::NEG_INFINITY;
            }
        }
    }

    /// Temperature between `temp - range` and `temp + range`, by the entropy of the candidates.
    pub fn apply_dynatemp(&mut self, temp: f32, range: f32, exponent: f32) {
        let n = self.data.len();
        if n <= 1 {
            return;
        }
        let low = (temp - range).max(0.0);
        let high = temp + range;
        let max_entropy = -(1.0f32 / n as f32).ln();
        self.sort();
        self.softmax();
        let mut entropy = 0.0f32;
        for c in self.data.iter().filter(|c| c.p > 0.0) {
            entropy -= c.p * c.p.ln();
        }
        self.apply_temp(low + (high - low) * (entropy / max_entropy).powf(exponent));
    }

    /// XTC's cut: drops all candidates of probability `>= threshold` but the least likely of them.
    pub fn exclude_top_choices(&mut self, threshold: f32, min_keep: usize) {
        self.sort();
        self.softmax();
        let above = self.data.iter().take_while(|c| c.p >= threshold).count();
        let cut = above.saturating_sub(1);
        if cut > 0 && self.data.len() - cut >= min_keep {
            self.data.drain(..cut);
        }
    }
}
