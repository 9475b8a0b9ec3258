//! `adapter_config.json`.

use super::{Adapter, AdapterError, bad, names};
use regex::RegexBuilder;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// What matters of it.
#[derive(Deserialize)]
#[serde(expecting = "expected an object")]
pub(super) struct Config {
    peft_type: Option<String>,
    r: u32,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    bias: Option<String>,
    alpha_pattern: Option<Map<String, Value>>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Keys that must be absent, null, false or empty, and what they mean else.
const REFUSED: &[(&str, &str)] = &[
    ("use_dora", "DoRA has a magnitude beside each weight, which GGUF adapters do not"),
    ("use_qalora", "QA-LoRA pools its inputs, which GGUF adapters do not"),
    ("lora_bias", "biases cannot be adapted"),
    ("fan_in_fan_out", "none of the supported architectures needs it"),
    ("modules_to_save", "modules that were trained whole cannot be converted"),
    ("trainable_token_indices", "tokens that were trained by themselves cannot be converted"),
    ("target_parameters", "parameters that belong to no linear module cannot be converted"),
    ("layer_replication", "the adapter has other layers than the model"),
    ("alora_invocation_tokens", "an activated LoRA works from certain tokens on only"),
];

impl Config {
    /// Reads the file's text.
    pub(super) fn read(path: &Path, text: &[u8]) -> Result<Config, AdapterError> {
        let config: Config = serde_json::from_slice(text).map_err(|e| bad(path, e))?;
        if let Some(kind) = config.peft_type.as_ref().filter(|k| *k != "LORA") {
            return Err(bad(path, format!("peft_type is '{kind}', expected 'LORA'")));
        }
        if let Some(bias) = config.bias.as_ref().filter(|b| *b != "none") {
            return Err(bad(path, format!("bias is '{bias}', expected 'none': trained biases cannot be converted")));
        }
        for (key, why) in REFUSED {
            let unset = [Value::Null, json!(false), json!([]), json!({})];
            if let Some(value) = config.others.get(*key).filter(|v| !unset.contains(v)) {
                let value: String = value.to_string().chars().take(100).collect();
                return Err(bad(path, format!("{key} is {value}, which is not supported: {why}")));
            }
        }
        Ok(config)
    }

    /// The one alpha of a GGUF file, which divides it by the rank.
    pub(super) fn gguf_alpha(&self, path: &Path) -> Result<f32, AdapterError> {
        let factor = if self.use_rslora { f64::from(self.r.max(1)).sqrt() } else { 1.0 };
        let alpha = (self.lora_alpha * factor) as f32;
        if alpha.is_finite() && alpha > 0.0 {
            return Ok(alpha);
        }
        Err(bad(path, format!("lora_alpha is {}, expected a number above 0", self.lora_alpha)))
    }

    /// What B of this module has to be multiplied by, so that alpha / rank has the effect that PEFT's own scale has.
    pub(super) fn factor(&self, path: &Path, module: &str, rank: usize, alpha: f32) -> Result<f64, AdapterError> {
        let mut own = self.lora_alpha;
        for (pattern, value) in self.alpha_pattern.iter().flatten() {
            let regex = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).size_limit(1 << 20).build();
            let regex = regex.map_err(|e| bad(path, format!("alpha_pattern '{pattern}': {e}")))?;
            if regex.is_match(module) {
                let number = value.as_f64().filter(|v| v.is_finite());
                own = number
                    .ok_or_else(|| bad(path, format!("alpha_pattern '{pattern}' is {value}, expected a number")))?;
                break;
            }
        }
        let rank = rank as f64;
        let scale = own / if self.use_rslora { rank.sqrt() } else { rank };
        Ok(scale * rank / f64::from(alpha))
    }
}

/// The text for an adapter.
pub(super) fn write(adapter: &Adapter, gate_in_up: bool) -> String {
    let ranks = || adapter.pairs.values().map(|p| p.rank);
    let r = ranks().max_by_key(|r| ranks().filter(|other| other == r).count()).unwrap_or(1);
    let number = |v: f32| if v.fract() == 0.0 && v.abs() < 1e9 { json!(v as i64) } else { json!(v) };
    // Without alpha, GGUF's scale is 1; PEFT's is alpha / rank.
    let alpha = |rank: usize| if adapter.alpha == 0.0 { json!(rank) } else { number(adapter.alpha) };
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    for (name, pair) in adapter.pairs.iter().filter(|(_, p)| p.rank != r) {
        let module = names::module(name, gate_in_up).unwrap_or_default();
        ranks.insert(module.clone(), json!(pair.rank));
        if adapter.alpha == 0.0 {
            alphas.insert(module, alpha(pair.rank));
        }
    }
    let targets: BTreeSet<_> = adapter.pairs.keys().filter_map(|name| names::target(name, gate_in_up)).collect();
    let base = adapter.base.as_ref().and_then(|b| b.name.as_deref());
    let config = json!({
        "alpha_pattern": alphas,
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": alpha(r),
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": r,
        "rank_pattern": ranks,
        "revision": null,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    });
    format!("{config:#}\n")
}
