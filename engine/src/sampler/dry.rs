//! DRY ("don't repeat yourself"): penalizes tokens that would extend a repetition of the text's own end.

use std::collections::{HashMap, VecDeque};

use super::candidates::{Candidates, nan_to_neg_inf};

/// Sequence breakers longer than this many bytes are cut, as in llama.cpp.
const MAX_BREAKER_BYTES: usize = 40;
/// Tokens of a breaker after its head that are compared.
const MAX_BREAKER_TAIL: usize = 20;
/// `ln(FLT_MAX)`, the largest exponent of e that is finite.
const LN_FLT_MAX: f32 = 88.722_84;

/// Token sequences that end a repetition, keyed by their first token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DryBreakers {
    tails: HashMap<u32, Vec<Vec<u32>>>,
}

impl DryBreakers {
    /// Breakers that are already tokenized; empty sequences are skipped.
    pub fn from_sequences(sequences: &[Vec<u32>]) -> Self {
        let mut breakers = Self::default();
        for sequence in sequences {
            if let Some((&head, tail)) = sequence.split_first() {
                breakers.insert(head, tail.to_vec());
            }
        }
        breakers
    }

    /// Breakers from strings (`--dry-sequence-breaker`): every token that contains one, or that ends in the start of
    /// one, becomes a head.
    ///
    /// `piece` gives the text bytes of a token, `tokenize` splits text bytes into tokens without adding or parsing
    /// special ones. Both are called once per token of the vocabulary that overlaps a breaker at most a few times.
    pub fn from_strings<P, T>(breakers: &[String], n_vocab: usize, mut piece: P, mut tokenize: T) -> Self
    where
        P: FnMut(u32) -> Vec<u8>,
        T: FnMut(&[u8]) -> Vec<u32>,
    {
        let mut out = Self::default();
        let breakers: Vec<&[u8]> = breakers
            .iter()
            .map(|s| &s.as_bytes()[..s.len().min(MAX_BREAKER_BYTES)])
            .filter(|s| !s.is_empty())
            .collect();
        for id in (0u32..).take(n_vocab) {
            let word = piece(id);
            for breaker in &breakers {
                if contains(&word, breaker) {
                    out.insert(id, Vec::new());
                    continue;
                }
                for start in word.len().saturating_sub(breaker.len())..word.len() {
                    let overlap = &word[start..];
                    if breaker.starts_with(overlap) {
                        let mut tail = tokenize(&breaker[overlap.len()..]);
                        tail.truncate(MAX_BREAKER_TAIL);
                        out.insert(id, tail);
                    }
                }
            }
        }
        out
    }

    fn insert(&mut self, head: u32, tail: Vec<u32>) {
        let tails = self.tails.entry(head).or_default();
        if !tails.contains(&tail) {
            tails.push(tail);
        }
    }

    fn is_single_token(&self, token: u32) -> bool {
        self.tails.get(&token).is_some_and(|tails| tails.iter().any(Vec::is_empty))
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

/// The parameters of [`Dry`].
#[derive(Debug, Clone, Copy)]
pub(super) struct DryParams {
    pub multiplier: f32,
    pub base: f32,
    pub allowed_length: i32,
    pub last_n: usize,
}

/// The DRY sampler with its history of accepted tokens.
#[derive(Debug, Clone)]
pub(super) struct Dry {
    params: DryParams,
    breakers: DryBreakers,
    history: VecDeque<u32>,
    /// Lengths of the repetitions of the history's end, newest position first.
    repeats: Vec<usize>,
    /// Longest repetition that each token would extend.
    longest: HashMap<u32, usize>,
}

impl Dry {
    pub fn new(params: DryParams, breakers: DryBreakers) -> Self {
        Self {
            params,
            breakers,
            history: VecDeque::with_capacity(params.last_n.min(4096)),
            repeats: Vec::new(),
            longest: HashMap::new(),
        }
    }

    pub fn accept(&mut self, token: u32) {
        if self.history.len() >= self.params.last_n {
            self.history.pop_back();
        }
        self.history.push_front(token);
    }

    pub fn reset(&mut self) {
        self.history.clear();
    }

    pub fn apply(&mut self, cur: &mut Candidates) {
        let n = self.history.len();
        let allowed = self.params.allowed_length;
        // n <= allowed, with a negative allowed length allowing nothing
        if usize::try_from(allowed).is_ok_and(|a| n <= a) || n == 0 {
            return;
        }
        let limit = self.repetition_limit();
        if usize::try_from(allowed).is_ok_and(|a| limit < a) {
            return;
        }
        self.find_repeats(limit);
        self.longest.clear();
        for k in 1..n {
            let len = self.repeats[k];
            if usize::try_from(allowed).is_ok_and(|a| len < a) {
                continue;
            }
            // the token that followed the repeated text then would extend it now
            let longest = self.longest.entry(self.history[k - 1]).or_insert(len);
            *longest = (*longest).max(len);
        }
        self.penalize(cur);
    }

    /// How many of the last tokens lie after the last sequence breaker.
    fn repetition_limit(&self) -> usize {
        for (i, token) in self.history.iter().enumerate() {
            let Some(tails) = self.breakers.tails.get(token) else {
                continue;
            };
            let longest = tails
                .iter()
                .filter(|tail| {
                    tail.len() <= i && tail.iter().zip(0..).all(|(t, o): (&u32, usize)| *t == self.history[i - o - 1])
                })
                .map(Vec::len)
                .max();
            if let Some(len) = longest {
                return i - len;
            }
        }
        self.history.len()
    }

    /// Z-algorithm on the history read backwards: `repeats[k]` is how far the text ending `k` tokens ago equals the
    /// text's end, at most `limit`.
    fn find_repeats(&mut self, limit: usize) {
        let h = &self.history;
        let n = h.len();
        self.repeats.clear();
        self.repeats.resize(n, 0);
        let (mut left, mut right) = (0usize, 0usize);
        for k in 1..n {
            let mut len = 0;
            if k <= right {
                let inside = right - k + 1;
                let mirrored = self.repeats[k - left];
                if mirrored < inside {
                    self.repeats[k] = mirrored;
                    continue;
                }
                len = inside;
            }
            while k + len < n && h[len] == h[k + len] {
                len += 1;
            }
            self.repeats[k] = len.min(limit);
            if len > 0 {
                left = k;
                right = k + len - 1;
            }
        }
    }

    fn penalize(&self, cur: &mut Candidates) {
        let DryParams { multiplier, base, allowed_length, .. } = self.params;
        // beyond this the power overflows f32
        let max_exponent = if base > 1.000_001 { (LN_FLT_MAX / base.ln()) as i64 } else { 0 };
        for c in &mut cur.data {
            let Some(&len) = self.longest.get(&c.id) else {
                continue;
            };
            if self.breakers.is_single_token(c.id) {
                continue;
            }
            let mut exponent = i64::try_from(len).unwrap_or(i64::MAX) - i64::from(allowed_length);
            if max_exponent > 0 {
                exponent = exponent.min(max_exponent);
            }
            let penalty = f64::from(multiplier) * f64::from(base).powf(exponent as f64);
            c.logit = nan_to_neg_inf(c.logit - penalty as f32);
        }
        cur.sorted = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breakers_from_strings_find_containing_and_overlapping_tokens() {
        let pieces: [&[u8]; 6] = [b"a", b"x\n", b"foo<", b"<|", b"|>", b"<<"];
        let tokenize = |text: &[u8]| text.iter().map(|&b| u32::from(b)).collect::<Vec<_>>();
        let breakers = DryBreakers::from_strings(
            &["\n".to_owned(), "<|>".to_owned(), String::new()],
            pieces.len(),
            |id| pieces[id as usize].to_vec(),
            tokenize,
        );
        let tail = |s: &str| s.bytes().map(u32::from).collect::<Vec<u32>>();
        let mut heads: Vec<_> = breakers.tails.into_iter().collect();
        heads.sort();
        assert_eq!(heads, [(1, vec![vec![]]), (2, vec![tail("|>")]), (3, vec![tail(">")]), (5, vec![tail("|>")]),]);
    }

    #[test]
    fn the_exponent_is_capped_so_that_penalties_stay_finite() {
        let params = DryParams { multiplier: 1.0, base: 1e10, allowed_length: 2, last_n: 64 };
        let mut dry = Dry::new(params, DryBreakers::default());
        for _ in 0..20 {
            dry.accept(1);
        }
        let mut cur = Candidates::default();
        cur.load(&[0.0; 3]);
        dry.apply(&mut cur);
        assert_eq!(cur.data[0].logit, 0.0);
        assert_eq!(cur.data[1].logit, -1e30);
    }

    #[test]
    fn long_breakers_are_cut() {
        let tokenize = |text: &[u8]| text.iter().map(|&b| u32::from(b)).collect::<Vec<_>>();
        let breakers = DryBreakers::from_strings(&["z".repeat(100)], 1, |_| b"z".to_vec(), tokenize);
        assert_eq!(breakers.tails[&0], [vec![u32::from(b'z'); MAX_BREAKER_TAIL]]);
    }
}
