//! Which type each tensor gets: llama-quantize's rules.
//!
//! The rules go by names, as llama-quantize's do: they hold for all architectures, also those that this engine does not
//! run.

use gguf::{GgmlType, Gguf, Metadata, TensorInfo, Value, key};

use super::order::layer;
use super::{FType, QuantizeError};

/// What the rules tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Category {
    TokenEmbd,
    Output,
    /// `attn_v`, and what has it inside: `attn_qkv`, `attn_kv_b`.
    AttnV,
    AttnK,
    AttnOutput,
    FfnDown,
    Other,
}

impl Category {
    pub(super) fn of(name: &str) -> Category {
        const PARTS: &[(&str, Category)] = &[
            ("attn_qkv.weight", Category::AttnV),
            ("attn_kv_b.weight", Category::AttnV),
            ("attn_v.weight", Category::AttnV),
            ("attn_k.weight", Category::AttnK),
            ("attn_q.weight", Category::Other),
            ("attn_output.weight", Category::AttnOutput),
            ("ffn_up", Category::Other),
            ("ffn_gate", Category::Other),
            ("ffn_down", Category::FfnDown),
        ];
        match name {
            "output.weight" => Category::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Category::TokenEmbd,
            _ => PARTS.iter().find(|(part, _)| name.contains(part)).map_or(Category::Other, |(_, category)| *category),
        }
    }
}

/// Weights that are small, or whose values are not only multiplied with: they stay as they are.
const KEPT: &[&str] = &["_norm.weight", "ffn_gate_inp.weight", "position_embd", "token_types.weight", "conv1d"];

/// Whether a tensor can be quantized at all: it is a weight of two or more dimensions, and not one of those that are kept.
pub(super) fn is_quantizable(tensor: &TensorInfo) -> bool {
    let name = tensor.name.as_str();
    tensor.ne[1..].iter().any(|&n| n != 1) && name.ends_with("weight") && !KEPT.iter().any(|part| name.contains(part))
}

/// What the rules need to know of the model.
struct HParams {
    arch: String,
    /// 0 where the key is absent.
    n_layer: u32,
    n_expert: u32,
    /// Query heads for each head of keys and values.
    n_gqa: u32,
    /// A Llama or Qwen2 of 80 layers whose query heads share keys and values.
    is_70b: bool,
}

impl HParams {
    fn of(metadata: &Metadata) -> Result<HParams, QuantizeError> {
        let arch = metadata.require_str(key::GENERAL_ARCHITECTURE)?.to_owned();
        let u32 = |suffix| metadata.u32(&key::of_arch(&arch, suffix));
        let n_layer = u32(key::BLOCK_COUNT)?.unwrap_or(0);
        let n_expert = u32("expert_count")?.unwrap_or(0);
        let n_head = first(metadata, &key::of_arch(&arch, key::ATTENTION_HEAD_COUNT));
        let n_head_kv = first(metadata, &key::of_arch(&arch, key::ATTENTION_HEAD_COUNT_KV));
        let n_gqa = n_head.zip(n_head_kv.or(n_head)).and_then(|(n, kv)| n.checked_div(kv)).unwrap_or(0);
        let is_70b = n_layer == 80
            && match arch.as_str() {
                "llama" => n_head != n_head_kv.or(n_head),
                "qwen2" => true,
                _ => false,
            };
        Ok(HParams { arch, n_layer, n_expert, n_gqa, is_70b })
    }
}

/// A number, or the first of an array with one for each layer.
fn first(metadata: &Metadata, key: &str) -> Option<u32> {
    match metadata.get(key)? {
        Value::U32(n) => Some(*n),
        Value::Array(gguf::Array::U32(a)) => a.first().copied(),
        Value::Array(gguf::Array::I32(a)) => a.first().and_then(|&n| u32::try_from(n).ok()),
        _ => None,
    }
}

/// The mixture of one file type for one model. Tensors have to come in the order in which they are written, because
/// some rules count them.
pub(super) struct Mixture {
    ftype: FType,
    output_type: Option<GgmlType>,
    hparams: HParams,
    /// The embedding is the output matrix too.
    is_tied: bool,
    has_imatrix: bool,
    n_attn_v: usize,
    seen_attn_v: usize,
    seen_ffn_down: usize,
}

impl Mixture {
    pub(super) fn new(
        model: &Gguf,
        metadata: &Metadata,
        ftype: FType,
        output_type: Option<GgmlType>,
        has_imatrix: bool,
    ) -> Result<Mixture, QuantizeError> {
        let of = |wanted| {
            let all = model.tensors().iter();
            all.filter(move |t| Category::of(&t.name) == wanted).count()
        };
        Ok(Mixture {
            ftype,
            output_type,
            hparams: HParams::of(metadata)?,
            is_tied: of(Category::Output) == 0,
            has_imatrix,
            n_attn_v: of(Category::AttnV),
            seen_attn_v: 0,
            seen_ffn_down: 0,
        })
    }

    /// The type of the next tensor, before it is known whether its rows are whole blocks of it.
    pub(super) fn next(&mut self, tensor: &TensorInfo) -> Result<GgmlType, QuantizeError> {
        let base = self.ftype.base();
        Ok(match Category::of(&tensor.name) {
            Category::Output => self.output(tensor),
            Category::TokenEmbd if self.is_tied => self.output(tensor),
            _ if self.ftype == FType::MXFP4_MOE && tensor.ne[2] > 1 => GgmlType::MXFP4,
            _ if self.ftype == FType::MXFP4_MOE => GgmlType::Q8_0,
            Category::TokenEmbd => match self.ftype {
                FType::TQ1_0 | FType::TQ2_0 => GgmlType::Q4_K,
                _ => base,
            },
            Category::AttnV => self.attn_v(),
            Category::AttnK if self.hparams.n_expert == 8 => GgmlType::Q8_0,
            Category::AttnOutput => self.attn_output(),
            Category::FfnDown => self.ffn_down(&tensor.name)?,
            Category::AttnK | Category::Other => base,
        })
    }

    fn output(&self, tensor: &TensorInfo) -> GgmlType {
        let base = self.ftype.base();
        match self.output_type {
            Some(ty) => ty,
            None if self.ftype == FType::MXFP4_MOE || self.hparams.arch == "falcon" => GgmlType::Q8_0,
            None if !tensor.ne[0].is_multiple_of(base.block_size()) => GgmlType::Q8_0,
            None if base == GgmlType::Q8_0 => GgmlType::Q8_0,
            None => GgmlType::Q6_K,
        }
    }

    fn attn_v(&mut self) -> GgmlType {
        use GgmlType::*;
        let i = self.seen_attn_v;
        self.seen_attn_v += 1;
        if self.hparams.n_expert == 8 {
            return Q8_0;
        }
        let is_shared = self.hparams.n_gqa >= 4;
        let ty = match self.ftype {
            FType::Q2_K | FType::Q2_K_S if is_shared => Q4_K,
            FType::Q2_K => Q3_K,
            FType::Q3_K_M if i < 2 => Q5_K,
            FType::Q3_K_M => Q4_K,
            FType::Q3_K_L => Q5_K,
            FType::IQ4_NL | FType::IQ4_XS if is_shared => Q5_K,
            FType::Q4_K_M | FType::Q5_K_M if wants_more_bits(i, self.n_attn_v) => Q6_K,
            FType::Q4_K_S if i < 4 => Q5_K,
            ftype => ftype.base(),
        };
        if self.hparams.is_70b && matches!(ty, Q3_K | Q4_K) { Q5_K } else { ty }
    }

    fn attn_output(&self) -> GgmlType {
        use GgmlType::*;
        match self.ftype {
            FType::Q3_K_L if self.is_falcon() => Q4_K,
            ftype if self.is_falcon() => ftype.base(),
            FType::Q2_K
            | FType::Q3_K_S
            | FType::Q3_K_M
            | FType::IQ4_NL
            | FType::IQ4_XS
            | FType::Q4_K_S
            | FType::Q4_K_M
                if self.hparams.n_expert == 8 =>
            {
                Q5_K
            }
            ftype if self.hparams.n_expert == 8 => ftype.base(),
            FType::Q2_K => Q3_K,
            FType::Q3_K_M => Q4_K,
            FType::Q3_K_L => Q5_K,
            ftype => ftype.base(),
        }
    }

    fn is_falcon(&self) -> bool {
        self.hparams.arch == "falcon"
    }

    fn ffn_down(&mut self, name: &str) -> Result<GgmlType, QuantizeError> {
        use GgmlType::*;
        let n = self.hparams.n_layer as usize;
        let mut i = self.seen_ffn_down;
        self.seen_ffn_down += 1;
        if self.hparams.n_expert > 1 {
            // Layers have several.
            i = match layer(name) {
                Some(layer) if layer < self.hparams.n_layer => layer as usize,
                _ => {
                    return Err(QuantizeError::Layer {
                        tensor: name.into(),
                        key: key::of_arch(&self.hparams.arch, key::BLOCK_COUNT),
                        n_layer: self.hparams.n_layer,
                    });
                }
            };
        }
        let is_falcon = self.is_falcon();
        Ok(match self.ftype {
            FType::Q2_K => Q3_K,
            FType::Q2_K_S if i < n / 8 => Q4_K,
            FType::Q3_K_M if i < n / 16 => Q5_K,
            FType::Q3_K_M if !is_falcon || wants_more_bits(i, n) => Q4_K,
            FType::Q3_K_L if is_falcon => Q4_K,
            FType::Q3_K_L => Q5_K,
            FType::Q4_K_M if is_falcon && i < n / 16 => Q6_K,
            FType::Q4_K_M if is_falcon && wants_more_bits(i, n) => Q5_K,
            FType::Q4_K_M if !is_falcon && wants_more_bits(i, n) => Q6_K,
            FType::IQ4_NL | FType::IQ4_XS if i < n / 8 && !self.has_imatrix => Q5_K,
            FType::Q4_0 if i < n / 8 && self.has_imatrix => Q4_1,
            FType::Q5_0 if i < n / 8 && self.has_imatrix => Q5_1,
            FType::Q5_K_M if wants_more_bits(i, n) => Q6_K,
            FType::Q4_K_S if !is_falcon && i < n / 8 => Q5_K,
            ftype => ftype.base(),
        })
    }
}

/// The first and last eighth, and every third layer between.
fn wants_more_bits(i: usize, n: usize) -> bool {
    i < n / 8 || i >= n.saturating_mul(7) / 8 || (i - n / 8) % 3 == 2
}

/// The type for rows that are no whole number of blocks of `ty`.
pub(super) fn fallback(ty: GgmlType, ne0: usize) -> GgmlType {
    use GgmlType::*;
    let smaller = match ty {
        TQ1_0 | TQ2_0 | Q2_K | Q3_K | Q2_0 => Q4_0,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S | IQ4_XS => IQ4_NL,
        _ => F16,
    };
    let fits = ne0.is_multiple_of(smaller.block_size());
    if fits { smaller } else { F16 }
}
