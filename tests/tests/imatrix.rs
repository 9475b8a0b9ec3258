//! Importance matrices: what goes into the weights, against Transformers; the files.

use fabric_cpu::simd::SimdLevel;
use fabric_engine::arch::{ARCHITECTURES, Observe};
use fabric_engine::imatrix::{Imatrix, ImatrixError};
use fabric_engine::{Batch, Context, ContextOptions, Model};
use fabric_tests::golden::fixture;
use fabric_tests::models::{bits, load, logits, tiny_with};
use fastrand::Rng;
use gguf::{Array, GgmlType, Gguf, Metadata, Value, Writer};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The importance matrix of a text, run in batches of `n_ubatch`, and the logits.
fn collect(model: &Arc<Model>, tokens: &[u32], n_ubatch: usize, output: bool) -> (Imatrix, Vec<f32>) {
    let options = ContextOptions { n_ctx: tokens.len(), n_ubatch, ..ContextOptions::default() };
    let mut context = Context::new(model.clone(), options).unwrap();
    context.observe(Observe { output });
    let mut rows = Vec::new();
    context.decode(&Batch::of(tokens, 0, 0).with_all_logits(), |_, row| rows.extend_from_slice(row)).unwrap();
    let mut matrix = Imatrix::default();
    matrix.add_inputs(context.input_sums(), 1, tokens.len() as u32);
    (matrix, rows)
}

/// The largest difference of sums, relative to the largest sum of the entry.
fn difference(a: &Imatrix, b: &Imatrix) -> f32 {
    assert!(a.entries.keys().eq(b.entries.keys()), "{:?} {:?}", a.entries.keys(), b.entries.keys());
    let of = |(name, a): (&String, &fabric_engine::imatrix::Entry)| {
        let b = &b.entries[name];
        assert_eq!((&a.counts, a.sums.len()), (&b.counts, b.sums.len()), "{name}");
        let largest = b.sums.iter().fold(0f32, |m, v| m.max(*v));
        a.sums.iter().zip(&b.sums).fold(0f32, |m, (a, b)| m.max((a - b).abs() / largest))
    };
    a.entries.iter().map(of).fold(0.0, f32::max)
}

#[test]
fn sums_are_those_of_transformers() {
    for arch in ["qwen2", "phi3"] {
        let model = load(Gguf::open(fixture(&format!("archs/{arch}-f32.gguf"))).unwrap(), 2, SimdLevel::detect());
        let json = std::fs::read_to_string(fixture(&format!("archs/{arch}.json"))).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let tokens: Vec<u32> = json["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
        let want = Imatrix::read(&fixture(&format!("archs/{arch}.imatrix.gguf"))).unwrap();
        assert_eq!((want.chunk_count, want.chunk_size as usize), (1, tokens.len()));
        for n_ubatch in [512, 7] {
            let got = difference(&collect(&model, &tokens, n_ubatch, true).0, &want);
            // K and V are rounded to f16 in the cache.
            assert!(got < 1e-3, "{arch}, batches of {n_ubatch}: {got}");
        }
    }
}

/// Every architecture; and that it is watched changes nothing.
#[test]
fn every_matrix_is_observed() {
    let tokens: Vec<u32> = (0..20).map(|i| i * 7 % 50).collect();
    for arch in ARCHITECTURES {
        let file = tiny_with(*arch, GgmlType::Q8_0, false, 5, |s| s.required || s.name.to_string() == "output.weight");
        let model = load(Gguf::from_bytes(file).unwrap(), 2, SimdLevel::detect());
        for output in [false, true] {
            let (matrix, rows) = collect(&model, &tokens, 6, output);
            assert!(bits(&rows) == bits(&logits(&model, &tokens, 6)), "{}", arch.name());
            let observed = |t: &&gguf::TensorInfo| {
                t.ne[1] > 1 && (t.name.starts_with("blk.") || output && t.name == "output.weight")
            };
            let mut names: Vec<_> = model.gguf().tensors().iter().filter(observed).map(|t| &t.name).collect();
            names.sort();
            assert!(matrix.entries.keys().eq(names), "{}", arch.name());
            // ReLU leaves some columns at zero.
            let sound = |sums: &[f32]| sums.iter().all(|s| *s >= 0.0) && sums.iter().any(|s| *s > 0.0);
            assert!(matrix.entries.values().all(|e| e.counts == [20.0] && sound(&e.sums)), "{}", arch.name());
        }
    }
}

fn matrix() -> Imatrix {
    let entry =
        |sums: &[f32], counts: &[f32]| fabric_engine::imatrix::Entry { sums: sums.into(), counts: counts.into() };
    let entries = [
        ("blk.0.attn_q.weight", entry(&[8.0, 0.0, 2.0], &[4.0])),
        ("blk.0.ffn_up_exps.weight", entry(&[6.0, 3.0, 5.0, 7.0], &[3.0, 0.0])),
    ];
    let entries = entries.map(|(name, entry)| (name.to_owned(), entry)).into();
    Imatrix { datasets: vec!["a.txt".into()], chunk_count: 2, chunk_size: 512, entries }
}

#[test]
fn files_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("imatrix.gguf");
    matrix().write(&path).unwrap();
    assert_eq!(Imatrix::read(&path).unwrap(), matrix());
    let importances = matrix().importances();
    assert_eq!(importances["blk.0.attn_q.weight"], [2.0, 0.0, 0.5]);
    // No token came to the second expert.
    assert_eq!(importances["blk.0.ffn_up_exps.weight"], [2.0, 1.0, 1.0, 1.0]);

    let mut twice = matrix();
    twice.add(&matrix()).unwrap();
    assert_eq!((twice.chunk_count, twice.datasets.len()), (4, 2));
    assert_eq!(twice.entries["blk.0.attn_q.weight"].sums, [16.0, 0.0, 4.0]);
    let mut other = matrix();
    other.entries.get_mut("blk.0.attn_q.weight").unwrap().sums.push(1.0);
    assert!(matches!(twice.add(&other), Err(ImatrixError::Merge { .. })));
}

/// A file with these tensors, and the keys that belong there but for `without`.
fn file(without: &str, tensors: &[(&str, GgmlType, &[f32])]) -> Vec<u8> {
    let mut m = Metadata::new();
    let keys: [(&str, Value); 4] = [
        ("general.type", "imatrix".into()),
        ("imatrix.datasets", Value::Array(Array::String(["a.txt"].into_iter().collect()))),
        ("imatrix.chunk_count", Value::U32(1)),
        ("imatrix.chunk_size", Value::U32(512)),
    ];
    for (key, value) in keys.into_iter().filter(|(key, _)| *key != without) {
        m.insert(key, value);
    }
    let mut writer = Writer::new(m).unwrap();
    for (name, ty, values) in tensors {
        writer.add_tensor(name, *ty, &[values.len()]).unwrap();
    }
    let mut out = writer.start(Vec::new()).unwrap();
    for (name, ty, values) in tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        out.write_tensor(name, &bytes[..ty.type_size() * values.len()]).unwrap();
    }
    out.into_inner().unwrap()
}

#[test]
fn broken_files_are_refused() {
    use GgmlType::{F16, F32};
    let (sums, counts) = (("x.in_sum2", F32, &[1.0, 2.0][..]), ("x.counts", F32, &[1.0][..]));
    let refuse = |bytes: Vec<u8>| Imatrix::from_gguf(&Gguf::from_bytes(bytes).unwrap()).unwrap_err().to_string();
    assert!(Imatrix::from_gguf(&Gguf::from_bytes(file("", &[sums, counts])).unwrap()).is_ok());
    for (bytes, message) in [
        (
            file("general.type", &[sums, counts]),
            "general.type is missing, expected 'imatrix': this is no importance matrix",
        ),
        (file("imatrix.chunk_size", &[sums, counts]), "key imatrix.chunk_size is missing"),
        (file("", &[]), "no entries: expected tensors NAME.in_sum2 and NAME.counts"),
        (file("", &[sums]), "tensor 'x.counts' is missing"),
        (file("", &[counts]), "tensor 'x.counts' has no .in_sum2 beside it"),
        (file("", &[("x.in_sum2", F16, &[1.0]), counts]), "tensor 'x.in_sum2' has type F16, expected F32"),
        (
            file("", &[sums, ("x.counts", F32, &[1.0; 3])]),
            "tensor 'x.in_sum2' has 2 values for 3 counts: expected a multiple, of at least one",
        ),
        (
            file("", &[("x.in_sum2", F32, &[1.0, f32::NAN]), counts]),
            "tensor 'x.in_sum2' has the value NaN, expected finite numbers from 0",
        ),
        (
            file("", &[sums, ("x.counts", F32, &[-1.0])]),
            "tensor 'x.counts' has the value -1, expected finite numbers from 0",
        ),
    ] {
        assert_eq!(refuse(bytes), message);
    }
}

/// Files with some bytes changed, cut or doubled: they are read as something sound, or refused.
#[test]
fn changed_files_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("imatrix.gguf");
    matrix().write(&path).unwrap();
    let sound = std::fs::read(&path).unwrap();
    // `FABRIC_FUZZ_SECONDS=300`: a long run with other seeds.
    let seconds = std::env::var("FABRIC_FUZZ_SECONDS").ok().map(|s| Duration::from_secs(s.parse().unwrap()));
    let since = Instant::now();
    let (mut rng, mut read, mut refused) = (seconds.map_or(Rng::with_seed(11), |_| Rng::new()), 0, 0);
    while seconds.map_or(read + refused < 20_000, |limit| since.elapsed() < limit) {
        let mut bytes = sound.clone();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(0..bytes.len());
            match rng.u8(0..10) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes.extend_from_slice(&sound[at.min(sound.len() - 1)..]),
                _ => bytes[at] = rng.u8(..),
            }
        }
        let Ok(imatrix) = Gguf::from_bytes(bytes).map_err(ImatrixError::from).and_then(|g| Imatrix::from_gguf(&g))
        else {
            refused += 1;
            continue;
        };
        read += 1;
        let importances = imatrix.importances();
        for (name, entry) in &imatrix.entries {
            assert_eq!(importances[name].len(), entry.sums.len());
            assert!(importances[name].iter().all(|v| *v >= 0.0));
        }
    }
    eprintln!("{read} read, {refused} refused");
    assert!(read > 500 && refused > 5000, "{read} {refused}");
}
