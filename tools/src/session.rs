//! One growing text of tokens, and a context that has run some of them.

use crate::perf::Perf;
use crate::{Error, interrupt};
use fabric_engine::adapter::LoadedAdapter;
use fabric_engine::kv_cache::{CacheFile, CacheFileError};
use fabric_engine::sampler::SamplerChain;
use fabric_engine::vocab::Vocab;
use fabric_engine::{Batch, Context, ContextOptions, Model};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// A text in a context.
pub struct Session<'m> {
    ctx: Context,
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
    /// [`Error::NoVocab`], or where the memory for the context cannot be had.
    pub fn new(
        model: &'m Arc<Model>,
        options: ContextOptions,
        n_batch: usize,
        perf: Perf,
    ) -> Result<Session<'m>, Error> {
        let vocab = model.vocab().ok_or(Error::NoVocab)?;
        let n_ctx = if options.n_ctx == 0 { model.hparams().n_ctx_train } else { options.n_ctx };
        let ctx = Context::new(model.clone(), options).map_err(|source| Error::context(n_ctx, source))?;
        Ok(Session {
            ctx,
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

    /// Uses these adapters. Nothing has been run yet.
    pub fn set_adapters(&mut self, adapters: Vec<Arc<LoadedAdapter>>) {
        self.ctx.set_adapters(adapters);
    }

    /// The tokenizer.
    pub fn vocab(&self) -> &'m Vocab {
        self.vocab
    }

    /// Size of the context.
    pub fn n_ctx(&self) -> usize {
        self.ctx.n_ctx()
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
        self.ctx.decode(&Batch::of(&[token], 0, 0), |_, _| {})?;
        self.ctx.cache_mut().clear();
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
        self.ctx.cache_mut().truncate(0, keep);
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
            let discard = self.ctx.cache().len(0).saturating_sub(keep) / 2;
            if discard == 0 {
                return Ok(false);
            }
            self.ctx.shift(0, keep, discard)?;
            self.tokens.drain(keep..keep + discard);
            self.exact = self.exact.min(keep);
        }
        Ok(true)
    }

    /// Opens a stored text.
    ///
    /// # Errors
    /// What is wrong with the file, or does not fit the model.
    pub fn open_cache(&self, path: &Path) -> Result<CacheFile, CacheFileError> {
        CacheFile::open(path, &self.ctx)
    }

    /// Makes the first `n` tokens of a stored text the text, as if they had been run.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn restore(&mut self, stored: &CacheFile, n: usize) -> Result<(), CacheFileError> {
        stored.load(&mut self.ctx, 0, n)?;
        let n = self.ctx.cache().len(0);
        self.tokens = stored.tokens()[..n].to_vec();
        self.exact = usize::MAX;
        Ok(())
    }

    /// Stores the text as far as it has been run: the number of tokens, 0 where there are none; `None` where it was shifted,
    /// so that its K and V are not what running it gives.
    pub fn save_cache(&self, path: &Path) -> Option<Result<usize, CacheFileError>> {
        let n = self.ctx.cache().len(0).min(self.tokens.len());
        if self.exact < n {
            return None;
        }
        let saved = if n == 0 { Ok(()) } else { self.ctx.save_cache(path, 0, &self.tokens[..n]) };
        Some(saved.map(|()| n))
    }

    /// Runs what has not been run, and keeps the logits of the last token.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn run(&mut self) -> Result<Progress, Error> {
        let mut at = self.ctx.cache().len(0);
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
            self.ctx.decode(&batch, |_, row| row.clone_into(logits))?;
            at = end;
        }
        let perf = &mut self.perf;
        let (time, n) = if self.prompt_waits {
            (&mut perf.prompt_eval, &mut perf.n_prompt_eval)
        } else {
            (&mut perf.eval, &mut perf.n_eval)
        };
        *time += start.elapsed();
        *n += at - before;
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
        let mut at = self.ctx.cache().len(0);
        let before = at;
        let mut progress = Progress::Done;
        while at < self.tokens.len() {
            if interrupt::requested() {
                progress = Progress::Interrupted;
                break;
            }
            let end = (at + self.n_batch).min(self.tokens.len());
            let batch = Batch::of(&self.tokens[at..end], 0, at).with_all_logits();
            let (logits, mut result) = (&mut self.logits, Ok(()));
            self.ctx.decode(&batch, |_, row| {
                row.clone_into(logits);
                if result.is_ok() {
                    result = on_logits(row);
                }
            })?;
            result?;
            at = end;
        }
        self.perf.prompt_eval += start.elapsed();
        self.perf.n_prompt_eval += at - before;
        self.prompt_waits &= progress == Progress::Interrupted;
        Ok(progress)
    }

    /// Shows the text to a chain that is to continue it.
    pub fn accept_all(&mut self, chain: &mut SamplerChain) {
        self.accept_from(chain, 0);
    }

    /// Shows the end of the text, from position `start`, to a chain.
    pub fn accept_from(&mut self, chain: &mut SamplerChain, start: usize) {
        let new = self.tokens.get(start..).unwrap_or_default();
        new.iter().for_each(|&t| chain.accept(t));
        self.perf.n_sampled += new.len();
    }

    /// Chooses the next token after [`run`](Self::run), and puts it at the end of the text.
    ///
    /// # Errors
    /// Where no token can be chosen.
    pub fn sample(&mut self, chain: &mut SamplerChain) -> Result<u32, Error> {
        let start = Instant::now();
        let token = chain.sample(&self.logits)?;
        chain.accept(token);
        self.perf.sampling += start.elapsed();
        self.perf.n_sampled += 1;
        self.tokens.push(token);
        Ok(token)
    }
}
