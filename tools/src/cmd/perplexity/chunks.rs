//! Chunks of a text, run from an empty cache.

use super::Subject;
use crate::args::perplexity::MeasureArgs;
use crate::log::Log;
use crate::{Error, interrupt};
use fabric_engine::{Batch, BatchToken, Context, ContextOptions};
use std::ops::Range;

/// Runs chunks.
pub(super) struct Runner {
    ctx: Context,
    n_batch: usize,
    /// What the first token of a chunk is replaced by.
    bos: Option<u32>,
}

impl Runner {
    /// For chunks of at most `n_ctx` tokens, at most `n_seq` side by side.
    ///
    /// # Errors
    /// Where the memory cannot be had.
    pub fn new(subject: &Subject, args: &MeasureArgs, n_ctx: usize, n_seq: usize, log: &Log) -> Result<Runner, Error> {
        let Subject { model, adapters } = subject;
        let trained = model.hparams().n_ctx_train;
        if n_ctx > trained {
            log.warning(format_args!("the model was trained on only {trained} context tokens ({n_ctx} specified)"));
        }
        let options = ContextOptions {
            n_ctx,
            n_seq_max: n_seq,
            n_ubatch: args.ubatch_size as usize,
            type_k: args.cache_type_k,
            type_v: args.cache_type_v,
            ..ContextOptions::default()
        };
        let mut ctx = Context::new(model.clone(), options).map_err(|source| Error::context(n_ctx, source))?;
        ctx.set_adapters(adapters.clone());
        let vocab = model.vocab().ok_or(Error::NoVocab)?;
        let bos = vocab.bos().filter(|_| vocab.add_bos());
        Ok(Runner { ctx, n_batch: args.batch_size as usize, bos })
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
        self.ctx.cache_mut().clear();
        let mut tokens = Vec::new();
        for (seq, chunk) in chunks.iter().enumerate() {
            for (pos, &token) in chunk.iter().enumerate() {
                let token = if pos == 0 { self.bos.unwrap_or(token) } else { token };
                tokens.push(BatchToken { token, seq, pos, logits: wanted.contains(&pos) });
            }
        }
        for piece in tokens.chunks(self.n_batch) {
            if interrupt::requested() {
                return Ok(false);
            }
            let mut result = Ok(());
            self.ctx.decode(&Batch { tokens: piece.to_vec() }, |i, row| {
                if result.is_ok() {
                    result = on_logits(piece[i].seq, piece[i].pos, row);
                }
            })?;
            result?;
        }
        Ok(true)
    }
}
