//! Whole models on a Vulkan device: logits and tokens of the CPU, compared as integers.

use fabric_cpu::simd::SimdLevel;
use fabric_engine::arch::{self, ARCHITECTURES};
use fabric_engine::kv_cache::KvCache;
use fabric_engine::{Batch, Context, ContextOptions, Device, Model, ModelOptions, device};
use fabric_tests::golden::{argmax, fixture, model};
use fabric_tests::models::{N_VOCAB, bits, load, logits, tiny, tiny_with};
use fabric_tests::vulkan;
use gguf::{GgmlType, Gguf};
use std::sync::Arc;

fn gpu(max_binding: Option<u64>) -> Option<Device> {
    // Opened once for the message where there is none.
    vulkan::with_binding(max_binding)?;
    let options = device::VulkanOptions { max_binding, ..Default::default() };
    Some(device::vulkan(options).unwrap())
}

fn on(device: &Device, gguf: Gguf) -> Arc<Model> {
    Arc::new(Model::load(gguf, device.clone(), ModelOptions::default()).unwrap_or_else(|e| panic!("{e}")))
}

fn fixture_tokens(text: usize) -> Vec<u32> {
    let file = fixture(&format!("golden/tiny-bitnet.{text}.json"));
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    json["tokens"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// The tokens that follow when the most likely one is taken each time, and the bits of their logits.
fn greedy(model: &Arc<Model>, prompt: &[u32], n: usize) -> (Vec<u32>, Vec<u32>) {
    let options = ContextOptions { n_ctx: prompt.len() + n, ..ContextOptions::default() };
    let mut context = Context::new(model.clone(), options).unwrap();
    let (mut tokens, mut all, mut last) = (Vec::new(), Vec::new(), Vec::new());
    context.decode(&Batch::of(prompt, 0, 0), |_, row| last = row.to_vec()).unwrap();
    for i in 0..n {
        tokens.push(argmax(&last) as u32);
        all.extend(bits(&last));
        context.decode(&Batch::of(&tokens[i..], 0, prompt.len() + i), |_, row| last = row.to_vec()).unwrap();
    }
    (tokens, all)
}

/// A trained ternary model in both formats, and in F16: a prompt of 128 tokens, then tokens one by one, against every level of the CPU.
#[test]
fn a_real_model_has_the_cpus_bits() {
    let Some(gpu) = gpu(None) else { return };
    let prompt: Vec<u32> = fixture_tokens(1).into_iter().cycle().take(128).collect();
    for (file, n) in [("tiny-bitnet-TQ2_0.gguf", 256), ("tiny-bitnet-TQ1_0.gguf", 256), ("tiny-bitnet-f16.gguf", 24)] {
        let open = || Gguf::open(model(file)).unwrap();
        let run = |model: Arc<Model>| (bits(&logits(&model, &prompt, 512)), greedy(&model, &prompt, n));
        let got = run(on(&gpu, open()));
        for level in SimdLevel::ALL {
            if !level.supported() {
                eprintln!("not tested against {level}: this processor does not have it");
                continue;
            }
            let want = run(load(open(), 2, level));
            assert!(got.0 == want.0, "{file}, {level}: the prompt");
            assert_eq!(got.1.0, want.1.0, "{file}, {level}: tokens");
            assert!(got.1.1 == want.1.1, "{file}, {level}: the logits of generated tokens");
        }
    }
}

/// A prompt through cooperative matrices, which software devices do not use by themselves.
#[test]
fn cooperative_matrices_change_no_logits() {
    let open = |on| vulkan::open(device::VulkanOptions { cooperative_matrix: Some(on), ..Default::default() });
    let (Some(with), Some(without)) = (open(true), open(false)) else { return };
    if with.cooperative_matrix().is_none() {
        eprintln!("not tested: the device has no cooperative matrices of int8");
        return;
    }
    let (with, without): (Device, Device) = (Arc::new(with), Arc::new(without));
    let prompt: Vec<u32> = fixture_tokens(1).into_iter().cycle().take(90).collect();
    for file in ["tiny-bitnet-TQ2_0.gguf", "tiny-bitnet-TQ1_0.gguf"] {
        let run = |device: &Device| bits(&logits(&on(device, Gguf::open(model(file)).unwrap()), &prompt, 128));
        assert!(run(&with) == run(&without), "{file}");
    }
}

const TYPES: &[(GgmlType, bool)] = &[
    (GgmlType::F32, false),
    (GgmlType::F16, false),
    (GgmlType::BF16, false),
    (GgmlType::Q8_0, false),
    (GgmlType::Q4_0, false),
    (GgmlType::Q4_1, false),
    (GgmlType::Q5_0, false),
    (GgmlType::Q5_1, false),
    (GgmlType::IQ4_NL, false),
    (GgmlType::IQ4_XS, false),
    (GgmlType::MXFP4, false),
    (GgmlType::Q2_K, false),
    (GgmlType::Q3_K, false),
    (GgmlType::Q5_K, false),
    (GgmlType::Q4_K, false),
    (GgmlType::Q6_K, false),
    (GgmlType::TQ1_0, false),
    (GgmlType::TQ2_0, false),
    (GgmlType::TQ1_0, true),
    (GgmlType::TQ2_0, true),
];

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + 11) % N_VOCAB).collect()
}

/// Every architecture with every type of weights; the first with all optional tensors too.
#[test]
fn every_architecture_has_the_cpus_bits() {
    let Some(gpu) = gpu(None) else { return };
    let tokens = tokens(19);
    for arch in ARCHITECTURES {
        for &(ty, uniform) in TYPES {
            let file = tiny(*arch, ty, uniform, 7);
            compare(&gpu, &file, &tokens, &format!("{} {ty} uniform {uniform}", arch.name()));
        }
        let file = tiny_with(*arch, GgmlType::TQ2_0, true, 7, |_| true);
        compare(&gpu, &file, &tokens, &format!("{} with optional tensors", arch.name()));
    }
}

/// Every type that a KV cache may have, token by token and in one piece.
#[test]
fn every_type_of_the_cache_has_the_cpus_bits() {
    let Some(gpu) = gpu(None) else { return };
    let open = || Gguf::open(model("tiny-bitnet-TQ2_0.gguf")).unwrap();
    let (cpu, gpu) = (load(open(), 2, SimdLevel::detect()), on(&gpu, open()));
    let tokens = fixture_tokens(1);
    for (i, &type_k) in KvCache::TYPES.iter().enumerate() {
        // Each as K, and as V beside another.
        let type_v = KvCache::TYPES[(i + 3) % KvCache::TYPES.len()];
        let run = |model: &Arc<Model>| {
            let options = ContextOptions { n_ctx: 32, type_k, type_v, ..ContextOptions::default() };
            let mut context = Context::new(model.clone(), options).unwrap();
            let mut all = Vec::new();
            context.decode(&Batch::of(&tokens[..19], 0, 0).with_all_logits(), |_, row| all.extend(bits(row))).unwrap();
            for (at, t) in tokens.iter().enumerate().take(22).skip(19) {
                context.decode(&Batch::of(&[*t], 0, at), |_, row| all.extend(bits(row))).unwrap();
            }
            all
        };
        assert!(run(&gpu) == run(&cpu), "K {type_k}, V {type_v}");
    }
}

/// What is done to the cache between runs: a shift, and local layers that hold their window only.
#[test]
fn caches_that_move_have_the_cpus_bits() {
    let Some(gpu) = gpu(None) else { return };
    let file = tiny(arch::find("gemma3").unwrap(), GgmlType::F16, false, 7);
    let open = || Gguf::from_bytes(file.to_vec()).unwrap();
    let run = |model: Arc<Model>, swa_full: bool| {
        let options = ContextOptions { n_ctx: 1300, n_ubatch: 128, swa_full, ..ContextOptions::default() };
        let mut context = Context::new(model, options).unwrap();
        let mut last = Vec::new();
        context.decode(&Batch::of(&tokens(900), 0, 0), |_, row| last = bits(row)).unwrap();
        if swa_full {
            context.shift(0, 5, 700).unwrap();
            context.decode(&Batch::of(&tokens(3), 0, 200), |_, row| last.extend(bits(row))).unwrap();
        }
        last
    };
    let (cpu, gpu) = (load(open(), 2, SimdLevel::detect()), on(&gpu, open()));
    for swa_full in [true, false] {
        assert!(run(cpu.clone(), swa_full) == run(gpu.clone(), swa_full), "swa_full {swa_full}");
    }
}

/// Weights, cache and results in many small pieces.
#[test]
fn small_bindings_do_not_change_a_bit() {
    let Some(gpu) = gpu(Some(160 << 10)) else { return };
    for &(ty, uniform) in TYPES {
        let file = tiny(ARCHITECTURES[0], ty, uniform, 5);
        compare(&gpu, &file, &tokens(11), &format!("{ty} uniform {uniform}"));
    }
}

/// A cache of which no layer fits into one allocation: sequences whose length is no multiple of attention's chunks, long enough to go on
/// in the next allocation, and a shift.
#[test]
fn divided_caches_have_the_cpus_bits() {
    let Some(_) = vulkan::with_binding(None) else { return };
    let file = tiny(ARCHITECTURES[0], GgmlType::F16, false, 5);
    let open = || Gguf::from_bytes(file.to_vec()).unwrap();
    let limit = 220_000;
    let run = |model: Arc<Model>, [type_k, type_v]: [GgmlType; 2]| {
        let options =
            ContextOptions { n_ctx: 1100, n_seq_max: 3, n_ubatch: 64, type_k, type_v, ..ContextOptions::default() };
        let mut context = Context::new(model, options).unwrap();
        assert!(context.cache().layer(0).iter().all(|t| t.desc.extent() as u64 > limit));
        let mut all = Vec::new();
        for (seq, n) in [(2, 800), (1, 300)] {
            context.decode(&Batch::of(&tokens(n), seq, 0), |_, row| all.extend(bits(row))).unwrap();
        }
        context.shift(2, 5, 20).unwrap();
        context.decode(&Batch::of(&tokens(9), 2, 780), |_, row| all.extend(bits(row))).unwrap();
        all
    };
    let cpu = load(open(), 2, SimdLevel::detect());
    let options = device::VulkanOptions { max_allocation: Some(limit), ..Default::default() };
    let gpu: Device = device::vulkan(options).unwrap();
    for types in [[GgmlType::F16, GgmlType::F32], [GgmlType::F32, GgmlType::Q8_0]] {
        assert!(run(on(&gpu, open()), types) == run(cpu.clone(), types), "{types:?}");
    }
}

fn compare(gpu: &Device, file: &[u8], tokens: &[u32], what: &str) {
    let open = || Gguf::from_bytes(file.to_vec()).unwrap();
    let (cpu, gpu) = (load(open(), 2, SimdLevel::detect()), on(gpu, open()));
    for batch in [64, 1] {
        let tokens = &tokens[..if batch == 1 { 3 } else { tokens.len() }];
        assert!(bits(&logits(&gpu, tokens, batch)) == bits(&logits(&cpu, tokens, 64)), "{what}, batches of {batch}");
    }
}
