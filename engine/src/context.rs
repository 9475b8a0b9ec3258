//! Runs a model: batches of tokens in, logits out, with the past in a KV cache.

use crate::adapter::LoadedAdapter;
use crate::arch::{Builder, Built, HParams, Inputs, Observe, Observed, Parts, Shape};
use crate::batch::{Batch, BatchError, BatchToken};
use crate::kv_cache::{CacheOptions, KvCache};
use crate::{Error, Model};
use bytemuck::cast_slice;
use ggml_ops::TensorId;
use ggml_ops::backend::Program;
use gguf::{GgmlType, TensorName};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Floats of logits that one run may hold: 32 MiB.
const MAX_LOGITS: usize = 8 << 20;
/// Bytes of intermediate results that one run may hold.
const MAX_INTERMEDIATE: usize = 32 << 20;
/// Graphs kept ready, by shape. Generation needs one; the others save work where batch sizes recur.
const MAX_PROGRAMS: usize = 4;
/// Graphs of more tokens are not kept beside others: their memory is large, and building one takes a few milliseconds.
const MAX_KEPT_TOKENS: usize = 32;

/// How to make a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextOptions {
    /// Positions for each sequence; 0: as many as the model was trained with.
    pub n_ctx: usize,
    /// Sequences.
    pub n_seq_max: usize,
    /// Tokens that are run at once, at most; longer batches are cut, and wide models in smaller pieces, so that intermediate
    /// results stay within 32 MiB. Does not change results.
    pub n_ubatch: usize,
    /// Type of the cache's K: one of [`KvCache::TYPES`], whose blocks divide a head.
    pub type_k: GgmlType,
    /// Type of the cache's V, likewise.
    pub type_v: GgmlType,
    /// Whether local layers (sliding windows) hold all positions, as the others do. Otherwise they hold what their window shows and
    /// a little more: less memory, but the past can be cut only near its end, and not be shifted or stored.
    pub swa_full: bool,
}

impl Default for ContextOptions {
    fn default() -> Self {
        let (type_k, type_v) = (GgmlType::F16, GgmlType::F16);
        ContextOptions { n_ctx: 0, n_seq_max: 1, n_ubatch: 512, type_k, type_v, swa_full: false }
    }
}

impl ContextOptions {
    /// The cache of a model with these hyperparameters.
    pub(crate) fn cache(&self, hp: &HParams) -> CacheOptions {
        let &ContextOptions { n_ctx, n_seq_max, n_ubatch, type_k, type_v, swa_full } = self;
        CacheOptions {
            n_ctx: if n_ctx == 0 { hp.n_ctx_train } else { n_ctx },
            n_seq_max: n_seq_max.max(1),
            types: [type_k, type_v],
            n_ubatch: n_ubatch.clamp(1, max_ubatch(hp)),
            swa_full,
        }
    }
}

struct Ready {
    shape: Shape,
    inputs: Inputs,
    logits: Option<TensorId>,
    observed: Vec<Observed>,
    program: Box<dyn Program>,
}

/// What went into one weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InputSums {
    /// For each column, the sum of the squares.
    pub sums: Vec<f64>,
    /// Rows that were summed over.
    pub count: u64,
}

/// A model at work.
pub struct Context {
    model: Arc<Model>,
    cache: KvCache,
    adapters: Vec<Arc<LoadedAdapter>>,
    n_ubatch: usize,
    programs: VecDeque<Ready>,
    observe: Option<Observe>,
    input_sums: BTreeMap<TensorName, InputSums>,
    logits: Vec<f32>,
    host: HostInputs,
}

/// Buffers for the inputs of a run, reused.
#[derive(Default)]
struct HostInputs {
    tokens: Vec<i32>,
    cache_rows: Vec<i32>,
    span: Vec<i32>,
    outputs: Vec<i32>,
    rope: Vec<f32>,
    local_span: Vec<i32>,
    local_rows: Vec<i32>,
    local_rope: Vec<f32>,
}

impl Context {
    /// A context with an empty cache.
    ///
    /// # Errors
    /// [`Error::CacheType`] where the model or its device cannot have a cache of these types; or where its memory cannot be
    /// had.
    pub fn new(model: Arc<Model>, options: ContextOptions) -> Result<Context, Error> {
        let hp = model.hparams();
        let cache_options = options.cache(hp);
        let n_ubatch = cache_options.n_ubatch;
        let cache = KvCache::new(model.device().as_ref(), hp, cache_options)?;
        Ok(Context {
            cache,
            adapters: Vec::new(),
            n_ubatch,
            programs: VecDeque::new(),
            observe: None,
            input_sums: BTreeMap::new(),
            logits: Vec::new(),
            host: HostInputs::default(),
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The past.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// The past, to forget some of it.
    pub fn cache_mut(&mut self) -> &mut KvCache {
        &mut self.cache
    }

    /// The adapters in use.
    pub fn adapters(&self) -> &[Arc<LoadedAdapter>] {
        &self.adapters
    }

    /// Uses these adapters, all at once, in place of those before; none is the model as it is. They were loaded to the
    /// model's device. Forgets the past, which was computed without them.
    pub fn set_adapters(&mut self, adapters: Vec<Arc<LoadedAdapter>>) {
        self.adapters = adapters;
        self.programs.clear();
        self.cache.clear();
    }

    /// From now on, sums up what goes into the weights.
    pub fn observe(&mut self, observe: Observe) {
        self.observe = Some(observe);
        self.programs.clear();
    }

    /// What went into the weights since [`observe`](Self::observe).
    pub fn input_sums(&self) -> &BTreeMap<TensorName, InputSums> {
        &self.input_sums
    }

    /// Positions for each sequence.
    pub fn n_ctx(&self) -> usize {
        self.cache.n_ctx()
    }

    /// Makes room in a full context: forgets positions `keep..keep + discard` of sequence `seq`, and moves those after them down
    /// by `discard`. What follows is computed from K and V that still know what is forgotten: nearly, not quite, as if it had
    /// never been.
    ///
    /// # Errors
    /// [`Error::Batch`] where there are not so many positions; or where the device fails, and then the sequence is forgotten.
    pub fn shift(&mut self, seq: usize, keep: usize, discard: usize) -> Result<(), Error> {
        self.cache.shift(&self.model, seq, keep, discard)
    }

    /// Runs a batch, and calls `on_logits` with the index in the batch and the logits of each token that wants them.
    ///
    /// # Errors
    /// [`Error::Batch`] where a token does not fit; then nothing has been run.
    pub fn decode(&mut self, batch: &Batch, mut on_logits: impl FnMut(usize, &[f32])) -> Result<(), Error> {
        let n_vocab = self.model.hparams().n_vocab;
        if let Some(t) = batch.tokens.iter().find(|t| t.token as usize >= n_vocab) {
            return Err(BatchError::Token { token: t.token, n_vocab }.into());
        }
        self.cache.check(&batch.tokens)?;
        let mut start = 0;
        while start < batch.tokens.len() {
            let len = self.cut(&batch.tokens[start..]);
            let tokens = &batch.tokens[start..start + len];
            self.run(tokens)?;
            let wanted = tokens.iter().enumerate().filter(|(_, t)| t.logits);
            for ((i, _), row) in wanted.zip(self.logits.chunks_exact(n_vocab)) {
                on_logits(start + i, row);
            }
            start += len;
        }
        Ok(())
    }

    /// How many of these tokens to run at once.
    fn cut(&self, tokens: &[BatchToken]) -> usize {
        let max_outputs = (MAX_LOGITS / self.model.hparams().n_vocab).max(1);
        let mut outputs = 0;
        // In equal pieces rather than full ones and a rest: fewer shapes, and no short piece, which costs more for each token.
        let pieces = tokens.len().div_ceil(self.n_ubatch).max(1);
        let even = tokens.len().div_ceil(pieces).next_multiple_of(32).min(self.n_ubatch);
        let fits = tokens.iter().take(even).take_while(|t| {
            outputs += usize::from(t.logits);
            outputs <= max_outputs
        });
        fits.count()
    }

    fn run(&mut self, tokens: &[BatchToken]) -> Result<(), Error> {
        self.cache.slide(self.model.hparams(), tokens)?;
        self.host.fill(tokens, &self.cache, &self.model);
        let n_outputs = self.host.outputs.len();
        self.make_ready(Shape { n_tokens: tokens.len(), n_outputs })?;
        let Some(ready) = self.programs.front_mut() else { return Ok(()) };
        let (program, inputs, host) = (&mut ready.program, &ready.inputs, &self.host);
        program.write(inputs.tokens, cast_slice(&host.tokens))?;
        program.write(inputs.span, cast_slice(&host.span))?;
        program.write(inputs.rope, cast_slice(&host.rope))?;
        if let Some(local) = inputs.local {
            program.write(local.span, cast_slice(&host.local_span))?;
            program.write(local.rope, cast_slice(&host.local_rope))?;
            if let Some(rows) = local.cache_rows {
                program.write(rows, cast_slice(&host.local_rows))?;
            }
        }
        for (input, values) in [(inputs.cache_rows, &host.cache_rows), (inputs.outputs, &host.outputs)] {
            if let Some(input) = input {
                program.write(input, cast_slice(values))?;
            }
        }
        if let Some(ones) = inputs.ones {
            program.write(ones, cast_slice(&vec![1f32; tokens.len()]))?;
        }
        program.run()?;
        self.cache.append(tokens);
        add_sums(program.as_mut(), &ready.observed, &mut self.input_sums)?;
        self.logits.resize(n_outputs * self.model.hparams().n_vocab, 0.0);
        if let Some(logits) = ready.logits {
            program.read(logits, bytemuck::cast_slice_mut(&mut self.logits))?;
        }
        Ok(())
    }

    /// Puts the graph of this shape in front, compiled.
    fn make_ready(&mut self, shape: Shape) -> Result<(), Error> {
        if let Some(at) = self.programs.iter().position(|r| r.shape == shape) {
            if at != 0 {
                let ready = self.programs.remove(at);
                self.programs.extend(ready);
                self.programs.rotate_right(1);
            }
            return Ok(());
        }
        self.programs.retain(|r| r.shape.n_tokens <= MAX_KEPT_TOKENS);
        self.programs.truncate(MAX_PROGRAMS - 1);
        let model = &self.model;
        let parts = Parts { observe: self.observe, ..model.parts(&self.adapters) };
        let built = Builder::build(model.arch(), parts, &self.cache, shape)?;
        let program = model.device().compile(Arc::new(built.graph), &built.bindings)?;
        let Built { inputs, logits, observed, .. } = built;
        self.programs.push_front(Ready { shape, inputs, logits, observed, program });
        Ok(())
    }
}

/// Adds what a run observed.
fn add_sums(
    program: &mut dyn Program,
    observed: &[Observed],
    to: &mut BTreeMap<TensorName, InputSums>,
) -> Result<(), Error> {
    let mut values = Vec::new();
    for o in observed {
        values.resize(o.n_in, 0f32);
        program.read(o.sums, bytemuck::cast_slice_mut(&mut values))?;
        let entry = to.entry(o.name).or_default();
        entry.sums.resize(values.len(), 0.0);
        entry.sums.iter_mut().zip(&values).for_each(|(sum, &v)| *sum += f64::from(v));
        entry.count += o.n_rows as u64;
    }
    Ok(())
}

/// The most tokens whose intermediate results fit: at the widest point of a layer, three tensors of n_ff and some of n_embd.
fn max_ubatch(hp: &HParams) -> usize {
    let widest = hp.n_embd.max(hp.n_embd_head_k.saturating_mul(hp.n_head));
    let per_token = hp.n_ff.saturating_mul(3).saturating_add(widest.saturating_mul(4)).saturating_mul(4);
    (MAX_INTERMEDIATE / per_token.max(1) / 32 * 32).max(32)
}

impl HostInputs {
    fn fill(&mut self, tokens: &[BatchToken], cache: &KvCache, model: &Model) {
        let HostInputs { tokens: ids, cache_rows, span, outputs, rope, local_span, local_rows, local_rope } = self;
        for list in [&mut *ids, cache_rows, span, outputs, local_span, local_rows] {
            list.clear();
        }
        rope.clear();
        local_rope.clear();
        let window = model.hparams().sliding_window.as_ref();
        let (angles, local_angles) = (model.rope(cache.n_ctx()), model.local_rope(cache.n_ctx()));
        // Ids, rows and positions were checked against the vocabulary and the cache, both far below 2^31 in rows that
        // memory can hold; `as` cannot truncate.
        for (i, t) in tokens.iter().enumerate() {
            ids.push(t.token as i32);
            cache_rows.push(cache.row(t) as i32);
            span.extend([t.seq as i32, 0, t.pos as i32 + 1]);
            angles.push(t.pos, rope);
            if let Some(window) = window {
                let (first, end) = ((t.pos + 1).saturating_sub(window.n_swa), t.pos + 1);
                let base = cache.local_first(t.seq);
                local_span.extend([t.seq as i32, (first - base) as i32, (end - base) as i32]);
                local_rows.push(cache.local_row(t) as i32);
                local_angles.push(t.pos, local_rope);
            }
            if t.logits {
                outputs.push(i as i32);
            }
        }
    }
}
