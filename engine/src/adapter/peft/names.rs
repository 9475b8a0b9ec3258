//! The names of matrices in PEFT's files: `base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight`.

use gguf::{TensorName, TensorRole};

/// Which of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    A,
    B,
}

/// Modules of a layer, as Llama, Mistral, Qwen, Gemma, Phi-3 and BitNet name them.
const LAYER: &[(&str, TensorRole)] = &[
    ("self_attn.q_proj", TensorRole::AttnQ),
    ("self_attn.k_proj", TensorRole::AttnK),
    ("self_attn.v_proj", TensorRole::AttnV),
    ("self_attn.qkv_proj", TensorRole::AttnQkv),
    ("self_attn.o_proj", TensorRole::AttnOutput),
    ("mlp.gate_proj", TensorRole::FfnGate),
    ("mlp.up_proj", TensorRole::FfnUp),
    ("mlp.down_proj", TensorRole::FfnDown),
];
/// The module of `ffn_up` where that has the gate in it: Phi-3.
const GATE_UP: &str = "mlp.gate_up_proj";
/// Modules outside the layers.
const MODEL: &[(&str, TensorRole)] = &[("model.embed_tokens", TensorRole::TokenEmbd), ("lm_head", TensorRole::Output)];

const FILE: &str = "base_model.model.";
/// Of models with images, the part that reads text; then the plain one.
const TEXT: &[&str] = &["language_model.model.", "model.language_model.", "model."];

/// Ends of names: those of linear modules, and of embeddings.
const HALVES: &[(&str, Half, bool)] = &[
    (".lora_A.weight", Half::A, false),
    (".lora_B.weight", Half::B, false),
    (".lora_embedding_A", Half::A, true),
    (".lora_embedding_B", Half::B, true),
];

/// The model's tensor and the half of its pair that a name stands for.
pub(super) fn parse(key: &str) -> Option<(TensorName, Half)> {
    let (path, half, embedding) = HALVES.iter().find_map(|&(end, half, e)| Some((key.strip_suffix(end)?, half, e)))?;
    let path = path.strip_prefix(FILE).unwrap_or(path);
    let inner = TEXT.iter().find_map(|prefix| path.strip_prefix(prefix));
    let name = match inner {
        Some("embed_tokens") => TensorRole::TokenEmbd.weight(0),
        Some(inner) => {
            let (il, module) = inner.strip_prefix("layers.")?.split_once('.')?;
            let role = match module {
                GATE_UP => TensorRole::FfnUp,
                module => LAYER.iter().find(|(name, _)| *name == module)?.1,
            };
            role.weight(il.parse().ok().filter(|_| il.bytes().all(|b| b.is_ascii_digit()))?)
        }
        None if path == "lm_head" || path == "language_model.lm_head" => TensorRole::Output.weight(0),
        None => return None,
    };
    (embedding == super::is_lookup(&name)).then_some((name, half))
}

/// Whether a name in a file is of a model whose `ffn_up` has the gate in it.
pub(super) fn has_gate_in_up(key: &str) -> bool {
    key.contains(GATE_UP)
}

/// The path of a weight's module in Hugging Face's model; `None` if it has none.
pub(super) fn module(name: &TensorName, gate_in_up: bool) -> Option<String> {
    let of = |table: &[(&'static str, TensorRole)]| table.iter().find(|row| row.1 == name.role).map(|row| row.0);
    match name.il {
        Some(il) if gate_in_up && name.role == TensorRole::FfnUp => Some(format!("model.layers.{il}.{GATE_UP}")),
        Some(il) => of(LAYER).map(|module| format!("model.layers.{il}.{module}")),
        None => of(MODEL).map(str::to_owned),
    }
}

/// The last part of a module's path: what `target_modules` lists.
pub(super) fn target(name: &TensorName, gate_in_up: bool) -> Option<String> {
    module(name, gate_in_up).and_then(|m| m.rsplit('.').next().map(str::to_owned))
}

/// The names of A and B of a weight.
pub(super) fn keys(name: &TensorName, gate_in_up: bool) -> Option<[String; 2]> {
    let module = module(name, gate_in_up)?;
    let embedding = super::is_lookup(name);
    let end = |half| HALVES.iter().find(|row| row.1 == half && row.2 == embedding).map(|row| row.0);
    Some([format!("{FILE}{module}{}", end(Half::A)?), format!("{FILE}{module}{}", end(Half::B)?)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for &(_, role) in LAYER.iter().chain(MODEL) {
            let name = role.weight(13);
            let [a, b] = keys(&name, false).unwrap();
            assert_eq!((parse(&a), parse(&b)), (Some((name, Half::A)), Some((name, Half::B))), "{a}");
        }
        assert_eq!(
            keys(&TensorRole::AttnQ.weight(3), true).unwrap()[0],
            "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight"
        );
        assert_eq!(
            keys(&TensorRole::TokenEmbd.weight(0), false).unwrap()[1],
            "base_model.model.model.embed_tokens.lora_embedding_B"
        );
        assert_eq!(keys(&TensorRole::AttnNorm.weight(0), false), None);
        let up = TensorRole::FfnUp.weight(2);
        let [a, _] = keys(&up, true).unwrap();
        assert_eq!(a, "base_model.model.model.layers.2.mlp.gate_up_proj.lora_A.weight");
        assert_eq!((parse(&a), has_gate_in_up(&a)), (Some((up, Half::A)), true));
    }

    #[test]
    fn other_names_do_not_parse() {
        let image = "base_model.model.language_model.model.layers.0.mlp.up_proj.lora_A.weight";
        assert_eq!(parse(image), Some((TensorRole::FfnUp.weight(0), Half::A)));
        for key in [
            "",
            "base_model.model.model.layers.0.self_attn.q_proj.weight",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
            "base_model.model.model.layers.-1.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.99999999999.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.0.self_attn.qq_proj.lora_A.weight",
            "base_model.model.vision_tower.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.embed_tokens.lora_A.weight",
            "base_model.model.lm_head.lora_embedding_A",
        ] {
            assert_eq!(parse(key), None, "{key}");
        }
    }
}
