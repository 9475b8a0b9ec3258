//! Logits against those of other programs: PyTorch, Transformers, llama.cpp (fixtures/README.md says how they were made).

use fabric_cpu::simd::SimdLevel;
use fabric_engine::{Model, ModelOptions};
use fabric_tests::backends::cpu;
use fabric_tests::golden::{argmax, fixture, kl, model, npy};
use fabric_tests::models::{bits, load, logits};
use gguf::{Gguf, Value};
use std::path::Path;
use std::sync::Arc;

/// The tokens of a fixture's JSON.
fn tokens(path: &Path) -> Vec<u32> {
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    json["tokens"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

struct Compared {
    mean: f64,
    max: f64,
    same_top: f64,
}

fn compare(want: &Path, got: &[f32]) -> Compared {
    let (shape, want) = npy(want);
    assert_eq!(want.len(), got.len());
    let rows: Vec<(f64, bool)> = want
        .chunks_exact(shape[1])
        .zip(got.chunks_exact(shape[1]))
        .map(|(w, g)| (kl(w, g), argmax(w) == argmax(g)))
        .collect();
    let n = rows.len() as f64;
    let c = Compared {
        mean: rows.iter().map(|r| r.0).sum::<f64>() / n,
        max: rows.iter().map(|r| r.0).fold(0.0, f64::max),
        same_top: rows.iter().filter(|r| r.1).count() as f64 / n,
    };
    eprintln!("mean KL {:.2e}, max {:.2e}, same top token {:.1}%", c.mean, c.max, 100.0 * c.same_top);
    c
}

fn tiny_bitnet(file: &str, text: usize) -> Vec<f32> {
    let m = load(Gguf::open(model(file)).unwrap(), 2, SimdLevel::detect());
    logits(&m, &tokens(&fixture(&format!("golden/tiny-bitnet.{text}.json"))), 512)
}

#[test]
fn float_weights_agree_with_pytorch() {
    for text in [0, 1] {
        let got = tiny_bitnet("tiny-bitnet-f16.gguf", text);
        let c = compare(&fixture(&format!("golden/tiny-bitnet.{text}.f16.logits.npy")), &got);
        assert!(c.max < 1e-6 && c.same_top == 1.0);
    }
}

#[test]
fn ternary_weights_agree_with_pytorch_and_llama_cpp() {
    for (text, limit) in [(0, 3e-5), (1, 1e-4)] {
        let got = tiny_bitnet("tiny-bitnet-TQ2_0.gguf", text);
        assert!(bits(&got) == bits(&tiny_bitnet("tiny-bitnet-TQ1_0.gguf", text)), "TQ1_0 and TQ2_0 differ");
        let c = compare(&fixture(&format!("golden/tiny-bitnet.{text}.logits.npy")), &got);
        assert!(c.mean < limit && c.same_top >= 0.97);
        let c = compare(&fixture(&format!("golden/tiny-bitnet.{text}.llamacpp-TQ2_0.npy")), &got);
        assert!(c.mean < 5e-4);
    }
}

#[test]
fn random_models_agree_with_transformers() {
    let files = std::fs::read_dir(fixture("archs")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let archs: Vec<String> = files.filter_map(|f| Some(f.strip_suffix("-f32.gguf")?.to_owned())).collect();
    assert!(archs.len() >= 2, "{archs:?}");
    for arch in archs {
        let m = load(Gguf::open(fixture(&format!("archs/{arch}-f32.gguf"))).unwrap(), 2, SimdLevel::detect());
        let got = logits(&m, &tokens(&fixture(&format!("archs/{arch}.json"))), 512);
        let c = compare(&fixture(&format!("archs/{arch}.logits.npy")), &got);
        assert!(c.mean < 1e-6 && c.same_top == 1.0, "{arch}");
    }
}

/// Logits of `archs/{arch}-f32.gguf` for the tokens of `archs/{text}.json`, with keys of the architecture replaced.
fn with_overrides(arch: &str, text: &str, overrides: &[(&str, Value)]) -> Vec<f32> {
    let file = Gguf::open(fixture(&format!("archs/{arch}-f32.gguf"))).unwrap();
    let overrides = overrides.iter().map(|(k, v)| (format!("{arch}.{k}"), v.clone())).collect();
    let model =
        Model::load(file, cpu(2, SimdLevel::detect()), ModelOptions { overrides, ..ModelOptions::default() }).unwrap();
    logits(&Arc::new(model), &tokens(&fixture(&format!("archs/{text}.json"))), 512)
}

/// The text is longer than the context that the model saw first, so the other factors of RoPE are used.
#[test]
fn longrope_agrees_with_transformers_and_llama_cpp() {
    let long = with_overrides("phi3", "phi3.long", &[]);
    let c = compare(&fixture("archs/phi3.long.logits.npy"), &long);
    assert!(c.mean < 1e-6 && c.same_top == 1.0);
    // llama.cpp runs phi3 without its sliding window.
    let no_window = ("attention.sliding_window", Value::U32(0));
    for text in ["phi3", "phi3.long"] {
        let got = with_overrides("phi3", text, std::slice::from_ref(&no_window));
        let c = compare(&fixture(&format!("archs/{text}.llamacpp.npy")), &got);
        assert!(c.mean < 2e-6 && c.same_top == 1.0, "{text}");
    }
}

/// The fixtures can tell: with any of these keys changed, the logits are others.
#[test]
fn random_models_show_what_is_wrong() {
    let base = |f: f32| ("rope.freq_base", Value::F32(f));
    let n = |key: &'static str, n: u32| (key, Value::U32(n));
    let wrong = [
        ("qwen2", base(1e4)),
        ("qwen3", base(1e4)),
        ("gemma3", base(1e4)),
        ("gemma3", ("rope.freq_base_swa", Value::F32(1e6))),
        ("gemma3", n("attention.sliding_window", 8)),
        ("gemma3", n("attention.sliding_window_pattern", 5)),
        ("phi3", base(2e4)),
        ("phi3", n("rope.scaling.original_context_length", 16)),
        ("phi3.long", n("rope.scaling.original_context_length", 48)),
        ("phi3", ("rope.scaling.attn_factor", Value::F32(1.0))),
        ("phi3", n("attention.sliding_window", 12)),
    ];
    for (text, change) in wrong {
        let arch = text.split('.').next().unwrap();
        let got = with_overrides(arch, text, std::slice::from_ref(&change));
        let c = compare(&fixture(&format!("archs/{text}.logits.npy")), &got);
        assert!(c.mean > 1e-4, "{text}: {change:?} changes the logits by {:.1e} only", c.mean);
    }
}

/// Every level, number of threads and cut of the prompt gives the bits of the plainest one.
#[test]
fn settings_do_not_change_a_bit_of_a_real_model() {
    for file in ["tiny-bitnet-TQ2_0.gguf", "tiny-bitnet-TQ1_0.gguf", "tiny-bitnet-f16.gguf"] {
        let tokens = &tokens(&fixture("golden/tiny-bitnet.1.json"))[..48];
        let open = || Gguf::open(model(file)).unwrap();
        let want = bits(&logits(&load(open(), 1, SimdLevel::Scalar), tokens, 512));
        for level in SimdLevel::available() {
            for threads in [1, 2, 3] {
                let m = load(open(), threads, level);
                for batch in [512, 7, 1] {
                    assert!(bits(&logits(&m, tokens, batch)) == want, "{file}: {level} x{threads}, batches of {batch}");
                }
            }
        }
    }
}
