//! LoRA adapters: laws, files, and logits against those of llama.cpp and PEFT (fixtures/README.md says how they were made).

use fabric_cpu::simd::SimdLevel;
use fabric_engine::adapter::*;
use fabric_engine::arch::ARCHITECTURES;
use fabric_engine::{Batch, Context, ContextOptions, Model, ModelOptions};
use fabric_tests::backends::cpu;
use fabric_tests::golden::{argmax, fixture, kl, model, npy};
use fabric_tests::models::{N_VOCAB, bits, load, tiny, tiny_with};
use fastrand::Rng;
use gguf::{GgmlType, Gguf, Metadata, TensorName, TensorRole, Value, Writer};
use std::path::Path;
use std::sync::Arc;

use TensorRole::*;

const LINEAR: &[TensorRole] = &[AttnQ, AttnK, AttnV, AttnOutput, FfnGate, FfnUp, FfnDown];

fn gguf(bytes: Vec<u8>) -> Arc<Model> {
    load(Gguf::from_bytes(bytes).unwrap(), 2, SimdLevel::detect())
}

fn open(path: &Path) -> Arc<Model> {
    load(Gguf::open(path).unwrap(), 2, SimdLevel::detect())
}

/// Logits with these adapters, computed in batches of 7.
fn logits(model: &Arc<Model>, adapters: &[(&Adapter, f32)], tokens: &[u32]) -> Vec<f32> {
    let options = ContextOptions { n_ctx: tokens.len().max(8), n_ubatch: 7, ..ContextOptions::default() };
    let mut context = Context::new(model.clone(), options).unwrap();
    let loaded = |&(a, scale): &(&Adapter, f32)| Arc::new(LoadedAdapter::new(a, model.device(), scale).unwrap());
    context.set_adapters(adapters.iter().map(loaded).collect());
    run(&mut context, tokens)
}

fn run(context: &mut Context, tokens: &[u32]) -> Vec<f32> {
    let mut out = Vec::new();
    let batch = Batch::of(tokens, 0, 0).with_all_logits();
    context.decode(&batch, |_, row| out.extend_from_slice(row)).unwrap();
    out
}

fn prompt(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 37 + 11) % N_VOCAB).collect()
}

fn tokens(path: &Path) -> Vec<u32> {
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    json["tokens"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |max, (a, b)| if (a - b).abs() <= max { max } else { (a - b).abs() })
}

/// A model of every architecture with an output matrix of its own where it may have one, and the roles to adapt.
fn models(ty: GgmlType) -> Vec<(Arc<Model>, Vec<TensorRole>)> {
    let make = |arch: &&dyn fabric_engine::arch::Architecture| {
        let model = gguf(tiny_with(*arch, ty, true, 5, |s| s.required || s.name == Output.weight(0)));
        let untied = model.weights().contains_key(&Output.weight(0));
        let outer: &[TensorRole] = if untied { &[Output, TokenEmbd] } else { &[] };
        let fused = |&r: &TensorRole| fused_role(r, |r| model.weights().contains_key(&r.weight(0)));
        let roles = LINEAR.iter().chain(outer).map(fused).collect();
        (model, roles)
    };
    ARCHITECTURES.iter().map(make).collect()
}

/// An adapter that does something.
fn trained(model: &Model, roles: &[TensorRole], rank: usize, seed: u64) -> Adapter {
    let mut adapter = Adapter::new(model, roles, rank, 8.0, seed).unwrap();
    let mut rng = Rng::with_seed(seed);
    for pair in adapter.pairs.values_mut() {
        pair.b.iter_mut().for_each(|b| *b = 0.2 * (rng.f32() - 0.5));
    }
    adapter
}

#[test]
fn with_b_zero_an_adapter_changes_nothing() {
    for ty in [GgmlType::F32, GgmlType::TQ2_0] {
        for (model, roles) in models(ty) {
            let tokens = prompt(20);
            let plain = logits(&model, &[], &tokens);
            let new = Adapter::new(&model, &roles, 4, 16.0, 42).unwrap();
            assert!(bits(&plain) == bits(&logits(&model, &[(&new, 1.0)], &tokens)), "{}", model.arch().name());
            let active = trained(&model, &roles, 4, 42);
            assert!(max_difference(&plain, &logits(&model, &[(&active, 1.0)], &tokens)) > 1e-2);
            assert!(bits(&plain) == bits(&logits(&model, &[(&active, 0.0)], &tokens)));
        }
    }
}

#[test]
fn merged_is_the_adapter_at_run_time() {
    let dir = tempfile::tempdir().unwrap();
    for (model, roles) in models(GgmlType::F32) {
        let tokens = prompt(30);
        let adapters = [(trained(&model, &roles, 4, 1), 1.0), (trained(&model, &roles[2..], 8, 2), -0.5)];
        let path = dir.path().join("merged.gguf");
        let mut merger = Merger::create(model.gguf(), &adapters, &path, MergeOptions::default()).unwrap();
        while merger.write_next().unwrap() {
            assert!(!path.exists());
        }
        merger.finish().unwrap();
        let merged = open(&path);
        std::fs::remove_file(&path).unwrap();
        let name = model.arch().name();
        assert_eq!(merged.gguf().metadata().u32("general.file_type").unwrap(), Some(1));
        let [a, b] = &adapters;
        let want = logits(&model, &[(&a.0, a.1), (&b.0, b.1)], &tokens);
        let (got, plain) = (logits(&merged, &[], &tokens), logits(&model, &[], &tokens));
        let (error, effect) = (max_difference(&want, &got), max_difference(&want, &plain));
        // Products are added up in another order, and K and V are rounded to f16.
        assert!(error < 5e-4 && effect > 0.05, "{name}: {error} of {effect}");
    }
}

#[test]
fn a_scale_of_the_model_is_not_one_of_the_adapter() {
    let arch = fabric_engine::arch::find("llama").unwrap();
    let model = gguf(tiny_with(arch, GgmlType::F32, true, 5, |s| s.required || s.name == AttnQ.scale(1)));
    let tokens = prompt(12);
    let adapters = [(trained(&model, &[AttnQ], 4, 1), 1.0)];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("merged.gguf");
    let mut merger = Merger::create(model.gguf(), &adapters, &path, MergeOptions::default()).unwrap();
    while merger.write_next().unwrap() {}
    merger.finish().unwrap();
    let want = logits(&model, &[(&adapters[0].0, 1.0)], &tokens);
    let got = logits(&open(&path), &[], &tokens);
    let (error, effect) = (max_difference(&want, &got), max_difference(&want, &logits(&model, &[], &tokens)));
    assert!(error < 2e-5 && effect > 1e-3, "{error} of {effect}");
}

#[test]
fn scales_add_up() {
    for (model, roles) in models(GgmlType::F32) {
        let tokens = prompt(20);
        let adapter = trained(&model, &roles, 4, 3);
        let one = logits(&model, &[(&adapter, 1.0)], &tokens);
        let halves = logits(&model, &[(&adapter, 0.5), (&adapter, 0.5)], &tokens);
        assert!(max_difference(&one, &halves) < 5e-4);
        // Without alpha, the scale is the user's: 8 / 4 was alpha / rank.
        let plain = Adapter { alpha: 0.0, ..adapter.clone() };
        assert!(bits(&one) == bits(&logits(&model, &[(&plain, 2.0)], &tokens)));
    }
}

#[test]
fn adapters_can_be_changed_in_a_context_and_in_place() {
    let (model, roles) = models(GgmlType::TQ2_0).remove(0);
    let tokens = prompt(9);
    let adapter = trained(&model, &roles, 4, 3);
    let (plain, with) = (logits(&model, &[], &tokens), logits(&model, &[(&adapter, 1.0)], &tokens));
    let mut context = Context::new(model.clone(), ContextOptions { n_ctx: 16, ..Default::default() }).unwrap();
    assert!(bits(&run(&mut context, &tokens)) == bits(&plain));
    let loaded = Arc::new(LoadedAdapter::new(&adapter, model.device(), 1.0).unwrap());
    context.set_adapters(vec![loaded.clone()]);
    assert!(context.cache().is_empty());
    assert!(bits(&run(&mut context, &tokens)) == bits(&with));
    // As training does it: the same program sees what is written.
    for pair in loaded.pairs().values() {
        pair.b_buffer.write(0, &vec![0; pair.b_buffer.len()]).unwrap();
    }
    context.cache_mut().clear();
    assert!(bits(&run(&mut context, &tokens)) == bits(&plain));
    let mut back = adapter.clone();
    loaded.read_back(&mut back).unwrap();
    assert!(back.pairs.iter().all(|(n, p)| p.b.iter().all(|&b| b == 0.0) && p.a == adapter.pairs[n].a));
    context.set_adapters(vec![]);
    assert!(bits(&run(&mut context, &tokens)) == bits(&plain));
}

#[test]
fn a_new_adapter_is_normally_distributed_and_its_tensors_differ() {
    let (model, roles) = models(GgmlType::F32).remove(0);
    let adapter = Adapter::new(&model, &roles, 16, 16.0, 42).unwrap();
    assert_eq!(adapter.pairs.len(), roles.iter().map(|r| if r.is_per_block() { 2 } else { 1 }).sum::<usize>());
    let all: Vec<f32> = adapter.pairs.values().flat_map(|p| p.a.iter().copied()).collect();
    let n = all.len() as f64;
    let mean = all.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let moment = |k: i32| all.iter().map(|&v| (f64::from(v) / 0.02).powi(k)).sum::<f64>() / n;
    assert!(
        mean.abs() < 3e-4 && (moment(2) - 1.0).abs() < 0.03 && (moment(4) - 3.0).abs() < 0.2,
        "{mean} {}",
        moment(2)
    );
    let (q0, q1, k0) = (AttnQ.weight(0), AttnQ.weight(1), AttnK.weight(0));
    let a = |name: &TensorName| &adapter.pairs[name].a;
    assert!(a(&q0)[..64] != a(&q1)[..64] && a(&q0)[..64] != a(&k0)[..64]);
    assert_eq!(adapter, Adapter::new(&model, &roles, 16, 16.0, 42).unwrap());
    assert!(a(&q0) != &Adapter::new(&model, &roles, 16, 16.0, 43).unwrap().pairs[&q0].a);
    // Fewer targets: the others stay as they were.
    assert_eq!(a(&k0), &Adapter::new(&model, &[AttnK], 16, 16.0, 42).unwrap().pairs[&k0].a);
}

#[test]
fn what_cannot_be_made_is_refused_with_the_reason() {
    let arch = fabric_engine::arch::find("bitnet").unwrap();
    let model = gguf(tiny(arch, GgmlType::F32, true, 5));
    let fails = |roles: &[TensorRole], rank, alpha, part: &str| {
        let e = Adapter::new(&model, roles, rank, alpha, 0).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
    };
    // K has 64 outputs.
    fails(
        LINEAR,
        65,
        8.0,
        "rank 65 is too large for tensor 'blk.0.attn_k.weight' of shape [256, 64]: expected 1 to 64",
    );
    fails(LINEAR, 0, 8.0, "rank 0");
    fails(&[AttnQ], 4, f32::NAN, "alpha is NaN");
    fails(
        &[Output],
        4,
        8.0,
        "target 'output': the model has no tensor 'output.weight' (its output is tied to the embedding)",
    );
    fails(&[TokenEmbd], 4, 8.0, "the model's output is tied to it");
    fails(&[AttnNorm], 4, 8.0, "tensor role 'attn_norm' takes no LoRA adapter");
    fails(&[], 4, 8.0, "no LoRA targets given");
    assert!(
        target_role("q_norm")
            .unwrap_err()
            .to_string()
            .contains("(known: attn_q attn_k attn_v attn_qkv attn_o ffn_gate ffn_up ffn_down output token_embd)")
    );
    for (word, role) in [("q", AttnQ), ("attn_o", AttnOutput), ("down_proj", FfnDown), ("token_embd", TokenEmbd)] {
        assert_eq!(target_role(word).unwrap(), role);
    }
    assert!(Adapter::new(&model, LINEAR, 64, 8.0, 0).is_ok());
}

type Tensor<'a> = (&'a str, GgmlType, &'a [usize]);

fn file(keys: &[(&str, Value)], tensors: &[Tensor]) -> Vec<u8> {
    let mut m = Metadata::new();
    keys.iter().for_each(|(k, v)| drop(m.insert(*k, v.clone())));
    let mut writer = Writer::new(m).unwrap();
    tensors.iter().for_each(|(name, ty, ne)| writer.add_tensor(name, *ty, ne).unwrap());
    let sizes: Vec<_> = writer.tensors().iter().map(|t| t.n_bytes as usize).collect();
    let mut out = writer.start(Vec::new()).unwrap();
    for ((name, ..), n) in tensors.iter().zip(sizes) {
        // Bytes that are a NaN in every float type, where the name says so.
        out.write_tensor(name, &vec![if name.contains("blk.1") { 0xff } else { 0 }; n]).unwrap();
    }
    out.into_inner().unwrap()
}

#[test]
fn files_that_are_wrong_are_refused_with_the_reason() {
    use GgmlType::*;
    let arch = fabric_engine::arch::find("bitnet").unwrap();
    let model = gguf(tiny(arch, F32, true, 5));
    let good: Vec<(&str, Value)> = vec![
        ("general.architecture", "bitnet".into()),
        ("general.type", "adapter".into()),
        ("adapter.type", "lora".into()),
        ("adapter.lora.alpha", 8f32.into()),
    ];
    let a: Tensor = ("blk.0.attn_k.weight.lora_a", F32, &[256, 4]);
    let b: Tensor = ("blk.0.attn_k.weight.lora_b", F32, &[4, 64]);
    let read = |keys: &[(&str, Value)], tensors: &[Tensor]| {
        Adapter::read(&Gguf::from_bytes(file(keys, tensors)).unwrap(), &model).map_err(|e| e.to_string())
    };
    let with = |key: &'static str, value: Option<Value>| -> Vec<(&str, Value)> {
        let others = good.iter().filter(|(k, _)| *k != key).cloned();
        others.chain(value.map(|v| (key, v))).collect()
    };
    let keys = |key, value, part: &str| {
        let e = read(&with(key, value), &[a, b]).unwrap_err();
        assert!(e.contains(part), "{e}");
    };
    keys("general.type", None, "key general.type is missing, expected 'adapter'");
    keys("general.type", Some("model".into()), "key general.type is 'model', expected 'adapter'");
    keys("adapter.type", Some("vector".into()), "key adapter.type is 'vector', expected 'lora'");
    keys("general.architecture", None, "general.architecture");
    let other = "for models of architecture 'llama', the model is of architecture 'bitnet'";
    keys("general.architecture", Some("llama".into()), other);
    keys("adapter.lora.alpha", Some(f32::NAN.into()), "adapter.lora.alpha is NaN");
    keys("adapter.lora.alpha", Some(8u32.into()), "adapter.lora.alpha");
    keys("fabric.base_model.sha256", Some(8u32.into()), "fabric.base_model.sha256");
    assert_eq!(read(&with("adapter.lora.alpha", None), &[a, b]).unwrap().alpha, 0.0);

    let tensors = |tensors: &[Tensor], part: &str| {
        let e = read(&good, tensors).unwrap_err();
        assert!(e.contains(part), "{e}");
    };
    let (name_a, name_b) = (a.0, b.0);
    tensors(&[a], "'blk.0.attn_k.weight.lora_b' is missing: 'blk.0.attn_k.weight.lora_a' is nothing without it");
    tensors(&[b], "'blk.0.attn_k.weight.lora_a' is missing");
    tensors(&[a, b, ("blk.0.attn_k.weight", F32, &[2])], "'blk.0.attn_k.weight' is unexpected");
    tensors(&[("x.lora_a", F32, &[4, 4]), ("x.lora_b", F32, &[4, 4])], "tensor 'x', which the model does not have");
    tensors(&[a, (name_b, F32, &[5, 64])], "'blk.0.attn_k.weight.lora_a' has shape [256, 4], expected [n_in, 5]");
    tensors(
        &[a, (name_b, F32, &[4, 63])],
        "has shape [4, 63], expected [4, 64] beside 'blk.0.attn_k.weight' of shape [256, 64]",
    );
    tensors(&[(name_a, F32, &[255, 4]), b], "has shape [255, 4], expected [256, 4]");
    tensors(&[(name_a, F32, &[4, 256]), b], "has shape [4, 256]");
    tensors(&[(name_a, F32, &[256, 4, 2]), b], "expected two dimensions");
    tensors(&[(name_a, F32, &[256, 0]), (name_b, F32, &[0, 64])], "none of them 0");
    tensors(&[(name_a, I32, &[256, 4]), b], "has type I32, expected F32, F16, BF16");
    for ty in [F32, F16, BF16] {
        let pair =
            [("blk.1.attn_k.weight.lora_a", ty, &[256usize, 4][..]), ("blk.1.attn_k.weight.lora_b", ty, &[4, 64])];
        tensors(&pair, "tensor 'blk.1.attn_k.weight.lora_a': ");
    }
    let embd: [Tensor; 2] =
        [("token_embd.weight.lora_a", F32, &[4, 320]), ("token_embd.weight.lora_b", F32, &[4, 256])];
    tensors(&[("token_embd.weight.lora_a", F32, &[256, 4]), embd[1]], "expected [4, n_vocab]");

    // What llama.cpp takes, with no effect on norms and biases.
    let norm: [Tensor; 2] = [("output_norm.weight.lora_a", F32, &[256, 4]), ("output_norm.weight.lora_b", F32, &[4])];
    let read =
        read(&good, &[a, b, norm[0], norm[1], ("blk.0.attn_norm.weight", F32, &[256]), embd[0], embd[1]]).unwrap();
    assert_eq!(read.pairs.keys().copied().collect::<Vec<_>>(), [TokenEmbd.weight(0), AttnK.weight(0)]);
    assert_eq!(read.unused, ["output_norm.weight"]);
}

#[test]
fn half_floats_are_read() {
    use GgmlType::*;
    let arch = fabric_engine::arch::find("llama").unwrap();
    let model = gguf(tiny(arch, F32, true, 5));
    let original = trained(&model, &[FfnDown], 8, 3);
    for ty in [F16, BF16, Q8_0] {
        let mut m = Metadata::new();
        m.insert("general.architecture", "llama");
        m.insert("general.type", "adapter");
        m.insert("adapter.type", "lora");
        let mut writer = Writer::new(m).unwrap();
        let name = FfnDown.weight(1);
        let pair = &original.pairs[&name];
        let b_ty = if ty == Q8_0 { F32 } else { ty };
        writer.add_tensor(&format!("{name}.lora_a"), ty, &pair.a_ne(&name)).unwrap();
        writer.add_tensor(&format!("{name}.lora_b"), b_ty, &pair.b_ne()).unwrap();
        let mut out = writer.start(Vec::new()).unwrap();
        for (half, ty, values) in [("a", ty, &pair.a), ("b", b_ty, &pair.b)] {
            let mut bytes = vec![0; ty.row_size(values.len()).unwrap()];
            ggml_ops::quants::quantize(ty, values, &mut bytes).unwrap();
            out.write_tensor(&format!("{name}.lora_{half}"), &bytes).unwrap();
        }
        let read = Adapter::read(&Gguf::from_bytes(out.into_inner().unwrap()).unwrap(), &model).unwrap();
        let read = &read.pairs[&name];
        assert!(max_difference(&read.a, &pair.a) < 8e-4 && max_difference(&read.b, &pair.b) < 8e-4, "{ty}");
        assert!(max_difference(&read.a, &pair.a) > 0.0);
    }
}

#[test]
fn files_come_back_and_are_the_same_bytes_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("1.gguf"), dir.path().join("2.gguf"));
    for (model, roles) in models(GgmlType::TQ2_0) {
        let mut adapter = trained(&model, &roles, 4, 3);
        adapter.base = Some(BaseModel::of(model.gguf()));
        adapter.write(&first).unwrap();
        let file = Gguf::open(&first).unwrap();
        let keys: Vec<&str> = file.metadata().iter().map(|(k, _)| k).collect();
        assert_eq!(
            keys[..5],
            ["general.architecture", "general.type", "general.name", "adapter.type", "adapter.lora.alpha"]
        );
        let read = Adapter::read(&file, &model).unwrap();
        assert_eq!(read, adapter);
        assert_eq!(read.base.as_ref().unwrap().differs_from(model.gguf()), None);
        read.write(&second).unwrap();
        assert!(std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap());
    }
}

#[test]
fn another_base_is_noticed() {
    let arch = fabric_engine::arch::find("bitnet").unwrap();
    let [model, other] = [5, 6].map(|seed| gguf(tiny(arch, GgmlType::F32, true, seed)));
    let base = BaseModel::of(model.gguf());
    assert_eq!(base.differs_from(model.gguf()), None);
    let text = base.differs_from(other.gguf()).unwrap().to_string();
    assert!(text.contains("trained on another file of model 'tiny' than this one"), "{text}");
    // With the SHA-256 only, it is computed.
    let base = BaseModel { fingerprint: None, ..base };
    assert_eq!(base.differs_from(model.gguf()), None);
    assert!(base.differs_from(other.gguf()).is_some());
    let renamed = BaseModel { name: Some("x".into()), ..base };
    assert!(
        renamed.differs_from(other.gguf()).unwrap().to_string().contains("trained on model 'x', and this is 'tiny'")
    );
    // As sha256sum says.
    let tiny = Gguf::open(model_path()).unwrap();
    let hash = BaseModel::of(&tiny).sha256.unwrap();
    assert_eq!(hash, "eb0577aea31cfdb332fbe7d88a8b16f66e015115ed8b080d0ecb21b8fe5e7391");
}

fn model_path() -> std::path::PathBuf {
    model("tiny-bitnet-TQ2_0.gguf")
}

fn mean_kl(want: &Path, got: &[f32]) -> (f64, f64) {
    let (shape, want) = npy(want);
    assert_eq!(want.len(), got.len());
    let rows = want.chunks_exact(shape[1]).zip(got.chunks_exact(shape[1]));
    let (sum, same) = rows.fold((0.0, 0), |(s, n), (w, g)| (s + kl(w, g), n + usize::from(argmax(w) == argmax(g))));
    let n = shape[0] as f64;
    eprintln!("mean KL {:.2e}, same top token {:.1}%", sum / n, 100.0 * same as f64 / n);
    (sum / n, same as f64 / n)
}

#[test]
fn adapters_agree_with_llama_cpp() {
    let f16 = open(&model("tiny-bitnet-f16.gguf"));
    let tokens = tokens(&fixture("golden/tiny-bitnet.0.json"));
    let read =
        |name: &str| Adapter::read(&Gguf::open(fixture(&format!("lora/adapter-{name}.gguf"))).unwrap(), &f16).unwrap();
    let (initial, last) = (read("initial"), read("final"));
    let got = logits(&f16, &[(&last, 1.0)], &tokens);
    let (kl, same) = mean_kl(&fixture("lora/final.f16.llamacpp.npy"), &got);
    assert!(kl < 1e-6 && same == 1.0);
    let got = logits(&f16, &[(&last, 0.75), (&initial, 0.5), (&last, 0.5)], &tokens);
    let (kl, same) = mean_kl(&fixture("lora/both.f16.llamacpp.npy"), &got);
    assert!(kl < 1e-6 && same == 1.0);
    // And the adapter matters.
    let (kl, _) = mean_kl(&fixture("lora/final.f16.llamacpp.npy"), &logits(&f16, &[], &tokens));
    assert!(kl > 0.1);
}

/// Adapters of matrices that hold several: one pair for all of `attn_qkv`, one for gate and up.
#[test]
fn adapters_of_fused_matrices() {
    let file = Gguf::open(fixture("archs/phi3-f32.gguf")).unwrap();
    // llama.cpp runs phi3 without its sliding window.
    let overrides = vec![("phi3.attention.sliding_window".into(), Value::U32(0))];
    let phi3 = Arc::new(
        Model::load(file, cpu(2, SimdLevel::detect()), ModelOptions { overrides, ..ModelOptions::default() }).unwrap(),
    );
    let tokens = tokens(&fixture("archs/phi3.long.json"));
    let adapter = Adapter::read(&Gguf::open(fixture("train/phi3-adapter.gguf")).unwrap(), &phi3).unwrap();
    let names: Vec<String> = adapter.pairs.keys().map(|name| name.to_string()).collect();
    assert!(names.contains(&"blk.1.attn_qkv.weight".into()) && names.contains(&"blk.0.ffn_up.weight".into()));
    let want = fixture("archs/phi3.long.lora.llamacpp.npy");
    let (kl, same) = mean_kl(&want, &logits(&phi3, &[(&adapter, 1.0)], &tokens));
    assert!(kl < 2e-6 && same == 1.0);
    let (kl, _) = mean_kl(&want, &logits(&phi3, &[], &tokens));
    assert!(kl > 0.01);
    // As PEFT's files, under the names of Hugging Face's modules.
    let dir = tempfile::tempdir().unwrap();
    write_peft(&adapter, &phi3, dir.path()).unwrap();
    let config = std::fs::read_to_string(dir.path().join("adapter_config.json")).unwrap();
    assert!(config.contains("\"gate_up_proj\"") && config.contains("\"qkv_proj\""), "{config}");
    assert_eq!(read_peft(dir.path(), &phi3).unwrap().pairs, adapter.pairs);
}

#[test]
fn peft_folders_agree_with_peft_and_come_back() {
    let llama = open(&fixture("archs/llama-f32.gguf"));
    let tokens = tokens(&fixture("archs/llama.json"));
    let adapter = read_peft(fixture("lora/peft-llama"), &llama).unwrap();
    let (kl, same) = mean_kl(&fixture("lora/peft-llama.logits.npy"), &logits(&llama, &[(&adapter, 1.0)], &tokens));
    assert!(kl < 1e-6 && same == 1.0);
    let (kl, _) = mean_kl(&fixture("lora/peft-llama.logits.npy"), &logits(&llama, &[], &tokens));
    assert!(kl > 0.1);

    let dir = tempfile::tempdir().unwrap();
    write_peft(&adapter, &llama, dir.path().join("new")).unwrap();
    let back = read_peft(dir.path().join("new"), &llama).unwrap();
    assert_eq!(back, adapter);
    // Without alpha, too.
    let plain = Adapter { alpha: 0.0, ..adapter };
    write_peft(&plain, &llama, dir.path()).unwrap();
    let back = read_peft(dir.path(), &llama).unwrap();
    let [want, got] = [&plain, &back].map(|a| logits(&llama, &[(a, 1.0)], &tokens));
    assert!(max_difference(&want, &got) < 1e-4);
}
