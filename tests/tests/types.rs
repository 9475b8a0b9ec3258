//! The tiny model in each type against llama.cpp on the same file: `fixtures/types/generate.py`.

use fabric_cpu::simd::SimdLevel;
use fabric_engine::quantize::{FType, Options, Plan, Quantizer, Target, TensorTypeRule};
use fabric_tests::models::{load, logits};
use gguf::{GgmlType, Gguf};
use serde_json::Value as Json;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-bitnet-f16.gguf");

/// As generate.py quantizes it; `engine/tests/quantize.rs` holds the bytes to llama.cpp's.
fn quantized(ty: GgmlType) -> Gguf {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("quantized.gguf");
    let model = Gguf::open(TINY).unwrap();
    let mut options = Options::new(Target::Quantize(FType::Q8_0));
    options.token_embedding_type = Some(GgmlType::F16);
    options.tensor_types = vec![TensorTypeRule { pattern: "blk".into(), ty }];
    let plan = Plan::new(&model, &options).unwrap();
    let mut out = Quantizer::create(&model, &plan, &path, 2).unwrap();
    while out.write_next().unwrap().is_some() {}
    out.finish().unwrap();
    Gguf::read(&path).unwrap()
}

fn log_probabilities(row: &[f32]) -> Vec<f64> {
    let max = row.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    let sum: f64 = row.iter().map(|&v| f64::from(v - max).exp()).sum();
    row.iter().map(|&v| f64::from(v - max) - sum.ln()).collect()
}

#[test]
fn every_type_computes_what_llama_cpp_computes() {
    let fixture: Json = serde_json::from_str(include_str!("../fixtures/types/llama_cpp.json")).unwrap();
    let tokens: Vec<u32> =
        fixture["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap().try_into().unwrap()).collect();
    let types = fixture["types"].as_object().unwrap();
    assert_eq!(types.len(), 13);
    let (mut same, mut positions) = (0, 0);
    for (name, rows) in types {
        let model = load(quantized(GgmlType::from_name(name).unwrap()), 2, SimdLevel::detect());
        assert!(model.weights().values().any(|w| w.desc.ty.name() == name));
        let got = logits(&model, &tokens, tokens.len());
        let got: Vec<Vec<f64>> = got.chunks(model.hparams().n_vocab).step_by(2).map(log_probabilities).collect();
        let rows = rows.as_array().unwrap();
        assert_eq!(rows.len(), got.len());
        // The KL divergence to second order, of the 16 most probable tokens.
        let mut distance = 0.0;
        for (row, got) in rows.iter().zip(&got) {
            for (rank, entry) in row.as_array().unwrap().iter().enumerate() {
                let (id, want) = (entry[0].as_u64().unwrap() as usize, entry[1].as_f64().unwrap());
                distance += want.exp() * (want - got[id]).powi(2) / 2.0;
                same += usize::from(rank == 0 && got.iter().all(|&other| other <= got[id]));
            }
        }
        positions += rows.len();
        // Last bits that change how activations round leave some 2e-5 (blocks of 32) or 4e-5 (of 256): docs/numerics.md.
        let mean = distance / rows.len() as f64;
        assert!(mean < 2e-4, "{name}: {mean:e}");
    }
    assert!(same * 100 >= positions * 99, "{same} of {positions} positions with the same top token");
}
