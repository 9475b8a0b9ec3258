//! Keys and values of past tokens, in f16.

use crate::arch::HParams;
use crate::batch::{BatchError, BatchToken};
use ggml_ops::OpError;
use ggml_ops::backend::{Backend, Buffer};
use std::sync::Arc;

/// K and V of every layer: for each sequence, `n_ctx` rows in order of position.
pub struct KvCache {
    layers: Vec<[Arc<dyn Buffer>; 2]>,
    lengths: Vec<usize>,
    n_ctx: usize,
}

impl KvCache {
    /// An empty cache on a device.
    ///
    /// # Errors
    /// Where the memory cannot be had.
    pub fn new(device: &dyn Backend, hp: &HParams, n_ctx: usize, n_seq_max: usize) -> Result<KvCache, OpError> {
        let bytes = |width: usize| {
            let too_large = || OpError::Backend {
                backend: device.name(),
                what: format!("a KV cache of {n_ctx} positions for {n_seq_max} sequences is too large"),
            };
            let rows = n_ctx.checked_mul(n_seq_max).filter(|&r| i32::try_from(r).is_ok()).ok_or_else(too_large)?;
            [rows, 2].into_iter().try_fold(width, usize::checked_mul).ok_or_else(too_large)
        };
        let (k, v) = (bytes(hp.n_embd_k_gqa())?, bytes(hp.n_embd_v_gqa())?);
        let layers =
            (0..hp.n_layer).map(|_| Ok([device.alloc(k)?, device.alloc(v)?])).collect::<Result<_, OpError>>()?;
        Ok(KvCache { layers, lengths: vec![0; n_seq_max], n_ctx })
    }

    /// K and V of a layer: `[n_embd_gqa, n_ctx * n_seq_max]` of F16.
    pub fn layer(&self, il: usize) -> &[Arc<dyn Buffer>; 2] {
        &self.layers[il]
    }

    /// Positions that each sequence may have.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Sequences.
    pub fn n_seq_max(&self) -> usize {
        self.lengths.len()
    }

    /// Positions that sequence `seq` has.
    pub fn len(&self, seq: usize) -> usize {
        self.lengths.get(seq).copied().unwrap_or(0)
    }

    /// Whether no sequence has any.
    pub fn is_empty(&self) -> bool {
        self.lengths.iter().all(|&n| n == 0)
    }

    /// Bytes in all layers.
    pub fn bytes(&self) -> usize {
        self.layers.iter().flatten().map(|b| b.len()).sum()
    }

    /// Forgets the positions of `seq` from `len` on.
    pub fn truncate(&mut self, seq: usize, len: usize) {
        if let Some(n) = self.lengths.get_mut(seq) {
            *n = len.min(*n);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.lengths.fill(0);
    }

    /// Whether these tokens can be appended.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn check(&self, tokens: &[BatchToken]) -> Result<(), BatchError> {
        let n_seq_max = self.lengths.len();
        for (i, t) in tokens.iter().enumerate() {
            let length = self.lengths.get(t.seq).ok_or(BatchError::Sequence { seq: t.seq, n_seq_max })?;
            // Tokens of a sequence mostly follow each other, so the last one before this is near.
            let before = tokens[..i].iter().rev().find(|b| b.seq == t.seq);
            let expected = before.map_or(*length, |b| b.pos + 1);
            if t.pos != expected {
                return Err(BatchError::Position { seq: t.seq, expected, got: t.pos });
            }
            if t.pos >= self.n_ctx {
                return Err(BatchError::ContextFull { pos: t.pos, n_ctx: self.n_ctx });
            }
        }
        Ok(())
    }

    /// Counts tokens whose K and V have been written.
    pub(crate) fn append(&mut self, tokens: &[BatchToken]) {
        for t in tokens {
            self.lengths[t.seq] = t.pos + 1;
        }
    }

    /// The row of a token in a layer's K and V.
    pub(crate) fn row(&self, t: &BatchToken) -> usize {
        t.seq * self.n_ctx + t.pos
    }
}
