//! Builds the graph of a batch: inputs, layers by the architecture, output.

use super::{Architecture, HParams};
use crate::adapter::LoadedAdapter;
use crate::kv_cache::KvCache;
use ggml_ops::backend::{Bindings, Buffer};
use ggml_ops::ops::MulMat;
use ggml_ops::{Graph, OpError, TensorDesc, TensorId};
use gguf::{GgmlType, TensorName, TensorRole};
use std::collections::HashMap;
use std::sync::Arc;

/// A weight on its device.
#[derive(Clone)]
pub struct Weight {
    /// Type and shape.
    pub desc: TensorDesc,
    /// For ternary weights: the scale of all blocks, where it is one.
    pub uniform_scale: Option<f32>,
    /// The data.
    pub buffer: Arc<dyn Buffer>,
}

/// What a graph is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Tokens in the batch.
    pub n_tokens: usize,
    /// Tokens whose logits are wanted.
    pub n_outputs: usize,
}

/// The inputs of a batch's graph.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// Token ids, I32 `[n_tokens]`.
    pub tokens: TensorId,
    /// cos and sin per pair, F32 `[n_rot, n_tokens]`.
    pub rope: TensorId,
    /// Sequence, first and end of the positions that each token sees, I32 `[3, n_tokens]`.
    pub span: TensorId,
    /// What local layers take in place of `rope` and `span`, if there are any.
    pub local: Option<LocalInputs>,
    /// Rows of the cache that the tokens' K and V go to, I32 `[n_tokens]`; without a cache, none.
    pub cache_rows: Option<TensorId>,
    /// Tokens whose logits are wanted, I32 `[n_outputs]`.
    pub outputs: Option<TensorId>,
    /// The seed of dropout, I32 `[2]`, if there is any.
    pub seed: Option<TensorId>,
    /// Where inputs of weights are observed: ones, F32 `[1, n_tokens]`.
    pub ones: Option<TensorId>,
}

/// Inputs of layers with a sliding window.
#[derive(Clone, Copy, Debug)]
pub struct LocalInputs {
    /// As [`Inputs::rope`], with the local layers' base.
    pub rope: TensorId,
    /// As [`Inputs::span`], of what the window shows.
    pub span: TensorId,
    /// As [`Inputs::cache_rows`], where local layers hold less than the others.
    pub cache_rows: Option<TensorId>,
}

/// What the graphs of a model are built from.
#[derive(Clone, Copy)]
pub struct Parts<'m> {
    /// Sizes and constants.
    pub hp: &'m HParams,
    /// Weights on the device.
    pub weights: &'m HashMap<TensorName, Weight>,
    /// Adapters that add to what the weights do.
    pub adapters: &'m [Arc<LoadedAdapter>],
    /// Fraction of the adapters' inputs that is dropped.
    pub dropout: f32,
    /// Which inputs of weights to observe, if any.
    pub observe: Option<Observe>,
}

/// Sums of squares of the columns of what weights are multiplied with, as outputs of the graph: of those in the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observe {
    /// Also of the output matrix.
    pub output: bool,
}

/// What a graph observes of one weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The weight.
    pub name: TensorName,
    /// Its input, `[n_in, n_rows]`.
    input: TensorId,
    /// Sums of squares, F32 `[n_in]`.
    pub sums: TensorId,
    /// Columns.
    pub n_in: usize,
    /// Rows that were summed over.
    pub n_rows: usize,
}

/// K and V of past tokens.
#[derive(Clone, Copy)]
struct Cache<'m> {
    layers: &'m KvCache,
    rows: TensorId,
}

/// A graph under construction.
pub struct Builder<'m> {
    graph: Graph,
    parts: Parts<'m>,
    cache: Option<Cache<'m>>,
    lora: Vec<LoraTensors>,
    observed: Vec<Observed>,
    used: HashMap<TensorName, TensorId>,
    bindings: Bindings,
    n_tokens: usize,
    inputs: Inputs,
}

/// The two matrices of an adapter beside one weight, in a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoraTensors {
    /// Index of the adapter in the list that the graph was built with.
    pub adapter: usize,
    /// The weight.
    pub name: TensorName,
    /// A, F32 `[n_in, rank]`, of the embedding `[rank, n_vocab]`.
    pub a: TensorId,
    /// B, F32 `[rank, n_out]`.
    pub b: TensorId,
}

/// A finished graph with what it is bound to.
pub struct Built {
    /// The graph.
    pub graph: Graph,
    /// Weights and cache.
    pub bindings: Bindings,
    /// What to write before a run.
    pub inputs: Inputs,
    /// Logits, F32 `[n_vocab, n_outputs]`, if any are wanted.
    pub logits: Option<TensorId>,
    /// The matrices of the adapters, those of one weight once for each adapter that has it: what training changes.
    pub lora: Vec<LoraTensors>,
    /// What is observed.
    pub observed: Vec<Observed>,
}

impl<'m> Builder<'m> {
    /// Builds the whole graph, over this cache.
    ///
    /// # Errors
    /// Where shapes do not fit, which checked tensors cannot bring about.
    pub fn build(
        arch: &dyn Architecture,
        parts: Parts<'m>,
        cache: &'m KvCache,
        shape: Shape,
    ) -> Result<Built, OpError> {
        let Shape { n_tokens, n_outputs } = shape;
        let mut b = Builder::new(parts, n_tokens)?;
        let rows = b.ints("cache_rows", &[n_tokens])?;
        b.inputs.cache_rows = Some(rows);
        if let Some(local) = b.inputs.local.filter(|_| cache.has_window()) {
            let cache_rows = Some(b.ints("cache_rows_local", &[n_tokens])?);
            b.inputs.local = Some(LocalInputs { cache_rows, ..local });
        }
        b.cache = Some(Cache { layers: cache, rows });
        let outputs = if n_outputs > 0 { Some(b.ints("outputs", &[n_outputs])?) } else { None };
        b.inputs.outputs = outputs;

        let mut x = b.embed()?;
        for il in 0..parts.hp.n_layer as u32 {
            x = arch.layer(&mut b, il, x)?;
            b.graph.name(x, format!("l_out-{il}"));
        }
        let mut logits = None;
        if let Some(outputs) = outputs {
            let x = b.graph.get_rows(x, outputs)?; // [n_embd, n_outputs]
            let y = b.logits(x)?;
            logits = Some(b.graph.output(y));
        }
        let Builder { graph, bindings, inputs, lora, observed, .. } = b;
        Ok(Built { graph, bindings, inputs, logits, lora, observed })
    }

    /// The graph of a layer by itself (`None`: of embedding and output), to ask a device whether it has the kernels.
    pub(crate) fn alone(arch: &dyn Architecture, parts: Parts<'m>, il: Option<u32>) -> Result<Graph, OpError> {
        const N: usize = 2;
        let mut b = Builder::new(parts, N)?;
        match il {
            Some(il) => {
                let x = b.graph.input_f32("x", &[parts.hp.n_embd, N])?;
                arch.layer(&mut b, il, x)?;
            }
            None => {
                let x = b.embed()?;
                b.logits(x)?;
            }
        }
        Ok(b.graph)
    }

    /// A graph without a cache, to begin with: its tokens see each other only.
    pub(crate) fn new(parts: Parts<'m>, n_tokens: usize) -> Result<Builder<'m>, OpError> {
        let mut graph = Graph::new();
        let ints = |ne: &[usize]| TensorDesc::new(GgmlType::I32, ne);
        let tokens = graph.input("tokens", ints(&[n_tokens])?);
        let span = graph.input("span", ints(&[3, n_tokens])?);
        let rope = graph.input_f32("rope", &[parts.hp.n_rot, n_tokens])?;
        let local = match parts.hp.sliding_window {
            Some(_) => Some(LocalInputs {
                rope: graph.input_f32("rope_local", &[parts.hp.n_rot, n_tokens])?,
                span: graph.input("span_local", ints(&[3, n_tokens])?),
                cache_rows: None,
            }),
            None => None,
        };
        let seed = if parts.dropout > 0.0 { Some(graph.input("seed", ints(&[2])?)) } else { None };
        let ones = if parts.observe.is_some() { Some(graph.input_f32("ones", &[1, n_tokens])?) } else { None };
        let inputs = Inputs { tokens, rope, span, local, cache_rows: None, outputs: None, seed, ones };
        let (used, lora, observed, bindings) = (HashMap::new(), Vec::new(), Vec::new(), Bindings::new());
        Ok(Builder { graph, parts, cache: None, lora, observed, used, bindings, n_tokens, inputs })
    }

    /// Ends the building.
    pub(crate) fn finish(self) -> (Graph, Bindings) {
        (self.graph, self.bindings)
    }

    /// The graph, to add what is no part of the model.
    pub(crate) fn graph(&mut self) -> &mut Graph {
        &mut self.graph
    }

    /// The inputs so far.
    pub(crate) fn inputs(&self) -> Inputs {
        self.inputs
    }

    /// The adapters' matrices so far.
    pub(crate) fn lora(&self) -> &[LoraTensors] {
        &self.lora
    }

    /// An input of I32.
    pub(crate) fn ints(&mut self, name: &str, ne: &[usize]) -> Result<TensorId, OpError> {
        Ok(self.graph.input(name, TensorDesc::new(GgmlType::I32, ne)?))
    }

    /// The tokens' embeddings, `[n_embd, n_tokens]`.
    pub(crate) fn embed(&mut self) -> Result<TensorId, OpError> {
        let (name, tokens) = (TensorRole::TokenEmbd.weight(0), self.inputs.tokens);
        let table = self.weight(name)?;
        let x = self.graph.get_rows(table, tokens)?;
        let x = self.add_adapters(name, tokens, x)?;
        let scale = self.parts.hp.embd_scale;
        if scale == 1.0 { Ok(x) } else { Ok(self.graph.scale(x, scale)?) }
    }

    /// The final norm and the output matrix: `[n_embd, n]` to `[n_vocab, n]`.
    pub(crate) fn logits(&mut self, x: TensorId) -> Result<TensorId, OpError> {
        let x = self.norm(TensorRole::OutputNorm, 0, x)?;
        let own = self.parts.weights.contains_key(&TensorRole::Output.weight(0));
        let role = if own { TensorRole::Output } else { TensorRole::TokenEmbd };
        let mut logits = self.linear(role, 0, x)?;
        // The output's own bias was added with its matrix.
        if !own && self.parts.weights.contains_key(&TensorRole::Output.bias(0)) {
            let bias = self.weight(TensorRole::Output.bias(0))?;
            logits = self.graph.add(logits, bias)?;
        }
        Ok(self.graph.name(logits, "logits".into()))
    }

    fn weight(&mut self, name: TensorName) -> Result<TensorId, OpError> {
        if let Some(&id) = self.used.get(&name) {
            return Ok(id);
        }
        let weight = self.parts.weights.get(&name).ok_or_else(|| OpError::Unbound { name: name.to_string() })?;
        let id = self.graph.weight(&name.to_string(), weight.desc);
        self.bindings.insert(id, weight.buffer.clone());
        self.used.insert(name, id);
        Ok(id)
    }

    /// The hyperparameters.
    pub fn hparams(&self) -> &HParams {
        self.parts.hp
    }

    /// RMS norm with the weight of this role.
    pub fn norm(&mut self, role: TensorRole, il: u32, x: TensorId) -> Result<TensorId, OpError> {
        let w = self.weight(role.weight(il))?;
        Ok(self.graph.rms_norm(x, w, self.parts.hp.rms_eps)?)
    }

    /// `y + s B (A x)` for each adapter that has a pair for this weight; for the embedding, x is tokens, whose rows of A are
    /// looked up.
    fn add_adapters(&mut self, name: TensorName, x: TensorId, mut y: TensorId) -> Result<TensorId, OpError> {
        for (adapter, loaded) in self.parts.adapters.iter().enumerate() {
            let Some(pair) = loaded.pair(&name) else { continue };
            let mut parameter = |half: &str, desc: TensorDesc, buffer: &Arc<dyn Buffer>| {
                let id = self.graph.weight(&format!("{name}.{half}"), desc);
                self.bindings.insert(id, buffer.clone());
                id
            };
            // A graph that computes a layer twice has its parameters once.
            let used = self.lora.iter().find(|t| t.adapter == adapter && t.name == name).copied();
            let LoraTensors { a, b, .. } = used.unwrap_or_else(|| {
                let a = parameter("lora_a", pair.a, &pair.a_buffer);
                let b = parameter("lora_b", pair.b, &pair.b_buffer);
                let new = LoraTensors { adapter, name, a, b };
                self.lora.push(new);
                new
            });
            let h = match (name.role, self.inputs.seed) {
                (TensorRole::TokenEmbd, _) => self.graph.get_rows(a, x)?,
                (_, None) => self.graph.mul_mat(a, x)?,
                (role, Some(seed)) => {
                    let stream = name.il.unwrap_or(0) * 64 + role as u32;
                    let x = self.graph.dropout(x, seed, self.parts.dropout, stream)?;
                    self.graph.mul_mat(a, x)?
                }
            }; // [rank, n_tokens]
            // Here and not after B, where there is more to multiply.
            let h = self.graph.scale(h, loaded.scale(pair))?;
            let delta = self.graph.mul_mat(b, h)?; // [n_out, n_tokens]
            y = self.graph.add(y, delta)?;
        }
        Ok(y)
    }

    /// Adds the sums of squares of the columns of x, which this weight is multiplied with, where they are to be observed.
    fn observe(&mut self, name: TensorName, x: TensorId) -> Result<(), OpError> {
        let (Some(observe), Some(ones)) = (self.parts.observe, self.inputs.ones) else { return Ok(()) };
        if name.il.is_none() && !(observe.output && name.role == TensorRole::Output) {
            return Ok(());
        }
        let [n_in, n_rows, ..] = self.graph.desc(x).ne;
        let sums = match self.observed.iter().find(|o| o.input == x) {
            Some(other) => other.sums,
            None => {
                let squares = self.graph.mul(x, x)?;
                let ones = self.graph.view(ones, TensorDesc::new(GgmlType::F32, &[1, n_rows])?, 0)?;
                let sums = self.graph.out_prod(squares, ones)?; // [n_in, 1]
                self.graph.output(sums)
            }
        };
        self.observed.push(Observed { name, input: x, sums, n_in, n_rows });
        Ok(())
    }

    /// `W x`, times the tensor's scale where the model has one, with adapters, plus the bias where the model has one.
    pub fn linear(&mut self, role: TensorRole, il: u32, x: TensorId) -> Result<TensorId, OpError> {
        let w = self.weight(role.weight(il))?;
        let uniform_scale = self.parts.weights.get(&role.weight(il)).and_then(|w| w.uniform_scale);
        self.observe(role.weight(il), x)?;
        let mut y = self.graph.op(MulMat { uniform_scale }, &[w, x])?;
        if self.parts.weights.contains_key(&role.scale(il)) {
            let scale = self.weight(role.scale(il))?;
            y = self.graph.mul(y, scale)?;
        }
        // The adapter of an embedding is for its rows; where the output is tied to it, it has none.
        if role != TensorRole::TokenEmbd {
            y = self.add_adapters(role.weight(il), x, y)?;
        }
        if self.parts.weights.contains_key(&role.bias(il)) {
            let bias = self.weight(role.bias(il))?;
            y = self.graph.add(y, bias)?;
        }
        Ok(y)
    }

    /// Parts of these sizes of each row of `x`, `[sum of sizes, n_tokens]`: views, not copies.
    pub fn split<const N: usize>(&mut self, x: TensorId, sizes: [usize; N]) -> Result<[TensorId; N], OpError> {
        let whole = *self.graph.desc(x);
        let (mut parts, mut from) = ([x; N], 0);
        for (part, size) in parts.iter_mut().zip(sizes) {
            let desc = TensorDesc { ne: [size, whole.ne[1], 1, 1], ..whole };
            *part = self.graph.view(x, desc, from * whole.nb[0])?;
            from += size;
        }
        Ok(parts)
    }

    /// `a + b`.
    pub fn add(&mut self, a: TensorId, b: TensorId) -> Result<TensorId, OpError> {
        Ok(self.graph.add(a, b)?)
    }

    /// The model's gated activation.
    pub fn glu(&mut self, gate: TensorId, up: TensorId) -> Result<TensorId, OpError> {
        Ok(self.graph.glu(gate, up, self.parts.hp.activation)?)
    }

    /// Norms of each head of q and k where the model has them, RoPE on both, then attention: over the cache, with K and V put
    /// into it, or of the batch's tokens over each other; in local layers, over what the window shows.
    ///
    /// q `[n_embd_head_k * n_head, n_tokens]`, k and v `[n_embd_gqa, n_tokens]`, with or without gaps between rows; result `[n_embd_head_v * n_head, n_tokens]`.
    pub fn attention(&mut self, il: u32, q: TensorId, k: TensorId, v: TensorId) -> Result<TensorId, OpError> {
        let (hp, n, inputs) = (self.parts.hp, self.n_tokens, self.inputs);
        let q = self.heads(TensorRole::AttnQNorm, il, q, hp.n_head)?;
        let k = self.heads(TensorRole::AttnKNorm, il, k, hp.n_head_kv)?;
        let (rope, span) = match inputs.local {
            Some(local) if hp.is_local(il) => (local.rope, local.span),
            _ => (inputs.rope, inputs.span),
        };
        let g = &mut self.graph;
        let q = g.rope(q, rope, hp.rope_mode)?;
        let k = g.rope(k, rope, hp.rope_mode)?;
        let k = g.reshape(k, &[hp.n_embd_k_gqa(), n])?;
        let [k, v] = match self.cache {
            Some(cache) => self.store(cache, il, [k, v])?,
            None => {
                let mut round = |x: TensorId, head: usize| -> Result<TensorId, OpError> {
                    let x = g.cpy_f16(x)?;
                    Ok(g.reshape(x, &[head, hp.n_head_kv, n])?)
                };
                [round(k, hp.n_embd_head_k)?, round(v, hp.n_embd_head_v)?]
            }
        };
        let g = &mut self.graph;
        let y = g.flash_attn_ext(q, k, v, span, hp.attn_scale)?; // [n_embd_head_v, n_head, n_tokens]
        Ok(g.reshape(y, &[hp.n_embd_head_v * hp.n_head, n])?)
    }

    /// q or k, `[n_embd_head_k, n_head, n_tokens]`, each head through the norm of this role where the model has it.
    fn heads(&mut self, norm: TensorRole, il: u32, x: TensorId, n_head: usize) -> Result<TensorId, OpError> {
        let x = self.graph.reshape(x, &[self.parts.hp.n_embd_head_k, n_head, self.n_tokens])?;
        if self.parts.weights.contains_key(&norm.weight(il)) { self.norm(norm, il, x) } else { Ok(x) }
    }

    /// Puts K and V of the batch into the cache. Answers with the cache, `[head, n_head_kv, n_rows, n_seq_max]` each.
    fn store(&mut self, cache: Cache, il: u32, kv: [TensorId; 2]) -> Result<[TensorId; 2], OpError> {
        let (hp, n_seq) = (self.parts.hp, cache.layers.n_seq_max());
        let local = self.inputs.local.and_then(|local| local.cache_rows).filter(|_| hp.is_local(il));
        let rows = local.unwrap_or(cache.rows);
        let g = &mut self.graph;
        let mut stored = kv;
        let heads = [hp.n_embd_head_k, hp.n_embd_head_v];
        for (((x, part), name), head) in
            stored.iter_mut().zip(cache.layers.layer(il as usize)).zip(["k", "v"]).zip(heads)
        {
            let state = g.state(&format!("cache_{name}-{il}"), part.desc);
            self.bindings.insert(state, part.buffer.clone());
            let written = g.set_rows(state, *x, rows)?;
            *x = g.reshape(written, &[head, hp.n_head_kv, part.desc.ne[1] / n_seq.max(1), n_seq])?;
        }
        Ok(stored)
    }
}
