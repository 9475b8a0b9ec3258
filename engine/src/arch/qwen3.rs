//! Qwen3 ([Yang et al. 2025](https://arxiv.org/abs/2505.09388)), the dense models: Llama with norms of each head of Q and K.

use super::{Architecture, Builder, HParams, Specs, TensorSpec, llama};
use ggml_ops::ops::RopeMode;
use ggml_ops::{OpError, TensorId};
use gguf::TensorRole::*;

pub(super) struct Qwen3;

impl Architecture for Qwen3 {
    fn name(&self) -> &'static str {
        "qwen3"
    }

    fn rope_mode(&self) -> RopeMode {
        RopeMode::Neox
    }

    fn tensors(&self, hp: &HParams) -> Vec<TensorSpec> {
        let mut specs = Specs::new(hp);
        specs.optional(Output.weight(0), &[hp.n_embd, hp.n_vocab]);
        for il in 0..hp.n_layer as u32 {
            specs.required(AttnNorm.weight(il), &[hp.n_embd]);
            specs.required(FfnNorm.weight(il), &[hp.n_embd]);
            specs.projections(hp, il);
            specs.head_norms(hp, il);
            specs.optional_qkv_biases(hp, il);
        }
        specs.finish()
    }

    fn layer(&self, b: &mut Builder, il: u32, x: TensorId) -> Result<TensorId, OpError> {
        llama::layer(b, il, x)
    }
}
