//! Phi-3, Phi-3.5 and Phi-4 ([Abdin et al. 2024](https://arxiv.org/abs/2404.14219)), the dense models: Llama with Q, K and V in
//! one matrix, gate and up in another, and RoPE with factors for short and long contexts
//! ([LongRoPE](https://arxiv.org/abs/2402.13753)).

use super::{Architecture, Builder, HParams, Specs, TensorSpec};
use ggml_ops::ops::RopeMode;
use ggml_ops::{OpError, TensorId};
use gguf::TensorRole::*;

pub(super) struct Phi3;

impl Architecture for Phi3 {
    fn name(&self) -> &'static str {
        "phi3"
    }

    fn rope_mode(&self) -> RopeMode {
        RopeMode::Neox
    }

    fn sliding_window_pattern(&self) -> Option<u32> {
        Some(0)
    }

    fn tensors(&self, hp: &HParams) -> Vec<TensorSpec> {
        let mut specs = Specs::new(hp);
        specs.optional(Output.weight(0), &[hp.n_embd, hp.n_vocab]);
        specs.optional(RopeFactorsLong.weight(0), &[hp.n_rot / 2]);
        specs.optional(RopeFactorsShort.weight(0), &[hp.n_rot / 2]);
        for il in 0..hp.n_layer as u32 {
            let n_qkv = parts_of_qkv(hp).iter().sum();
            specs.required(AttnNorm.weight(il), &[hp.n_embd]);
            specs.required(FfnNorm.weight(il), &[hp.n_embd]);
            specs.linear(AttnQkv, il, hp.n_embd, n_qkv);
            specs.optional(AttnQkv.bias(il), &[n_qkv]);
            specs.linear(AttnOutput, il, hp.n_embd_head_v * hp.n_head, hp.n_embd);
            specs.linear(FfnUp, il, hp.n_embd, 2 * hp.n_ff);
            specs.linear(FfnDown, il, hp.n_ff, hp.n_embd);
        }
        specs.finish()
    }

    fn layer(&self, b: &mut Builder, il: u32, x: TensorId) -> Result<TensorId, OpError> {
        let hp = b.hparams();
        let (qkv_parts, n_ff) = (parts_of_qkv(hp), hp.n_ff);
        let h = b.norm(AttnNorm, il, x)?; // [n_embd, n_tokens]
        let qkv = b.linear(AttnQkv, il, h)?;
        let [q, k, v] = b.split(qkv, qkv_parts)?;
        let h = b.attention(il, q, k, v)?; // [n_embd_head_v * n_head, n_tokens]
        let h = b.linear(AttnOutput, il, h)?; // [n_embd, n_tokens]
        let x = b.add(x, h)?;

        let h = b.norm(FfnNorm, il, x)?;
        let gate_up = b.linear(FfnUp, il, h)?; // [2 * n_ff, n_tokens]
        let [gate, up] = b.split(gate_up, [n_ff, n_ff])?;
        let h = b.glu(gate, up)?;
        let h = b.linear(FfnDown, il, h)?; // [n_embd, n_tokens]
        b.add(x, h)
    }
}

/// Rows of `attn_qkv` that make Q, K and V.
fn parts_of_qkv(hp: &HParams) -> [usize; 3] {
    [hp.n_embd_head_k * hp.n_head, hp.n_embd_k_gqa(), hp.n_embd_v_gqa()]
}
