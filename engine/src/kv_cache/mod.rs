//! Keys and values of past tokens.

mod file;
mod shift;
mod window;

pub use file::{CacheFile, CacheFileError};

use crate::Error;
use crate::arch::HParams;
use crate::batch::{BatchError, BatchToken};
use ggml_ops::backend::{Backend, Buffer};
use ggml_ops::ops::SetRows;
use ggml_ops::{Graph, OpError, TensorDesc};
use gguf::GgmlType;
use std::sync::Arc;
use window::Window;

/// K or V of a layer.
#[derive(Clone)]
pub struct CacheTensor {
    /// `[n_embd_gqa, n_rows * n_seq_max]`, where n_rows is n_ctx or, of local layers, may be less.
    pub desc: TensorDesc,
    /// The data.
    pub buffer: Arc<dyn Buffer>,
}

impl CacheTensor {
    /// Bytes of a position. Not nb[1]: the stride of a single row may be anything.
    fn row_bytes(&self) -> usize {
        self.desc.ty.row_size(self.desc.ne[0]).unwrap_or(0)
    }
}

/// What a cache is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// Positions for each sequence.
    pub n_ctx: usize,
    /// Sequences.
    pub n_seq_max: usize,
    /// Type of K and of V.
    pub types: [GgmlType; 2],
    /// Tokens that are run at once, at most.
    pub n_ubatch: usize,
    /// Whether local layers hold all positions too.
    pub swa_full: bool,
}

impl CacheOptions {
    /// Bytes of K and V of each layer; as many as a number holds where they would be more.
    pub fn bytes_of_layers(&self, hp: &HParams) -> Vec<u64> {
        let rows = self.n_ctx.saturating_mul(self.n_seq_max);
        let window = self.window(hp);
        let widths = [hp.n_embd_k_gqa(), hp.n_embd_v_gqa()];
        let layer = |il: usize| {
            let window = window.as_ref().filter(|_| hp.is_local(il as u32));
            let rows = window.map_or(rows, |w| w.n_rows.saturating_mul(self.n_seq_max));
            let row = |(ty, width): (GgmlType, usize)| ty.row_size(width).unwrap_or(usize::MAX) as u64;
            let position = self.types.into_iter().zip(widths).map(row).fold(0, u64::saturating_add);
            position.saturating_mul(rows as u64)
        };
        (0..hp.n_layer).map(layer).collect()
    }

    fn window(&self, hp: &HParams) -> Option<Window> {
        let &CacheOptions { n_ctx, n_seq_max, types: _, n_ubatch, swa_full } = self;
        if swa_full { None } else { Window::new(hp, n_ctx, n_seq_max, n_ubatch) }
    }
}

/// K and V of every layer: for each sequence, `n_ctx` rows in order of position. Local layers may have less rows, which then
/// hold what their window shows and a little more.
pub struct KvCache {
    layers: Vec<[CacheTensor; 2]>,
    lengths: Vec<usize>,
    n_ctx: usize,
    types: [GgmlType; 2],
    window: Option<Window>,
}

impl KvCache {
    /// Types that K and V may have.
    pub const TYPES: &[GgmlType] = SetRows::TYPES;

    /// An empty cache on a device.
    ///
    /// # Errors
    /// [`Error::CacheType`] where the model or the device cannot have a cache of these types; or where the memory cannot be
    /// had.
    pub fn new(device: &dyn Backend, hp: &HParams, options: CacheOptions) -> Result<KvCache, Error> {
        let CacheOptions { n_ctx, n_seq_max, types, .. } = options;
        check_types(device, hp, types)?;
        let too_large = || OpError::Backend {
            backend: device.name(),
            what: format!("a KV cache of {n_ctx} positions for {n_seq_max} sequences is too large"),
        };
        let rows = n_ctx.checked_mul(n_seq_max).filter(|&r| i32::try_from(r).is_ok()).ok_or_else(too_large)?;
        let window = options.window(hp);
        let tensor = |device: &dyn Backend, ty: GgmlType, width: usize, rows: usize| {
            let desc = TensorDesc::new(ty, &[width, rows]).map_err(|_| too_large())?;
            let by_sequence = TensorDesc::new(ty, &[width, rows / n_seq_max.max(1), n_seq_max])?;
            Ok::<_, OpError>(CacheTensor { desc, buffer: device.alloc_cache(&by_sequence)? })
        };
        let layer = |il: usize| {
            let window = window.as_ref().filter(|_| hp.is_local(il as u32));
            let rows = window.map_or(rows, |w| w.n_rows * n_seq_max);
            let device = device.of_layer(Some(il as u32));
            Ok([tensor(device, types[0], hp.n_embd_k_gqa(), rows)?, tensor(device, types[1], hp.n_embd_v_gqa(), rows)?])
        };
        let layers = (0..hp.n_layer).map(layer).collect::<Result<_, OpError>>()?;
        Ok(KvCache { layers, lengths: vec![0; n_seq_max], n_ctx, types, window })
    }

    /// K and V of a layer.
    pub fn layer(&self, il: usize) -> &[CacheTensor; 2] {
        &self.layers[il]
    }

    /// Type of K and of V.
    pub fn types(&self) -> [GgmlType; 2] {
        self.types
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
        self.layers.iter().flatten().map(|t| t.buffer.len()).sum()
    }

    /// Forgets the positions of `seq` from `len` on; where local layers hold no more what their window would show then, all of
    /// them. What is left says [`len`](Self::len).
    pub fn truncate(&mut self, seq: usize, len: usize) {
        if let Some(n) = self.lengths.get_mut(seq).filter(|n| len < **n) {
            *n = self.window.as_mut().map_or(len, |w| w.truncate(seq, len));
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        (0..self.lengths.len()).for_each(|seq| self.truncate(seq, 0));
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

/// Whether the model and the device can have a cache of these types.
fn check_types(device: &dyn Backend, hp: &HParams, types: [GgmlType; 2]) -> Result<(), Error> {
    let heads = [hp.n_embd_head_k, hp.n_embd_head_v];
    for ((which, ty), head) in ["K", "V"].into_iter().zip(types).zip(heads) {
        let refused = |why: String| Err(Error::CacheType { which, ty, why });
        if !KvCache::TYPES.contains(&ty) {
            let names: Vec<_> = KvCache::TYPES.iter().map(|t| t.name().to_lowercase()).collect();
            return refused(format!("expected one of {}", names.join(", ")));
        }
        let block = ty.block_size();
        if !head.is_multiple_of(block) {
            return refused(format!("the {head} elements of a head are no whole blocks of {block}"));
        }
        let mut of_this_type = types;
        of_this_type[usize::from(which == "K")] = GgmlType::F16;
        if let Err(OpError::Unsupported { backend, .. }) = device.supports(&attention(of_this_type, block)?) {
            return refused(format!("the device ({backend}) has no kernel for it, the CPU has"));
        }
    }
    Ok(())
}

/// A token's K and V put into a cache, and attention over it.
fn attention(types: [GgmlType; 2], head: usize) -> Result<Graph, OpError> {
    let mut g = Graph::new();
    let x = g.input_f32("x", &[head, 1])?;
    let rows = g.input("rows", TensorDesc::new(GgmlType::I32, &[1])?);
    let span = g.input("span", TensorDesc::new(GgmlType::I32, &[3, 1])?);
    let [k, v] = types.map(|ty| {
        let cache = g.state("cache", TensorDesc::new(ty, &[head, 1])?);
        g.set_rows(cache, x, rows)
    });
    let y = g.flash_attn_ext(x, k?, v?, span, 1.0)?;
    g.output(y);
    Ok(g)
}
