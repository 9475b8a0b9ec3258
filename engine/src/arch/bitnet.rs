//! BitNet b1.58 ([Ma et al. 2024](https://arxiv.org/abs/2402.17764)): ternary projections, a norm before each
//! of them that leads back to the residual stream, output tied to the embedding.

use super::{Architecture, Builder, HParams, Specs, TensorSpec};
use ggml_ops::ops::{GluKind, RopeMode};
use ggml_ops::{OpError, TensorId};
use gguf::TensorRole::*;

/// The layout of 1bitLLM's models: SiLU.
pub(super) struct Bitnet;

/// Microsoft's BitNet-b1.58-2B-4T ([2025](https://arxiv.org/abs/2504.12285)): squared ReLU.
pub(super) struct BitnetB158;

impl Architecture for Bitnet {
    fn name(&self) -> &'static str {
        "bitnet"
    }

    fn rope_mode(&self) -> RopeMode {
        RopeMode::Neox
    }

    fn tensors(&self, hp: &HParams) -> Vec<TensorSpec> {
        tensors(hp)
    }

    fn layer(&self, b: &mut Builder, il: u32, x: TensorId) -> Result<TensorId, OpError> {
        layer(b, il, x)
    }
}

impl Architecture for BitnetB158 {
    fn name(&self) -> &'static str {
        "bitnet-b1.58"
    }

    fn rope_mode(&self) -> RopeMode {
        RopeMode::Neox
    }

    fn activation(&self) -> GluKind {
        GluKind::Reglu2
    }

    fn tensors(&self, hp: &HParams) -> Vec<TensorSpec> {
        tensors(hp)
    }

    fn layer(&self, b: &mut Builder, il: u32, x: TensorId) -> Result<TensorId, OpError> {
        layer(b, il, x)
    }
}

fn tensors(hp: &HParams) -> Vec<TensorSpec> {
    let mut specs = Specs::new(hp);
    for il in 0..hp.n_layer as u32 {
        specs.required(AttnNorm.weight(il), &[hp.n_embd]);
        specs.required(AttnSubNorm.weight(il), &[hp.n_embd_head_v * hp.n_head]);
        specs.required(FfnNorm.weight(il), &[hp.n_embd]);
        specs.required(FfnSubNorm.weight(il), &[hp.n_ff]);
        specs.projections(hp, il);
    }
    specs.finish()
}

fn layer(b: &mut Builder, il: u32, x: TensorId) -> Result<TensorId, OpError> {
    let h = b.norm(AttnNorm, il, x)?; // [n_embd, n_tokens]
    let (q, k, v) = (b.linear(AttnQ, il, h)?, b.linear(AttnK, il, h)?, b.linear(AttnV, il, h)?);
    let h = b.attention(il, q, k, v)?; // [n_embd_head_v * n_head, n_tokens]
    let h = b.norm(AttnSubNorm, il, h)?;
    let h = b.linear(AttnOutput, il, h)?; // [n_embd, n_tokens]
    let x = b.add(x, h)?;

    let h = b.norm(FfnNorm, il, x)?;
    let (gate, up) = (b.linear(FfnGate, il, h)?, b.linear(FfnUp, il, h)?); // [n_ff, n_tokens]
    let h = b.glu(gate, up)?;
    let h = b.norm(FfnSubNorm, il, h)?;
    let h = b.linear(FfnDown, il, h)?; // [n_embd, n_tokens]
    b.add(x, h)
}
