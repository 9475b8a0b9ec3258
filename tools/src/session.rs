//! One growing text of tokens, and a context that has run some of them.

use crate::fallback::Resilient;
use crate::perf::Perf;
use crate::{Error, interrupt};
use fabric_engine::grammar::{SampleError, Sampler};
use fabric_engine::kv_cache::{CacheFile, CacheFileError};
use fabric_engine::vocab::Vocab;
use fabric_engine::{Batch, Model};
use std::path::Path;
use std::time::Instant;

/// A text in a context.
pub struct Session<'m> {
    runs: Resilient<'m>,
    vocab: &'m Vocab,
    n_batch: usize,
    /// The text; the first `ctx.cache().len(0)` tokens have been run.
    tokens: Vec<u32>,
    /// How many of the first tokens stay when a full context is shifted; `None`: it is not shifted.
    keep: Option<usize>,
    /// Tokens before this one have the K and V that running them gives; a shift leaves others, which saw what is gone.
    exact: usize,
    /// Whether tokens that were not generated wait to be run.
    prompt_waits: bool,
    logits: Vec<f32>,
    /// Where the time went.
    pub perf: Perf,
}

/// Whether a run came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It did.
    Done,
    /// Ctrl-C; what is left runs next time.
    Interrupted,
}

impl<'m> Session<'m> {
    /// An empty text. `n_batch` tokens are run between two looks at Ctrl-C.
    ///
    /// # Errors
    /// [`Error::NoVocab`].
    pub fn new(model: &'m Model, runs: Resilient<'m>, n_batch: usize, perf: Perf) -> Result<Session<'m>, Error> {
        let vocab = model.vocab().ok_or(Error::NoVocab)?;
        Ok(Session {
            runs,
            vocab,
            n_batch: n_batch.max(1),
            tokens: Vec::new(),
            keep: None,
            exact: usize::MAX,
            prompt_waits: false,
            logits: Vec::new(),
            perf,
        })
    }

    /// The tokenizer.
    pub fn vocab(&self) -> &'m Vocab {
        self.vocab
    }

    /// Size of the context.
    pub fn n_ctx(&self) -> usize {
        self.runs.ctx.n_ctx()
    }

    /// The text.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Runs one token and forgets it, so that later timings do not include reading the model.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn warm_up(&mut self) -> Result<(), Error> {
        let token = self.vocab.bos().or(self.vocab.eos()).unwrap_or(0);
        if let Err(e) = self.runs.ctx.decode(&Batch::of(&[token], 0, 0), |_, _| {}) {
            self.recover(e)?;
        }
        self.runs.ctx.cache_mut().clear();
        Ok(())
    }

    /// Puts tokens at the end of the text. They are run when they are needed.
    pub fn append(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.prompt_waits = true;
    }

    /// Makes `tokens` the text. What it has in common with the old one at its beginning is not run again, except for the
    /// last token, whose logits are wanted.
    pub fn replace(&mut self, tokens: &[u32]) {
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let keep = common.min(tokens.len().saturating_sub(1)).min(self.exact);
        self.runs.ctx.cache_mut().truncate(0, keep);
        self.exact = usize::MAX;
        self.tokens.clear();
        self.append(tokens);
    }

    /// How many tokens of a prompt of `n_prompt` stay when the context is shifted: as many as `--keep` says, and BOS.
    pub fn n_keep(&self, keep: i32, n_prompt: usize) -> usize {
        match usize::try_from(keep) {
            Ok(keep) if keep < n_prompt => keep + usize::from(self.vocab.add_bos()),
            _ => n_prompt,
        }
    }

    /// How many of the first tokens [`make_room`](Self::make_room) keeps; `None`: it makes none.
    pub fn shift_keeps(&mut self, keep: Option<usize>) {
        self.keep = keep;
    }

    /// Whether `n` tokens more than the text has fit, with a successor. Where they do not, the context is shifted if it may be,
    /// as llama.cpp does it: half of what comes after the tokens that are kept goes.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn make_room(&mut self, n: usize) -> Result<bool, Error> {
        while self.tokens.len().saturating_add(n) >= self.n_ctx() {
            let Some(keep) = self.keep else { return Ok(false) };
            let n_past = self.runs.ctx.cache().len(0);
            let discard = n_past.saturating_sub(keep) / 2;
            // One token after those that are kept always stays, and those that wait to be run.
            let least = (keep + 1).saturating_add(self.tokens.len().saturating_sub(n_past)).saturating_add(n);
            if discard == 0 || least >= self.n_ctx() {
                return Ok(false);
            }
            if let Err(e) = self.runs.ctx.shift(0, keep, discard) {
                self.recover(e)?;
            }
            self.tokens.drain(keep..keep + discard);
            // What moved to the CPU is computed anew, from what is left of the text.
            if !self.runs.ctx.cache().is_empty() {
                self.exact = self.exact.min(keep);
            }
        }
        Ok(true)
    }

    /// Opens a stored text.
    ///
    /// # Errors
    /// What is wrong with the file, or does not fit the model.
    pub fn open_cache(&self, path: &Path) -> Result<CacheFile, CacheFileError> {
        CacheFile::open(path, &self.runs.ctx)
    }

    /// Makes the first `n` tokens of a stored text the text, as if they had been run.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn restore(&mut self, stored: &CacheFile, n: usize) -> Result<(), CacheFileError> {
        stored.load(&mut self.runs.ctx, 0, n)?;
        let n = self.runs.ctx.cache().len(0);
        self.tokens = stored.tokens()[..n].to_vec();
        self.exact = usize::MAX;
        Ok(())
    }

    /// Stores the text as far as it has been run: the number of tokens, 0 where there are none; `None` where it was shifted,
    /// so that its K and V are not what running it gives.
    pub fn save_cache(&self, path: &Path) -> Option<Result<usize, CacheFileError>> {
        let n = self.runs.ctx.cache().len(0).min(self.tokens.len());
        if self.exact < n {
            return None;
        }
        let saved = if n == 0 { Ok(()) } else { self.runs.ctx.save_cache(path, 0, &self.tokens[..n]) };
        Some(saved.map(|()| n))
    }

    /// Goes on on the CPU where a GPU has failed, if it may: with no past, so that the text is run again.
    fn recover(&mut self, error: fabric_engine::Error) -> Result<(), Error> {
        self.exact = usize::MAX;
        self.runs.recover(error)
    }

    /// Runs what has not been run, and keeps the logits of the last token.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn run(&mut self) -> Result<Progress, Error> {
        let mut at = self.runs.ctx.cache().len(0);
        let start = Instant::now();
        let (before, n_all) = (at, self.tokens.len());
        let mut progress = Progress::Done;
        while at < n_all {
            if interrupt::requested() {
                progress = Progress::Interrupted;
                break;
            }
            let end = (at + self.n_batch).min(n_all);
            let mut batch = Batch::of(&self.tokens[at..end], 0, at);
            batch.tokens.iter_mut().for_each(|t| t.logits &= end == n_all);
            let logits = &mut self.logits;
            if let Err(e) = self.runs.ctx.decode(&batch, |_, row| row.clone_into(logits)) {
                self.recover(e)?;
                at = 0;
                continue;
            }
            at = end;
        }
        let perf = &mut self.perf;
        let (time, n) = if self.prompt_waits {
            (&mut perf.prompt_eval, &mut perf.n_prompt_eval)
        } else {
            (&mut perf.eval, &mut perf.n_eval)
        };
        *time += start.elapsed();
        *n += at.saturating_sub(before);
        self.prompt_waits &= progress == Progress::Interrupted;
        Ok(progress)
    }

    /// Runs what has not been run, with the logits of each of these tokens.
    ///
    /// # Errors
    /// Those of the engine and of `on_logits`.
    pub fn run_with_all_logits(
        &mut self,
        mut on_logits: impl FnMut(&[f32]) -> Result<(), Error>,
    ) -> Result<Progress, Error> {
        let start = Instant::now();
        let mut at = self.runs.ctx.cache().len(0);
        let before = at;
        // What has been handed over is not again where the past is computed anew.
        let mut told = at;
        let mut progress = Progress::Done;
        while at < self.tokens.len() {
            if interrupt::requested() {
                progress = Progress::Interrupted;
                break;
            }
            let end = (at + self.n_batch).min(self.tokens.len());
            let batch = Batch::of(&self.tokens[at..end], 0, at).with_all_logits();
            let (logits, mut result) = (&mut self.logits, Ok(()));
            let ran = self.runs.ctx.decode(&batch, |i, row| {
                row.clone_into(logits);
                if result.is_ok() && at + i == told {
                    told += 1;
                    result = on_logits(row);
                }
            });
            result?;
            at = match ran {
                Ok(()) => end,
                Err(e) => {
                    self.recover(e)?;
                    0
                }
            };
        }
        self.perf.prompt_eval += start.elapsed();
        self.perf.n_prompt_eval += at.saturating_sub(before);
        self.prompt_waits &= progress == Progress::Interrupted;
        Ok(progress)
    }

    /// Shows the text to a sampler that is to continue it.
    pub fn accept_all(&mut self, sampler: &mut Sampler) {
        self.accept_from(sampler, 0);
    }

    /// Shows the end of the text, from position `start`, to a sampler. Its grammar is only for what is generated.
    pub fn accept_from(&mut self, sampler: &mut Sampler, start: usize) {
        let new = self.tokens.get(start..).unwrap_or_default();
        new.iter().for_each(|&t| sampler.accept_prompt(t));
        self.perf.n_sampled += new.len();
    }

    /// Chooses the next token after [`run`](Self::run), and puts it at the end of the text.
    ///
    /// # Errors
    /// Where no token can be chosen.
    pub fn sample(&mut self, sampler: &mut Sampler) -> Result<u32, Error> {
        let start = Instant::now();
        let token = sampler.sample(&self.logits)?;
        sampler.accept(token).map_err(SampleError::from)?;
        self.perf.sampling += start.elapsed();
        self.perf.n_sampled += 1;
        self.tokens.push(token);
        Ok(token)
    }
}
