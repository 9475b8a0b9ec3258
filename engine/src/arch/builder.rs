//! Builds the graph of a batch: inputs, layers by the architecture, output.

use super::{Architecture, HParams};
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
    /// Positions of the cache.
    pub n_ctx: usize,
    /// Sequences of the cache.
    pub n_seq_max: usize,
}

/// The inputs of a batch's graph.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// Token ids, I32 `[n_tokens]`.
    pub tokens: TensorId,
    /// cos and sin per pair, F32 `[n_rot, n_tokens]`.
    pub rope: TensorId,
    /// Rows of the cache that the tokens' K and V go to, I32 `[n_tokens]`.
    pub cache_rows: TensorId,
    /// Sequence, first and end of the positions that each token sees, I32 `[3, n_tokens]`.
    pub span: TensorId,
    /// Tokens whose logits are wanted, I32 `[n_outputs]`.
    pub outputs: Option<TensorId>,
}

/// A graph under construction.
pub struct Builder<'m> {
    graph: Graph,
    hp: &'m HParams,
    weights: &'m HashMap<TensorName, Weight>,
    cache: &'m dyn Fn(usize) -> [Arc<dyn Buffer>; 2],
    used: HashMap<TensorName, TensorId>,
    bindings: Bindings,
    shape: Shape,
    inputs: Inputs,
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
}

impl<'m> Builder<'m> {
    /// Builds the whole graph. `cache` gives K and V of a layer.
    ///
    /// # Errors
    /// Where shapes do not fit, which checked tensors cannot bring about.
    pub fn build(
        arch: &dyn Architecture,
        hp: &'m HParams,
        weights: &'m HashMap<TensorName, Weight>,
        cache: &'m dyn Fn(usize) -> [Arc<dyn Buffer>; 2],
        shape: Shape,
    ) -> Result<Built, OpError> {
        let mut graph = Graph::new();
        let mut ints = |name: &str, ne: &[usize]| -> Result<TensorId, OpError> {
            Ok(graph.input(name, TensorDesc::new(GgmlType::I32, ne)?))
        };
        let n = shape.n_tokens;
        let tokens = ints("tokens", &[n])?;
        let cache_rows = ints("cache_rows", &[n])?;
        let span = ints("span", &[3, n])?;
        let outputs = if shape.n_outputs > 0 { Some(ints("outputs", &[shape.n_outputs])?) } else { None };
        let rope = graph.input("rope", TensorDesc::new(GgmlType::F32, &[hp.n_rot, n])?);
        let inputs = Inputs { tokens, rope, cache_rows, span, outputs };
        let (used, bindings) = (HashMap::new(), Bindings::new());
        let mut b = Builder { graph, hp, weights, cache, used, bindings, shape, inputs };

        let table = b.weight(TensorRole::TokenEmbd.weight(0))?;
        let mut x = b.graph.get_rows(table, tokens)?; // [n_embd, n_tokens]
        for il in 0..hp.n_layer as u32 {
            x = arch.layer(&mut b, il, x)?;
            b.graph.name(x, format!("l_out-{il}"));
        }
        let logits = b.output(x)?;
        Ok(Built { graph: b.graph, bindings: b.bindings, inputs, logits })
    }

    /// The final norm and the output matrix, for the tokens that want logits.
    fn output(&mut self, x: TensorId) -> Result<Option<TensorId>, OpError> {
        let Some(outputs) = self.inputs.outputs else { return Ok(None) };
        let x = self.graph.get_rows(x, outputs)?; // [n_embd, n_outputs]
        let x = self.norm(TensorRole::OutputNorm, 0, x)?;
        let own = self.weights.contains_key(&TensorRole::Output.weight(0));
        let role = if own { TensorRole::Output } else { TensorRole::TokenEmbd };
        let logits = self.linear(role, 0, x)?; // [n_vocab, n_outputs]
        self.graph.name(logits, "logits".into());
        Ok(Some(self.graph.output(logits)))
    }

    fn weight(&mut self, name: TensorName) -> Result<TensorId, OpError> {
        if let Some(&id) = self.used.get(&name) {
            return Ok(id);
        }
        let weight = self.weights.get(&name).ok_or_else(|| OpError::Unbound { name: name.to_string() })?;
        let id = self.graph.weight(&name.to_string(), weight.desc);
        self.bindings.insert(id, weight.buffer.clone());
        self.used.insert(name, id);
        Ok(id)
    }

    /// The hyperparameters.
    pub fn hparams(&self) -> &HParams {
        self.hp
    }

    /// RMS norm with the weight of this role.
    pub fn norm(&mut self, role: TensorRole, il: u32, x: TensorId) -> Result<TensorId, OpError> {
        let w = self.weight(role.weight(il))?;
        Ok(self.graph.rms_norm(x, w, self.hp.rms_eps)?)
    }

    /// `W x`, times the tensor's scale and plus its bias where the model has them.
    pub fn linear(&mut self, role: TensorRole, il: u32, x: TensorId) -> Result<TensorId, OpError> {
        let w = self.weight(role.weight(il))?;
        let uniform_scale = self.weights.get(&role.weight(il)).and_then(|w| w.uniform_scale);
        let mut y = self.graph.op(MulMat { uniform_scale }, &[w, x])?;
        if self.weights.contains_key(&role.scale(il)) {
            let scale = self.weight(role.scale(il))?;
            y = self.graph.mul(y, scale)?;
        }
        if self.weights.contains_key(&role.bias(il)) {
            let bias = self.weight(role.bias(il))?;
            y = self.graph.add(y, bias)?;
        }
        Ok(y)
    }

    /// `a + b`.
    pub fn add(&mut self, a: TensorId, b: TensorId) -> Result<TensorId, OpError> {
        Ok(self.graph.add(a, b)?)
    }

    /// The model's gated activation.
    pub fn glu(&mut self, gate: TensorId, up: TensorId) -> Result<TensorId, OpError> {
        Ok(self.graph.glu(gate, up, self.hp.activation)?)
    }

    /// RoPE on q and k, K and V into the cache, attention over it.
    ///
    /// q `[n_embd_head_k * n_head, n_tokens]`, k and v `[n_embd_gqa, n_tokens]`; result `[n_embd_head_v * n_head, n_tokens]`.
    pub fn attention(&mut self, il: u32, q: TensorId, k: TensorId, v: TensorId) -> Result<TensorId, OpError> {
        let (hp, n, inputs) = (self.hp, self.shape.n_tokens, self.inputs);
        let (n_ctx, n_seq) = (self.shape.n_ctx, self.shape.n_seq_max);
        let g = &mut self.graph;
        let q = g.reshape(q, &[hp.n_embd_head_k, hp.n_head, n])?;
        let k = g.reshape(k, &[hp.n_embd_head_k, hp.n_head_kv, n])?;
        let q = g.rope(q, inputs.rope, hp.rope_mode)?;
        let k = g.rope(k, inputs.rope, hp.rope_mode)?;
        let k = g.reshape(k, &[hp.n_embd_k_gqa(), n])?;

        let [k_buffer, v_buffer] = (self.cache)(il as usize);
        let mut store = |name: String, width: usize, head: usize, x: TensorId, buffer| -> Result<TensorId, OpError> {
            let desc = TensorDesc::new(GgmlType::F16, &[width, n_ctx * n_seq])?;
            let cache = g.state(&name, desc);
            self.bindings.insert(cache, buffer);
            let cache = g.set_rows(cache, x, inputs.cache_rows)?;
            Ok(g.reshape(cache, &[head, hp.n_head_kv, n_ctx, n_seq])?)
        };
        let k = store(format!("cache_k-{il}"), hp.n_embd_k_gqa(), hp.n_embd_head_k, k, k_buffer)?;
        let v = store(format!("cache_v-{il}"), hp.n_embd_v_gqa(), hp.n_embd_head_v, v, v_buffer)?;
        let y = g.flash_attn_ext(q, k, v, inputs.span, hp.attn_scale)?; // [n_embd_head_v, n_head, n_tokens]
        Ok(g.reshape(y, &[hp.n_embd_head_v * hp.n_head, n])?)
    }
}
