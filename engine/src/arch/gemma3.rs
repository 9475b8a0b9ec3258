//! Gemma 3, text ([2025](https://arxiv.org/abs/2503.19786)): norms around attention and feed-forward part and of each head,
//! GeGLU, and of six layers five that see only the tokens near them.

use super::{Architecture, Builder, HParams, Specs, TensorSpec};
use ggml_ops::ops::{GluKind, RopeMode};
use ggml_ops::{OpError, TensorId};
use gguf::TensorRole::*;

/// Files hold the norms' weights with 1 added, as they are multiplied by.
pub(super) struct Gemma3;

impl Architecture for Gemma3 {
    fn name(&self) -> &'static str {
        "gemma3"
    }

    fn rope_mode(&self) -> RopeMode {
        RopeMode::Neox
    }

    fn activation(&self) -> GluKind {
        GluKind::Geglu
    }

    fn embd_scale(&self, n_embd: usize) -> f32 {
        (n_embd as f32).sqrt()
    }

    fn attn_scale(&self, hp: &HParams) -> f32 {
        // The one of 27B, whose heads are not n_embd / n_head wide; files do not say.
        let head = if hp.n_layer == 62 { hp.n_embd / hp.n_head } else { hp.n_embd_head_k };
        1.0 / (head as f32).sqrt()
    }

    fn sliding_window_pattern(&self) -> Option<u32> {
        Some(6)
    }

    fn local_rope_freq_base(&self) -> Option<f32> {
        Some(10000.0)
    }

    fn tensors(&self, hp: &HParams) -> Vec<TensorSpec> {
        let mut specs = Specs::new(hp);
        specs.optional(Output.weight(0), &[hp.n_embd, hp.n_vocab]);
        for il in 0..hp.n_layer as u32 {
            specs.required(AttnNorm.weight(il), &[hp.n_embd]);
            specs.required(PostAttentionNorm.weight(il), &[hp.n_embd]);
            specs.required(FfnNorm.weight(il), &[hp.n_embd]);
            specs.required(PostFfwNorm.weight(il), &[hp.n_embd]);
            specs.projections(hp, il);
            specs.head_norms(hp, il);
            specs.optional_qkv_biases(hp, il);
        }
        specs.finish()
    }

    fn layer(&self, b: &mut Builder, il: u32, x: TensorId) -> Result<TensorId, OpError> {
        let h = b.norm(AttnNorm, il, x)?; // [n_embd, n_tokens]
        let (q, k, v) = (b.linear(AttnQ, il, h)?, b.linear(AttnK, il, h)?, b.linear(AttnV, il, h)?);
        let h = b.attention(il, q, k, v)?; // [n_embd_head_v * n_head, n_tokens]
        let h = b.linear(AttnOutput, il, h)?; // [n_embd, n_tokens]
        let h = b.norm(PostAttentionNorm, il, h)?;
        let x = b.add(x, h)?;

        let h = b.norm(FfnNorm, il, x)?;
        let (gate, up) = (b.linear(FfnGate, il, h)?, b.linear(FfnUp, il, h)?); // [n_ff, n_tokens]
        let h = b.glu(gate, up)?;
        let h = b.linear(FfnDown, il, h)?; // [n_embd, n_tokens]
        let h = b.norm(PostFfwNorm, il, h)?;
        b.add(x, h)
    }
}
