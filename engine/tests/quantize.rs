//! Quantized models against llama.cpp's, byte for byte.
//!
//! `fixtures/quantize/llama_cpp.json` is written by `generate.py` beside it.

use fabric_engine::imatrix::Importances;
use fabric_engine::quantize::{FType, Options, Plan, QuantizeError, Quantizer, Target, TensorTypeRule, check_tensor};
use ggml_ops::quants;
use gguf::{GgmlType, Gguf, Metadata, Value, Writer};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

fn fixture() -> Json {
    serde_json::from_str(include_str!("fixtures/quantize/llama_cpp.json")).unwrap()
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-bitnet-f16.gguf")
}

fn sha256(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

/// Element i of tensor number `index`: the `weights` of generate.py.
fn weights(index: usize, n: usize) -> Vec<f32> {
    let weight = |i: u32| {
        let mut h = i.wrapping_mul(2654435761).wrapping_add(index as u32 * 40503 + 12345);
        h ^= h >> 15;
        h = h.wrapping_mul(2246822519);
        h ^= h >> 13;
        ((h >> 8) as i32 - (1 << 23)) as f32 / (1u32 << 27) as f32
    };
    (0..n as u32).map(weight).collect()
}

fn value(json: &Json) -> Value {
    match json {
        Json::String(s) => s.as_str().into(),
        Json::Number(n) if n.is_u64() => Value::U32(n.as_u64().unwrap().try_into().unwrap()),
        Json::Number(n) => Value::F32(n.as_f64().unwrap() as f32),
        other => panic!("{other}"),
    }
}

fn pairs(json: &Json) -> Vec<(String, Value)> {
    let pair = |p: &Json| (p[0].as_str().unwrap().to_owned(), value(&p[1]));
    json.as_array().into_iter().flatten().map(pair).collect()
}

/// A model of F32 tensors.
fn model(metadata: &[(String, Value)], tensors: &[(String, Vec<usize>)]) -> Gguf {
    let mut keys = Metadata::new();
    for (key, value) in metadata {
        keys.insert(key.clone(), value.clone());
    }
    let mut writer = Writer::new(keys).unwrap();
    for (name, ne) in tensors {
        writer.add_tensor(name, GgmlType::F32, ne).unwrap();
    }
    let mut out = writer.start(Vec::new()).unwrap();
    for (i, (name, ne)) in tensors.iter().enumerate() {
        let data: Vec<u8> = weights(i, ne.iter().product()).iter().flat_map(|w| w.to_le_bytes()).collect();
        out.write_tensor(name, &data).unwrap();
    }
    Gguf::from_bytes(out.into_inner().unwrap()).unwrap()
}

fn synthetic(json: &Json) -> Gguf {
    let tensor = |t: &Json| {
        let ne = t[1].as_array().unwrap().iter();
        (t[0].as_str().unwrap().to_owned(), ne.map(|n| n.as_u64().unwrap() as usize).collect())
    };
    let tensors: Vec<_> = json["tensors"].as_array().unwrap().iter().map(tensor).collect();
    model(&pairs(&json["metadata"]), &tensors)
}

fn target(name: &str) -> Target {
    match name {
        "COPY" => Target::Copy,
        name => Target::Quantize(FType::parse(name).unwrap()),
    }
}

fn ty(json: &Json) -> GgmlType {
    GgmlType::from_name(json.as_str().unwrap()).unwrap()
}

/// The `importances` of generate.py.
fn importances(model: &Gguf) -> Importances {
    let tensors = model.tensors().iter().enumerate().filter(|(_, t)| !t.name.contains("attn_v"));
    let of = |(i, t): (usize, &gguf::TensorInfo)| {
        let values = weights(i + 1000, t.ne[0] * t.ne[2]).into_iter().enumerate();
        (t.name.clone(), values.map(|(i, w)| if i % 10 == 3 { 0.0 } else { w * w * 256.0 }).collect())
    };
    tensors.map(of).collect()
}

fn options(run: &Json, model: &Gguf) -> Options {
    let rule = |r: &Json| TensorTypeRule { pattern: r[0].as_str().unwrap().into(), ty: ty(&r[1]) };
    let flag = |name: &str| run[name].as_bool().unwrap_or(false);
    Options {
        target: target(run["type"].as_str().unwrap()),
        allow_requantize: flag("allow_requantize"),
        leave_output_tensor: flag("leave_output_tensor"),
        pure: flag("pure"),
        output_tensor_type: run.get("output_tensor_type").map(ty),
        token_embedding_type: run.get("token_embedding_type").map(ty),
        tensor_types: run["tensor_types"].as_array().into_iter().flatten().map(rule).collect(),
        keep_split: false,
        metadata: pairs(&run["metadata"]),
        importances: if flag("importance") { importances(model) } else { Default::default() },
    }
}

/// The bytes of the quantized file.
fn quantize(model: &Gguf, options: &Options, n_threads: usize) -> Result<Vec<u8>, QuantizeError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.gguf");
    let plan = Plan::new(model, options)?;
    let mut out = Quantizer::create(model, &plan, &path, n_threads)?;
    while out.write_next()?.is_some() {
        assert!(!path.exists());
    }
    out.finish()?;
    Ok(std::fs::read(path).unwrap())
}

fn check_run(fixture: &Json, run: &Json) {
    let name = run["model"].as_str().unwrap();
    let case = format!("{name} to {}", run["type"]);
    let mut input = match fixture["models"].get(name) {
        Some(json) => synthetic(json),
        None => Gguf::open(tiny()).unwrap(),
    };
    if let Some(via) = run.get("via") {
        let bytes = quantize(&input, &Options::new(target(via.as_str().unwrap())), 1).unwrap();
        input = Gguf::from_bytes(bytes).unwrap();
    }
    let result = quantize(&input, &options(run, &input), 2);
    let Some(expected) = run.get("sha256") else {
        assert!(result.is_err(), "{case}: llama.cpp refuses");
        return;
    };
    let expected_types: Vec<GgmlType> = match &run["tensors"] {
        Json::String(types) => types.split(' ').map(|t| GgmlType::from_name(t).unwrap()).collect(),
        tensors => tensors.as_array().unwrap().iter().map(|t| ty(&t[1])).collect(),
    };
    let bytes = result.unwrap_or_else(|e| panic!("{case}: {e}"));
    let digest = sha256(&bytes);
    let output = Gguf::from_bytes(bytes).unwrap();
    let types: Vec<GgmlType> = output.tensors().iter().map(|t| t.ty).collect();
    assert_eq!(types, expected_types, "{case}");
    for (t, expected) in output.tensors().iter().zip(run["tensors"].as_array().into_iter().flatten()) {
        assert_eq!(t.name, expected[0].as_str().unwrap(), "{case}");
        assert_eq!(&sha256(output.data(t))[..12], expected[2].as_str().unwrap(), "{case}: {}", t.name);
    }
    assert_eq!(digest, expected.as_str().unwrap(), "{case}: the tensors are right, the rest of the file is not");
}

#[test]
fn files_are_those_of_llama_cpp() {
    let fixture = fixture();
    let runs = fixture["runs"].as_array().unwrap();
    assert!(runs.len() > 200);
    for run in runs {
        check_run(&fixture, run);
    }
}

fn one_tensor(name: &str, ne: &[usize]) -> Gguf {
    let metadata = [("general.architecture".into(), Value::from("llama"))];
    model(&metadata, &[(name.into(), ne.to_vec())])
}

fn to(ftype: FType) -> Options {
    Options::new(Target::Quantize(ftype))
}

#[test]
fn pieces_and_threads_do_not_show() {
    // Rows that no piece ends with, and more than one group of pieces.
    let model = one_tensor("blk.0.attn_q.weight", &[3 * 256, 5701]);
    let data = weights(0, 3 * 256 * 5701);
    let mut expected = vec![0; data.len() / 256 * GgmlType::Q6_K.type_size()];
    quants::quantize(GgmlType::Q6_K, &data, &mut expected).unwrap();
    for n_threads in [1, 3] {
        let out = Gguf::from_bytes(quantize(&model, &to(FType::Q6_K), n_threads).unwrap()).unwrap();
        assert!(out.data(&out.tensors()[0]) == expected, "{n_threads} threads");
    }
}

/// The model with its only tensor's element `at` replaced.
fn with_element(at: usize, x: f32) -> Gguf {
    let mut keys = Metadata::new();
    keys.insert("general.architecture", "llama");
    let mut writer = Writer::new(keys).unwrap();
    writer.add_tensor("blk.0.attn_q.weight", GgmlType::F32, &[256, 20_000]).unwrap();
    let mut out = writer.start(Vec::new()).unwrap();
    let mut data = weights(0, 256 * 20_000);
    data[at] = x;
    let bytes: Vec<u8> = data.iter().flat_map(|w| w.to_le_bytes()).collect();
    out.write_tensor("blk.0.attn_q.weight", &bytes).unwrap();
    Gguf::from_bytes(out.into_inner().unwrap()).unwrap()
}

fn message<T: std::fmt::Debug>(result: Result<T, QuantizeError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn numbers_that_are_not_finite_are_found() {
    let model = with_element(5_000_000, f32::NAN);
    for target in [Target::Copy, Target::Quantize(FType::TQ2_0)] {
        assert_eq!(
            message(quantize(&model, &Options::new(target), 2)),
            "tensor 'blk.0.attn_q.weight' (F32): block 5000000: value is NaN, not a finite number"
        );
    }
    assert!(check_tensor(&model, &model.tensors()[0]).is_err());
    // Finite, but not in f16, nor as the scale of a block.
    let model = with_element(5_000_000, 1e30);
    assert!(check_tensor(&model, &model.tensors()[0]).unwrap());
    assert_eq!(
        message(quantize(&model, &to(FType::F16), 2)),
        "tensor 'blk.0.attn_q.weight' (F16): block 5000000: value is inf, not a finite number"
    );
    assert_eq!(
        message(quantize(&model, &to(FType::TQ2_0), 2)),
        "tensor 'blk.0.attn_q.weight' (TQ2_0): block 19531: d is inf, not a finite number"
    );
}

#[test]
fn a_failure_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.gguf");
    std::fs::write(&path, "old").unwrap();
    let model = with_element(7, f32::INFINITY);
    let plan = Plan::new(&model, &to(FType::Q8_0)).unwrap();
    let mut out = Quantizer::create(&model, &plan, &path, 1).unwrap();
    assert!(out.write_next().is_err());
    drop(out);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    // Nor may it be finished early.
    let out = Quantizer::create(&model, &plan, &path, 1).unwrap();
    assert!(out.finish().is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[test]
fn errors_name_the_tensor() {
    let model = one_tensor("blk.0.attn_q.weight", &[256, 2]);
    let rule = TensorTypeRule { pattern: "attn_q".into(), ty: GgmlType::IQ3_S };
    assert_eq!(
        message(Plan::new(&model, &Options { tensor_types: vec![rule], ..to(FType::Q4_K_M) })),
        "tensor 'blk.0.attn_q.weight': cannot convert F32 to IQ3_S: there is no codec for IQ3_S"
    );
    let model = one_tensor("token_embd.weight", &[160, 2]);
    let options = Options { token_embedding_type: Some(GgmlType::Q6_K), ..to(FType::Q8_0) };
    assert_eq!(
        message(Plan::new(&model, &options)),
        "tensor 'token_embd.weight': rows of 160 elements are no whole number of Q6_K blocks of 256"
    );
    let rule = TensorTypeRule { pattern: "attn_(".into(), ty: GgmlType::Q8_0 };
    let options = Options { tensor_types: vec![rule], ..to(FType::Q8_0) };
    assert_eq!(message(Plan::new(&model, &options)), "tensor type rule 'attn_(': unclosed group");
    let model = one_tensor("blk.0.attn_q.weight", &[256, 2]);
    let bytes = quantize(&model, &to(FType::Q8_0), 1).unwrap();
    assert_eq!(
        message(Plan::new(&Gguf::from_bytes(bytes).unwrap(), &to(FType::Q4_0))),
        "tensor 'blk.0.attn_q.weight' is quantized already, as Q8_0: converting it to Q4_0 loses quality and has to be allowed (allow-requantize)"
    );
    let no_arch = self::model(&[], &[("token_embd.weight".into(), vec![256, 2])]);
    assert_eq!(message(Plan::new(&no_arch, &to(FType::Q8_0))), "key general.architecture is missing");
}

#[test]
fn a_layer_that_decides_must_exist() {
    let metadata = [
        ("general.architecture".into(), Value::from("llama")),
        ("llama.block_count".into(), Value::U32(2)),
        ("llama.expert_count".into(), Value::U32(4)),
    ];
    let model = model(&metadata, &[("blk.2.ffn_down_exps.weight".into(), vec![256, 2, 4])]);
    assert_eq!(
        message(Plan::new(&model, &to(FType::Q4_K_M))),
        "tensor 'blk.2.ffn_down_exps.weight': its layer decides about its type, but the name gives none below llama.block_count = 2"
    );
}

#[test]
fn a_copy_guesses_the_file_type_that_is_missing() {
    let model = one_tensor("blk.0.attn_q.weight", &[256, 2]);
    let plan = Plan::new(&model, &Options::new(Target::Copy)).unwrap();
    assert_eq!(plan.metadata().u32("general.file_type").unwrap(), Some(1024));
    let mut options = to(FType::Q4_K_M);
    options.pure = true;
    let bytes = quantize(&model, &options, 1).unwrap();
    let mut metadata = Gguf::from_bytes(bytes.clone()).unwrap().metadata().clone();
    metadata.remove("general.file_type");
    let mut writer = Writer::new(metadata).unwrap();
    writer.add_tensor("blk.0.attn_q.weight", GgmlType::Q4_K, &[256, 2]).unwrap();
    let mut out = writer.start(Vec::new()).unwrap();
    out.write_tensor("blk.0.attn_q.weight", &[0; 288]).unwrap();
    let model = Gguf::from_bytes(out.into_inner().unwrap()).unwrap();
    let plan = Plan::new(&model, &Options::new(Target::Copy)).unwrap();
    assert_eq!(plan.metadata().u32("general.file_type").unwrap(), Some(1024 + 15));
}

#[test]
fn splits_become_one_file_or_stay() {
    let whole = one_tensor("blk.0.attn_q.weight", &[256, 2]);
    let part = |no: u16, name: &str| {
        let mut metadata = Metadata::new();
        if no == 0 {
            metadata.insert("general.architecture", "llama");
        }
        metadata.insert("split.no", no);
        metadata.insert("split.count", 2u16);
        metadata.insert("split.tensors.count", 2i32);
        let mut writer = Writer::new(metadata).unwrap();
        writer.add_tensor(name, GgmlType::F32, &[256, 2]).unwrap();
        let mut out = writer.start(Vec::new()).unwrap();
        out.write_tensor(name, whole.data(&whole.tensors()[0])).unwrap();
        out.into_inner().unwrap()
    };
    let split = Gguf::from_split_bytes(vec![part(0, "blk.1.attn_q.weight"), part(1, "blk.0.attn_q.weight")]).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let plan = Plan::new(&split, &Options { keep_split: true, ..to(FType::TQ1_0) }).unwrap();
    let paths = plan.paths(&dir.path().join("out.gguf"));
    assert!(paths[1].ends_with("out-00002-of-00002.gguf") && paths.len() == 2);
    let mut out = Quantizer::create(&split, &plan, &dir.path().join("out.gguf"), 1).unwrap();
    out.write_next().unwrap();
    out.write_next().unwrap();
    assert!(!paths[0].exists() && !paths[1].exists());
    out.finish().unwrap();
    let kept = Gguf::open(&paths[0]).unwrap();
    assert_eq!(kept.n_files(), 2);
    for (i, t) in kept.tensors().iter().enumerate() {
        assert_eq!(
            (t.name.as_str(), t.split_no(), t.ty),
            (["blk.1.attn_q.weight", "blk.0.attn_q.weight"][i], i, GgmlType::TQ1_0)
        );
    }
    // Not one of them if one is missing.
    let mut out = Quantizer::create(&split, &plan, &dir.path().join("other.gguf"), 1).unwrap();
    out.write_next().unwrap();
    assert!(out.finish().is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);

    let out = Gguf::from_bytes(quantize(&split, &to(FType::TQ1_0), 1).unwrap()).unwrap();
    let names: Vec<_> = out.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["blk.0.attn_q.weight", "blk.1.attn_q.weight"]);
    assert!(out.metadata().iter().all(|(key, _)| !key.starts_with("split.")));
}
