//! What llama.cpp calls a model: architecture, size and file type.

use fabric_engine::Model;
use fabric_engine::quantize::FType;
use gguf::{GgmlType, Gguf, key};
use std::collections::BTreeMap;

/// For example `llama 7B Q4_K - Medium`.
pub(super) fn model_type(model: &Model) -> String {
    let hp = model.hparams();
    let size = size(model.arch().name(), hp.n_layer, hp.n_vocab, hp.n_head == hp.n_head_kv);
    format!("{} {size} {}", model.arch().name(), file_type(model))
}

/// llama.cpp tells the size by the number of layers.
fn size(arch: &str, n_layer: usize, n_vocab: usize, multi_head: bool) -> &'static str {
    match (arch, n_layer) {
        ("bitnet", 26) => "3B",
        ("bitnet-b1.58", 30) => "2B",
        ("llama", 16 | 22) => "1B",
        ("llama", 26 | 28) => "3B",
        ("llama", 30) => "256M",
        ("llama", 32) if n_vocab < 40_000 => "7B",
        ("llama", 32 | 36) => "8B",
        ("llama", 40) => "13B",
        ("llama", 48) => "34B",
        ("llama", 60) => "30B",
        ("llama", 80) if multi_head => "65B",
        ("llama", 80) => "70B",
        _ => "?B",
    }
}

fn file_type(model: &Model) -> String {
    match model.metadata().u32(key::GENERAL_FILE_TYPE) {
        Ok(Some(id)) => name(FType::name_of(id)).to_owned(),
        _ => format!("{} (guessed)", name(Some(guess(model.gguf())))),
    }
}

/// The type that most tensors have, as the name of a file type.
fn guess(gguf: &Gguf) -> &'static str {
    let mut counts = BTreeMap::new();
    for t in gguf.tensors() {
        *counts.entry(t.ty as u32).or_insert(0usize) += 1;
    }
    // Of those with the same number the first, as in llama.cpp.
    let most = counts.values().max().copied();
    let ty = counts.iter().find(|(_, n)| Some(**n) == most).map(|(id, _)| *id);
    match gguf.tensors().iter().map(|t| t.ty).find(|&t| Some(t as u32) == ty) {
        Some(GgmlType::Q3_K) => FType::Q3_K_M.name(),
        Some(GgmlType::Q4_K) => FType::Q4_K_M.name(),
        Some(GgmlType::Q5_K) => FType::Q5_K_M.name(),
        Some(GgmlType::MXFP4) => FType::MXFP4_MOE.name(),
        Some(other) => other.name(),
        None => FType::F32.name(),
    }
}

fn name(ftype: Option<&'static str>) -> &'static str {
    match ftype {
        Some("F32") => "all F32",
        Some("TQ1_0") => "TQ1_0 - 1.69 bpw ternary",
        Some("TQ2_0") => "TQ2_0 - 2.06 bpw ternary",
        Some("Q4_K_S") => "Q4_K - Small",
        Some("Q4_K_M") => "Q4_K - Medium",
        Some("Q5_K_S") => "Q5_K - Small",
        Some("Q5_K_M") => "Q5_K - Medium",
        Some("Q2_K") => "Q2_K - Medium",
        Some("Q2_K_S") => "Q2_K - Small",
        Some("Q3_K_S") => "Q3_K - Small",
        Some("Q3_K_M") => "Q3_K - Medium",
        Some("Q3_K_L") => "Q3_K - Large",
        Some("IQ4_NL") => "IQ4_NL - 4.5 bpw",
        Some("IQ4_XS") => "IQ4_XS - 4.25 bpw",
        Some("MXFP4_MOE") => "MXFP4 MoE",
        Some(other) => other,
        None => "unknown, may not work",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gguf::{Metadata, Writer};

    #[test]
    fn sizes_are_llama_cpps() {
        assert_eq!(size("llama", 32, 32_000, false), "7B");
        assert_eq!(size("llama", 32, 128_256, false), "8B");
        assert_eq!(size("llama", 80, 32_000, true), "65B");
        assert_eq!(size("llama", 80, 32_000, false), "70B");
        assert_eq!(size("bitnet", 26, 32_000, true), "3B");
        assert_eq!(size("bitnet", 6, 4096, true), "?B");
    }

    #[test]
    fn the_type_of_most_tensors_is_the_guess() {
        let guess_of = |types: &[GgmlType]| {
            let mut writer = Writer::new(Metadata::new()).unwrap();
            for (i, ty) in types.iter().enumerate() {
                writer.add_tensor(&i.to_string(), *ty, &[256]).unwrap();
            }
            let mut out = writer.start(Vec::new()).unwrap();
            for (i, ty) in types.iter().enumerate() {
                out.write_tensor(&i.to_string(), &vec![0; ty.row_size(256).unwrap()]).unwrap();
            }
            guess(&Gguf::from_bytes(out.into_inner().unwrap()).unwrap())
        };
        use GgmlType::*;
        assert_eq!(guess_of(&[F32, TQ2_0, TQ2_0]), "TQ2_0");
        assert_eq!(guess_of(&[Q4_K, F32, Q4_K, Q6_K]), "Q4_K_M");
        assert_eq!(guess_of(&[TQ1_0, F32]), "F32");
        assert_eq!(name(Some(guess_of(&[]))), "all F32");
    }
}
