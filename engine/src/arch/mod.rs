//! Model architectures: a file each, and this table.

mod bitnet;
mod builder;
mod gemma3;
mod hparams;
mod llama;
mod phi3;
mod qwen2;
mod qwen3;

pub use builder::{Builder, Built, Inputs, LocalInputs, LoraTensors, Observe, Observed, Parts, Shape, Weight};
pub use hparams::{HParams, SlidingWindow};

use ggml_ops::ops::{GluKind, RopeMode};
use ggml_ops::{OpError, TensorId};
use gguf::{TensorName, TensorRole};

/// Every architecture that the engine runs.
pub const ARCHITECTURES: &[&dyn Architecture] =
    &[&bitnet::Bitnet, &bitnet::BitnetB158, &llama::Llama, &qwen2::Qwen2, &qwen3::Qwen3, &gemma3::Gemma3, &phi3::Phi3];

/// The row of the table with this `general.architecture`.
pub fn find(name: &str) -> Option<&'static dyn Architecture> {
    ARCHITECTURES.iter().copied().find(|a| a.name() == name)
}

/// What tells one architecture from another.
pub trait Architecture: Sync {
    /// As in `general.architecture`, and before its keys.
    fn name(&self) -> &'static str;

    /// Which elements of a head RoPE turns together.
    fn rope_mode(&self) -> RopeMode;

    /// The feed-forward activation where the file has no `{arch}.hidden_activation`.
    fn activation(&self) -> GluKind {
        GluKind::Swiglu
    }

    /// What the embeddings are multiplied by.
    fn embd_scale(&self, _n_embd: usize) -> f32 {
        1.0
    }

    /// What q k^T is multiplied by where the file has no `{arch}.attention.scale`.
    fn attn_scale(&self, hp: &HParams) -> f32 {
        1.0 / (hp.n_embd_head_k as f32).sqrt()
    }

    /// Of how many layers the last sees all tokens and the others are local, where the file does not say; 0: all are local;
    /// `None`: a sliding window in the file has no meaning.
    fn sliding_window_pattern(&self) -> Option<u32> {
        None
    }

    /// The base of the local layers' RoPE where the file does not say; `None`: they have the RoPE of the others.
    fn local_rope_freq_base(&self) -> Option<f32> {
        None
    }

    /// The tensors of a model with these hyperparameters.
    fn tensors(&self, hp: &HParams) -> Vec<TensorSpec>;

    /// The graph of layer `il`: `[n_embd, n_tokens]` in and out.
    ///
    /// # Errors
    /// Where shapes do not fit, which checked tensors cannot bring about.
    fn layer(&self, b: &mut Builder, il: u32, x: TensorId) -> Result<TensorId, OpError>;
}

/// A tensor that an architecture knows.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Role, layer and suffix.
    pub name: TensorName,
    /// Shape.
    pub ne: Vec<usize>,
    /// Whether the model cannot run without it.
    pub required: bool,
}

/// Collects the tensors of an architecture.
pub(crate) struct Specs {
    list: Vec<TensorSpec>,
}

impl Specs {
    /// The tensors that every architecture has outside its layers.
    pub(crate) fn new(hp: &HParams) -> Specs {
        let mut specs = Specs { list: Vec::new() };
        specs.required(TensorRole::TokenEmbd.weight(0), &[hp.n_embd, hp.n_vocab]);
        specs.required(TensorRole::OutputNorm.weight(0), &[hp.n_embd]);
        specs
    }

    pub(crate) fn required(&mut self, name: TensorName, ne: &[usize]) {
        self.list.push(TensorSpec { name, ne: ne.to_vec(), required: true });
    }

    pub(crate) fn optional(&mut self, name: TensorName, ne: &[usize]) {
        self.list.push(TensorSpec { name, ne: ne.to_vec(), required: false });
    }

    /// A matrix, with the scale that files made elsewhere may hold beside it.
    pub(crate) fn linear(&mut self, role: TensorRole, il: u32, n_in: usize, n_out: usize) {
        self.required(role.weight(il), &[n_in, n_out]);
        self.optional(role.scale(il), &[1]);
    }

    /// The projections of attention and feed-forward that every layer has.
    pub(crate) fn projections(&mut self, hp: &HParams, il: u32) {
        use TensorRole::*;
        self.linear(AttnQ, il, hp.n_embd, hp.n_embd_head_k * hp.n_head);
        self.linear(AttnK, il, hp.n_embd, hp.n_embd_k_gqa());
        self.linear(AttnV, il, hp.n_embd, hp.n_embd_v_gqa());
        self.linear(AttnOutput, il, hp.n_embd_head_v * hp.n_head, hp.n_embd);
        self.linear(FfnGate, il, hp.n_embd, hp.n_ff);
        self.linear(FfnUp, il, hp.n_embd, hp.n_ff);
        self.linear(FfnDown, il, hp.n_ff, hp.n_embd);
    }

    /// Biases of Q, K and V, which files of several architectures may have.
    pub(crate) fn optional_qkv_biases(&mut self, hp: &HParams, il: u32) {
        self.optional(TensorRole::AttnQ.bias(il), &[hp.n_embd_head_k * hp.n_head]);
        self.optional(TensorRole::AttnK.bias(il), &[hp.n_embd_k_gqa()]);
        self.optional(TensorRole::AttnV.bias(il), &[hp.n_embd_v_gqa()]);
    }

    /// The norms of each head of Q and K.
    pub(crate) fn head_norms(&mut self, hp: &HParams, il: u32) {
        self.required(TensorRole::AttnQNorm.weight(il), &[hp.n_embd_head_k]);
        self.required(TensorRole::AttnKNorm.weight(il), &[hp.n_embd_head_k]);
    }

    pub(crate) fn finish(self) -> Vec<TensorSpec> {
        self.list
    }
}
