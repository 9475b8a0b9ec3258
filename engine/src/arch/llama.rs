//! Llama ([Touvron et al. 2023](https://arxiv.org/abs/2302.13971)) and what is converted to its layout: Mistral,
//! SmolLM, TinyLlama, Falcon3.

use super::{Architecture, Builder, HParams, Specs, TensorSpec};
use ggml_ops::ops::RopeMode;
use ggml_ops::{OpError, TensorId};
use gguf::TensorRole::*;

pub(super) struct Llama;

impl Architecture for Llama {
    fn name(&self) -> &'static str {
        "llama"
    }

    fn rope_mode(&self) -> RopeMode {
        RopeMode::Normal
    }

    fn tensors(&self, hp: &HParams) -> Vec<TensorSpec> {
        let mut specs = Specs::new(hp);
        specs.optional(Output.weight(0), &[hp.n_embd, hp.n_vocab]);
        specs.optional(RopeFreqs.weight(0), &[hp.n_rot / 2]);
        for il in 0..hp.n_layer as u32 {
            specs.required(AttnNorm.weight(il), &[hp.n_embd]);
            specs.required(FfnNorm.weight(il), &[hp.n_embd]);
            specs.projections(hp, il);
            specs.optional_qkv_biases(hp, il);
            specs.optional(AttnOutput.bias(il), &[hp.n_embd]);
            specs.optional(FfnGate.bias(il), &[hp.n_ff]);
            specs.optional(FfnUp.bias(il), &[hp.n_ff]);
            specs.optional(FfnDown.bias(il), &[hp.n_embd]);
        }
        specs.finish()
    }

    fn layer(&self, b: &mut Builder, il: u32, x: TensorId) -> Result<TensorId, OpError> {
        layer(b, il, x)
    }
}

/// The layer of Llama, and of those that differ from it only in biases and in norms of the heads.
pub(super) fn layer(b: &mut Builder, il: u32, x: TensorId) -> Result<TensorId, OpError> {
    let h = b.norm(AttnNorm, il, x)?; // [n_embd, n_tokens]
    let (q, k, v) = (b.linear(AttnQ, il, h)?, b.linear(AttnK, il, h)?, b.linear(AttnV, il, h)?);
    let h = b.attention(il, q, k, v)?; // [n_embd_head_v * n_head, n_tokens]
    let h = b.linear(AttnOutput, il, h)?; // [n_embd, n_tokens]
    let x = b.add(x, h)?;

    let h = b.norm(FfnNorm, il, x)?;
    let (gate, up) = (b.linear(FfnGate, il, h)?, b.linear(FfnUp, il, h)?); // [n_ff, n_tokens]
    let h = b.glu(gate, up)?;
    let h = b.linear(FfnDown, il, h)?; // [n_embd, n_tokens]
    b.add(x, h)
}
