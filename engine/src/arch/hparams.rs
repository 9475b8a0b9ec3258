//! Hyperparameters, as every architecture here has them.

use super::Architecture;
use crate::Error;
use ggml_ops::ops::{GluKind, RopeMode};
use gguf::{Array, Metadata, Value, key};

/// Sizes and constants of a model.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // ggml's names
pub struct HParams {
    pub n_vocab: usize,
    pub n_ctx_train: usize,
    pub n_embd: usize,
    pub n_layer: usize,
    pub n_ff: usize,
    pub n_head: usize,
    pub n_head_kv: usize,
    pub n_embd_head_k: usize,
    pub n_embd_head_v: usize,
    pub n_rot: usize,
    pub rms_eps: f32,
    /// Multiplies q k^T.
    pub attn_scale: f32,
    pub rope_mode: RopeMode,
    pub rope_freq_base: f32,
    /// Multiplies positions.
    pub rope_freq_scale: f32,
    /// Multiplies cos and sin.
    pub rope_attn_factor: f32,
    /// In contexts that are longer, the frequencies are divided by the factors for long ones.
    pub n_ctx_orig: usize,
    /// The feed-forward activation.
    pub activation: GluKind,
    /// Multiplies the embeddings.
    pub embd_scale: f32,
    /// Of the layers that do not see all tokens.
    pub sliding_window: Option<SlidingWindow>,
}

/// Local layers: those that see only the tokens near them.
#[derive(Clone, Debug, PartialEq)]
pub struct SlidingWindow {
    /// How many tokens one sees, itself included.
    pub n_swa: usize,
    /// Of each layer, whether it is local.
    pub layers: Vec<bool>,
    /// The base of their RoPE, whose positions are not scaled; `None`: they have that of the other layers.
    pub rope_freq_base: Option<f32>,
}

impl HParams {
    /// Width of K for all heads.
    pub fn n_embd_k_gqa(&self) -> usize {
        self.n_embd_head_k * self.n_head_kv
    }

    /// Width of V for all heads.
    pub fn n_embd_v_gqa(&self) -> usize {
        self.n_embd_head_v * self.n_head_kv
    }

    /// Whether layer `il` sees only the tokens near it.
    pub fn is_local(&self, il: u32) -> bool {
        self.sliding_window.as_ref().is_some_and(|w| w.layers.get(il as usize).is_some_and(|&local| local))
    }

    /// Reads and checks the `{arch}.*` keys.
    ///
    /// # Errors
    /// A key that is missing, has another type, or a value that cannot be; the message names it.
    pub fn read(m: &Metadata, arch: &dyn Architecture, n_vocab: usize) -> Result<HParams, Error> {
        let keys = Keys { m, arch: arch.name() };
        let n_embd = keys.size(key::EMBEDDING_LENGTH, None, 1 << 20)?;
        let n_layer = keys.size(key::BLOCK_COUNT, None, 512)?;
        let n_head = keys.size(key::ATTENTION_HEAD_COUNT, None, n_embd)?;
        let n_head_kv = keys.size(key::ATTENTION_HEAD_COUNT_KV, Some(n_head), n_head)?;
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(keys.bad(key::ATTENTION_HEAD_COUNT_KV, format!("a divisor of {n_head} heads"), n_head_kv));
        }
        let head = n_embd / n_head;
        let n_embd_head_k = keys.size(key::ATTENTION_KEY_LENGTH, Some(head), 1 << 16)?;
        let n_embd_head_v = keys.size(key::ATTENTION_VALUE_LENGTH, Some(head), 1 << 16)?;
        let n_rot = keys.size(key::ROPE_DIMENSION_COUNT, Some(n_embd_head_k), n_embd_head_k)?;
        if !n_rot.is_multiple_of(2) {
            return Err(keys.bad(key::ROPE_DIMENSION_COUNT, "an even number", n_rot));
        }
        let experts = keys.size_or_zero("expert_count")?;
        if experts != 0 {
            return Err(keys.bad("expert_count", "0 (mixtures of experts are not supported)", experts));
        }
        for suffix in ["attn_logit_softcapping", "final_logit_softcapping"] {
            let cap = keys.f32(suffix, 0.0)?;
            if cap != 0.0 {
                return Err(keys.bad(suffix, "0 (soft caps of logits are not supported)", cap));
            }
        }
        let scale = keys.f32(key::ATTENTION_SCALE, 0.0)?;
        let n_ctx_train = keys.size(key::CONTEXT_LENGTH, None, 1 << 30)?;
        let mut hp = HParams {
            n_vocab,
            n_ctx_train,
            n_embd,
            n_layer,
            n_ff: keys.size(key::FEED_FORWARD_LENGTH, None, 1 << 24)?,
            n_head,
            n_head_kv,
            n_embd_head_k,
            n_embd_head_v,
            n_rot,
            rms_eps: keys.rms_eps()?,
            attn_scale: scale,
            rope_mode: arch.rope_mode(),
            rope_freq_base: keys.f32(key::ROPE_FREQ_BASE, 10000.0)?,
            rope_freq_scale: keys.rope_freq_scale()?,
            rope_attn_factor: keys.f32(key::ROPE_SCALING_ATTN_FACTOR, 1.0)?,
            n_ctx_orig: keys.size(key::ROPE_SCALING_ORIGINAL_CONTEXT_LENGTH, Some(n_ctx_train), 1 << 30)?,
            activation: arch.activation(),
            embd_scale: arch.embd_scale(n_embd),
            sliding_window: keys.sliding_window(arch, n_layer)?,
        };
        if scale <= 0.0 {
            hp.attn_scale = arch.attn_scale(&hp);
        }
        let default = if is_bitnet_2b_4t(arch, &hp) { GluKind::Reglu2 } else { hp.activation };
        hp.activation = keys.activation(default)?;
        Ok(hp)
    }

    /// What users should know of how these came about, a line each.
    pub fn notices(&self, m: &Metadata, arch: &dyn Architecture) -> Vec<String> {
        let key = key::of_arch(arch.name(), key::HIDDEN_ACTIVATION);
        if m.get(&key).is_some() || !is_bitnet_2b_4t(arch, self) {
            return Vec::new();
        }
        vec![format!(
            "the model has the shape of BitNet-b1.58-2B-4T, which was trained with squared ReLU: using that and not SiLU \
             ({key} = silu or relu2 in the metadata decides)"
        )]
    }
}

/// llama.cpp's converter gives BitNet-b1.58-2B-4T the architecture of 1bitLLM's models, and does not write its activation.
fn is_bitnet_2b_4t(arch: &dyn Architecture, hp: &HParams) -> bool {
    let shape = [hp.n_embd, hp.n_ff, hp.n_layer, hp.n_head, hp.n_head_kv];
    arch.name() == "bitnet" && shape == [2560, 6912, 30, 20, 5]
}

struct Keys<'a> {
    m: &'a Metadata,
    arch: &'static str,
}

impl Keys<'_> {
    fn key(&self, suffix: &str) -> String {
        key::of_arch(self.arch, suffix)
    }

    fn bad(&self, suffix: &str, expected: impl Into<String>, got: impl ToString) -> Error {
        Error::HParam { key: self.key(suffix), expected: expected.into(), got: got.to_string() }
    }

    /// A size from 1 to `max`: a u32, or an array with the same number for every layer.
    fn size(&self, suffix: &str, default: Option<usize>, max: usize) -> Result<usize, Error> {
        let name = self.key(suffix);
        let got = match self.m.get(&name) {
            Some(Value::Array(Array::U32(v))) if !v.is_empty() => {
                if v.iter().any(|&n| n != v[0]) {
                    return Err(self.bad(suffix, "the same in every layer", format!("{v:?}")));
                }
                v[0]
            }
            Some(Value::Array(Array::I32(v))) if !v.is_empty() => {
                if v[0] < 0 || v.iter().any(|&n| n != v[0]) {
                    return Err(self.bad(suffix, "the same positive number in every layer", format!("{v:?}")));
                }
                v[0].unsigned_abs()
            }
            None if default.is_some() => return Ok(default.unwrap_or_default()),
            _ => self.m.require_u32(&name)?,
        };
        let size = got as usize;
        if size == 0 || size > max {
            return Err(self.bad(suffix, format!("1 to {max}"), size));
        }
        Ok(size)
    }

    fn size_or_zero(&self, suffix: &str) -> Result<u32, Error> {
        Ok(self.m.u32(&self.key(suffix))?.unwrap_or(0))
    }

    fn f32(&self, suffix: &str, default: f32) -> Result<f32, Error> {
        let v = self.m.f32(&self.key(suffix))?.unwrap_or(default);
        if v.is_finite() { Ok(v) } else { Err(self.bad(suffix, "a finite number", v)) }
    }

    fn rms_eps(&self) -> Result<f32, Error> {
        const KEY: &str = key::ATTENTION_LAYER_NORM_RMS_EPSILON;
        let eps = self.m.require_f32(&self.key(KEY))?;
        if eps.is_finite() && eps >= 0.0 { Ok(eps) } else { Err(self.bad(KEY, "a small positive number", eps)) }
    }

    fn rope_freq_scale(&self) -> Result<f32, Error> {
        let kind = self.m.str(&self.key(key::ROPE_SCALING_TYPE))?.unwrap_or("linear");
        if !matches!(kind, "linear" | "longrope" | "none") {
            return Err(self.bad(
                key::ROPE_SCALING_TYPE,
                "'linear', 'longrope' or 'none'",
                format!("'{kind}', which is not supported"),
            ));
        }
        let old = self.f32("rope.scale_linear", 0.0)?;
        let factor = self.f32(key::ROPE_SCALING_FACTOR, old)?;
        Ok(if kind == "none" || factor == 0.0 { 1.0 } else { 1.0 / factor })
    }

    fn sliding_window(&self, arch: &dyn Architecture, n_layer: usize) -> Result<Option<SlidingWindow>, Error> {
        const KEY: &str = key::ATTENTION_SLIDING_WINDOW_PATTERN;
        let Some(pattern) = arch.sliding_window_pattern() else { return Ok(None) };
        let n_swa = self.size_or_zero(key::ATTENTION_SLIDING_WINDOW)? as usize;
        if n_swa == 0 {
            return Ok(None);
        }
        let name = self.key(KEY);
        let every = |n: u32| (0..n_layer as u32).map(|il| n == 0 || il % n < n - 1).collect::<Vec<_>>();
        let layers = match self.m.get(&name) {
            None => every(pattern),
            Some(Value::Array(Array::Bool(v))) => v.clone(),
            Some(Value::Array(Array::U32(v))) => v.iter().map(|&n| n != 0).collect(),
            Some(Value::Array(Array::I32(v))) => v.iter().map(|&n| n != 0).collect(),
            Some(_) => every(self.m.require_u32(&name)?),
        };
        if layers.len() != n_layer {
            return Err(self.bad(KEY, format!("a number, or one for each of {n_layer} layers"), layers.len()));
        }
        let rope_freq_base = match arch.local_rope_freq_base() {
            Some(base) => Some(self.f32(key::ROPE_FREQ_BASE_SWA, base)?),
            None => None,
        };
        Ok(Some(SlidingWindow { n_swa, layers, rope_freq_base }))
    }

    fn activation(&self, default: GluKind) -> Result<GluKind, Error> {
        const KEY: &str = key::HIDDEN_ACTIVATION;
        match self.m.str(&self.key(KEY))? {
            None => Ok(default),
            Some("silu" | "swish") => Ok(GluKind::Swiglu),
            Some("relu2" | "relu_squared" | "squared_relu") => Ok(GluKind::Reglu2),
            Some("gelu_pytorch_tanh") => Ok(GluKind::Geglu),
            Some(other) => Err(self.bad(KEY, "'silu', 'relu2' or 'gelu_pytorch_tanh'", format!("'{other}'"))),
        }
    }
}
