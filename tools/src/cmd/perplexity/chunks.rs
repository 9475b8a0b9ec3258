//! Chunks of a text, run from an empty cache.

use crate::args::adapter::AdapterArgs;
use crate::fallback::{Fallback, Resilient};
use crate::log::Log;
use crate::{Error, interrupt};
use fabric_engine::{Batch, BatchToken, Context, ContextOptions, Model};
use std::ops::Range;
use std::sync::Arc;

/// What is run.
pub(in crate::cmd) struct Subject<'a> {
    pub model: Arc<Model>,
    pub adapters: &'a AdapterArgs,
    pub fallback: Option<Fallback<'a>>,
}

/// Runs chunks.
pub(in crate::cmd) struct Runner<'a> {
    runs: Resilient<'a>,
    n_batch: usize,
    /// What the first token of a chunk is replaced by.
    bos: Option<u32>,
}

impl<'a> Runner<'a> {
    /// For chunks of at most `n_ctx` tokens, at most `n_seq_max` side by side, of which `n_batch` tokens are handed over at once.
    ///
    /// # Errors
    /// Where the memory cannot be had.
    pub fn new(subject: &Subject<'a>, options: ContextOptions, n_batch: usize, log: &Log) -> Result<Runner<'a>, Error> {
        let Subject { model, adapters, fallback } = subject;
        let n_ctx = options.n_ctx;
        let trained = model.hparams().n_ctx_train;
        if n_ctx > trained {
            log.warning(format_args!("the model was trained on only {trained} context tokens ({n_ctx} specified)"));
        }
        let runs = Resilient::new(model, options, adapters, *fallback, log)?;
        let vocab = model.vocab().ok_or(Error::NoVocab)?;
        let bos = vocab.bos().filter(|_| vocab.add_bos());
        Ok(Runner { runs, n_batch, bos })
    }

    /// Where they are run.
    pub fn context_mut(&mut self) -> &mut Context {
        &mut self.runs.ctx
    }

    /// Runs chunks, and hands over chunk, position and logits for each of the positions `wanted`, chunk by chunk. False if
    /// Ctrl-C came.
    ///
    /// # Errors
    /// Those of the engine and of `on_logits`.
    pub fn run(
        &mut self,
        chunks: &[&[u32]],
        wanted: Range<usize>,
        mut on_logits: impl FnMut(usize, usize, &[f32]) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        self.runs.ctx.cache_mut().clear();
        let mut tokens = Vec::new();
        for (seq, chunk) in chunks.iter().enumerate() {
            for (pos, &token) in chunk.iter().enumerate() {
                let token = if pos == 0 { self.bos.unwrap_or(token) } else { token };
                tokens.push(BatchToken { token, seq, pos, logits: wanted.contains(&pos) });
            }
        }
        // The number of logits handed over: where the past is computed anew they are not handed over again.
        let (mut at, mut told) = (0, 0);
        while at < tokens.len() {
            if interrupt::requested() {
                return Ok(false);
            }
            let piece = &tokens[at..tokens.len().min(at + self.n_batch)];
            let mut seen = tokens[..at].iter().filter(|t| t.logits).count();
            let mut result = Ok(());
            let ran = self.runs.ctx.decode(&Batch { tokens: piece.to_vec() }, |i, row| {
                if result.is_ok() && seen == told {
                    told += 1;
                    result = on_logits(piece[i].seq, piece[i].pos, row);
                }
                seen += 1;
            });
            result?;
            at = match ran {
                Ok(()) => at + piece.len(),
                Err(e) => {
                    self.runs.recover(e)?;
                    0
                }
            };
        }
        Ok(true)
    }
}
