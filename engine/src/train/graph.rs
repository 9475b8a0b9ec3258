//! The graph of a training step: forward, loss, and backward along the paths that lead to the adapter.

use crate::Model;
use crate::adapter::LoadedAdapter;
use crate::arch::{self, Builder, Parts};
use ggml_ops::autograd::backward;
use ggml_ops::backend::Bindings;
use ggml_ops::{Graph, OpError, TensorDesc, TensorId};
use gguf::{TensorName, TensorRole};
use std::sync::Arc;

/// Bytes of logits that are held at a time. The output matrix is multiplied in pieces of at least [`MIN_PIECE`] tokens:
/// its weights are decoded anew for each.
const MAX_LOGITS: usize = 32 << 20;
const MIN_PIECE: usize = 64;

/// What a graph is built for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    /// Tokens of a run.
    pub n_tokens: usize,
    /// Whether gradients are computed, or the loss only.
    pub gradients: bool,
    /// Whether the backward pass computes each layer's inside again rather than keep it.
    pub recompute: bool,
    /// Fraction of the adapters' inputs that is dropped.
    pub dropout: f32,
}

/// What to write before a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs {
    /// I32 `[n_tokens]`
    pub tokens: TensorId,
    /// F32 `[n_rot, n_tokens]`
    pub rope: TensorId,
    /// I32 `[3, n_tokens]`: 0, first and end of what a token sees.
    pub span: TensorId,
    /// What local layers take in place of `rope` and `span`.
    pub local: Option<arch::LocalInputs>,
    /// The token that comes next, I32 `[n_tokens]`.
    pub labels: TensorId,
    /// What its loss is multiplied by, F32 `[n_tokens]`; 0 where it does not count.
    pub weights: TensorId,
    /// Where gradients are computed: ones, F32 `[n_tokens]`.
    pub ones: Option<TensorId>,
    /// Where there is dropout: its seed, I32 `[2]`.
    pub seed: Option<TensorId>,
}

/// A finished graph.
pub(super) struct TrainGraph {
    pub graph: Graph,
    pub bindings: Bindings,
    pub inputs: Inputs,
    /// Weighted losses of the tokens, in pieces.
    pub losses: Vec<TensorId>,
    /// Gradients of A and B of each tensor.
    pub grads: Vec<(TensorName, [TensorId; 2])>,
}

impl TrainGraph {
    /// For the first of `adapters`.
    pub fn build(model: &Model, adapters: &[Arc<LoadedAdapter>], shape: Shape) -> Result<TrainGraph, OpError> {
        let (layers, hp, n) = (model.arch(), model.hparams(), shape.n_tokens);
        let mut b = Builder::new(Parts { dropout: shape.dropout, ..model.parts(adapters) }, n)?;
        let labels = b.ints("labels", &[n])?;
        let weights = b.graph().input_f32("weights", &[n])?;
        let ones = if shape.gradients { Some(b.graph().input_f32("ones", &[n])?) } else { None };
        let arch::Inputs { tokens, rope, span, local, seed, .. } = b.inputs();
        let inputs = Inputs { tokens, rope, span, local, labels, weights, ones, seed };

        let mut xs = vec![b.embed()?]; // each [n_embd, n_tokens]
        for il in 0..hp.n_layer as u32 {
            let x = layers.layer(&mut b, il, xs[il as usize])?;
            b.graph().name(x, format!("l_out-{il}"));
            xs.push(x);
        }
        let mut g = Gradients { b, grads: Vec::new() };
        let (losses, dx) = g.head(xs[hp.n_layer], &inputs, hp.n_vocab)?;
        if let Some(mut dx) = dx {
            let embd = g.params(|name| name.role == TensorRole::TokenEmbd);
            for il in (0..hp.n_layer).rev() {
                let y = if shape.recompute { layers.layer(&mut g.b, il as u32, xs[il])? } else { xs[il + 1] };
                let params = g.params(|name| name.il == Some(il as u32));
                // Below the first layer, gradients go on only to an adapter of the embedding.
                let x = (il > 0 || !embd.is_empty()).then_some(xs[il]);
                match g.backward(y, dx, x, params)? {
                    Some(d) => dx = d,
                    None => break,
                }
                if il == 0 {
                    g.backward(xs[0], dx, None, embd.clone())?;
                }
            }
        }
        let Gradients { b, mut grads } = g;
        let (mut graph, bindings) = b.finish();
        for id in grads.iter().flat_map(|(_, ids)| ids).chain(&losses) {
            graph.output(*id);
        }
        grads.sort_by_key(|(name, _)| *name);
        Ok(TrainGraph { graph, bindings, inputs, losses, grads })
    }
}

/// A graph whose backward pass is being added.
struct Gradients<'m> {
    b: Builder<'m>,
    grads: Vec<(TensorName, [TensorId; 2])>,
}

type Param = (TensorName, [TensorId; 2]);

impl Gradients<'_> {
    /// The A and B that the graph uses so far, of these tensors.
    fn params(&self, of: impl Fn(&TensorName) -> bool) -> Vec<Param> {
        self.b.lora().iter().filter(|t| of(&t.name)).map(|t| (t.name, [t.a, t.b])).collect()
    }

    /// The losses, and the gradient with respect to the last layer's result.
    fn head(
        &mut self,
        x: TensorId,
        inputs: &Inputs,
        n_vocab: usize,
    ) -> Result<(Vec<TensorId>, Option<TensorId>), OpError> {
        let n = self.b.graph().desc(x).ne[1];
        let piece = (MAX_LOGITS / 4 / n_vocab.max(1)).max(MIN_PIECE).min(n.max(1));
        let piece = n.div_ceil(n.div_ceil(piece).max(1)).max(1);
        let (mut losses, mut dx) = (Vec::new(), None);
        for from in (0..n).step_by(piece) {
            let to = (from + piece).min(n);
            let x = part(self.b.graph(), x, 1, from, to)?;
            let labels = part(self.b.graph(), inputs.labels, 0, from, to)?;
            let weights = part(self.b.graph(), inputs.weights, 0, from, to)?;
            let logits = self.b.logits(x)?; // [n_vocab, piece]
            let loss = self.b.graph().cross_entropy_loss(logits, labels, weights)?;
            losses.push(loss);
            let Some(ones) = inputs.ones else { continue };
            let ones = part(self.b.graph(), ones, 0, from, to)?;
            let params = self.params(|name| name.role == TensorRole::Output);
            let d = self.backward(loss, ones, Some(x), params)?;
            dx = match (dx, d) {
                (Some(dx), Some(d)) => Some(self.b.graph().concat(dx, d, 1)?),
                (dx, d) => dx.or(d),
            };
        }
        Ok((losses, dx))
    }

    /// Adds the gradients of `params`, and answers with that of `x`, if the path from it to `result` has one.
    fn backward(
        &mut self,
        result: TensorId,
        upstream: TensorId,
        x: Option<TensorId>,
        params: Vec<Param>,
    ) -> Result<Option<TensorId>, OpError> {
        let mut wrt: Vec<TensorId> = params.iter().flat_map(|(_, ab)| *ab).collect();
        wrt.extend(x);
        let grads = backward(self.b.graph(), result, upstream, &wrt)?;
        for ((name, _), g) in params.iter().zip(grads.chunks_exact(2)) {
            let (Some(a), Some(b)) = (g[0], g[1]) else { continue };
            match self.grads.iter_mut().find(|(n, _)| n == name) {
                Some((_, sum)) => {
                    for (sum, g) in sum.iter_mut().zip([a, b]) {
                        *sum = self.b.graph().add(*sum, g)?;
                    }
                }
                None => self.grads.push((*name, [a, b])),
            }
        }
        Ok(x.and(grads.last().copied().flatten()))
    }
}

/// Elements `from..to` of the last dimension, which is `axis`, of a contiguous tensor.
fn part(graph: &mut Graph, of: TensorId, axis: usize, from: usize, to: usize) -> Result<TensorId, OpError> {
    let mut desc = *graph.desc(of);
    if desc.ne[axis] == to - from {
        return Ok(of);
    }
    desc.ne[axis] = to - from;
    let desc = TensorDesc::new(desc.ty, &desc.ne[..=axis])?;
    let offset = from * graph.desc(of).nb[axis];
    Ok(graph.view(of, desc, offset)?)
}
