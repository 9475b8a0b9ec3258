//! Repeat, frequency and presence penalties over the last tokens.

use std::collections::VecDeque;

use super::candidates::{Candidates, nan_to_neg_inf};

/// Counts of the last `last_n` accepted tokens and the penalties on them.
#[derive(Debug, Clone)]
pub(super) struct Penalties {
    last_n: usize,
    repeat: f32,
    frequency: f32,
    presence: f32,
    window: VecDeque<u32>,
    /// How often each token of the vocabulary is in the window.
    counts: Vec<u32>,
}

impl Penalties {
    pub fn new(last_n: usize, repeat: f32, frequency: f32, presence: f32, n_vocab: usize) -> Self {
        Self {
            last_n,
            repeat,
            frequency,
            presence,
            window: VecDeque::with_capacity(last_n.min(4096)),
            counts: vec![0; n_vocab],
        }
    }

    pub fn accept(&mut self, token: u32) {
        let Some(count) = self.counts.get_mut(token as usize) else {
            return;
        };
        *count += 1;
        self.window.push_back(token);
        if self.window.len() > self.last_n
            && let Some(old) = self.window.pop_front()
            && let Some(count) = self.counts.get_mut(old as usize)
        {
            *count -= 1;
        }
    }

    pub fn apply(&self, cur: &mut Candidates) {
        for c in &mut cur.data {
            let count = self.counts.get(c.id as usize).copied().unwrap_or(0);
            if count == 0 {
                continue;
            }
            // dividing a negative logit would make the token more likely
            if c.logit <= 0.0 {
                c.logit *= self.repeat;
            } else {
                c.logit /= self.repeat;
            }
            c.logit = nan_to_neg_inf(c.logit - (count as f32 * self.frequency + self.presence));
        }
        cur.sorted = false;
    }

    pub fn reset(&mut self) {
        self.window.clear();
        self.counts.fill(0);
    }
}
