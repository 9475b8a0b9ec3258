//! Sequences of a KV cache in files: going on from one gives the bits of never having stopped, and nothing but a whole file
//! that fits is used.

use fabric_cpu::simd::SimdLevel;
use fabric_engine::arch::{ARCHITECTURES, Architecture};
use fabric_engine::kv_cache::{CacheFile, CacheFileError};
use fabric_engine::{Batch, Context, ContextOptions, Model, ModelOptions};
use fabric_tests::backends::cpu;
use fabric_tests::models::{N_VOCAB, bits, tiny};
use fastrand::Rng;
use gguf::{GgmlType, Gguf, Value};
use std::sync::Arc;

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + 11) % N_VOCAB).collect()
}

fn model(arch: &dyn Architecture, seed: u64, overrides: &[(&str, Value)]) -> Arc<Model> {
    let file = Gguf::from_bytes(tiny(arch, GgmlType::F16, false, seed)).unwrap();
    let overrides = overrides.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    Arc::new(
        Model::load(file, cpu(2, SimdLevel::detect()), ModelOptions { overrides, ..ModelOptions::default() }).unwrap(),
    )
}

fn context(model: &Arc<Model>, ty: GgmlType) -> Context {
    let options =
        ContextOptions { n_ctx: 40, n_seq_max: 2, type_k: ty, type_v: ty, swa_full: true, ..ContextOptions::default() };
    Context::new(model.clone(), options).unwrap()
}

/// Runs tokens of sequence `seq` from where it is, and gives the bits of all logits.
fn run(context: &mut Context, seq: usize, tokens: &[u32]) -> Vec<u32> {
    let (pos, mut out) = (context.cache().len(seq), Vec::new());
    let batch = Batch::of(tokens, seq, pos).with_all_logits();
    context.decode(&batch, |_, row| out.extend(bits(row))).unwrap();
    out
}

#[test]
fn going_on_from_a_file_is_never_having_stopped() {
    let (dir, text) = (tempfile::tempdir().unwrap(), tokens(30));
    for arch in ARCHITECTURES {
        for ty in [GgmlType::F16, GgmlType::Q8_0] {
            let model = model(*arch, 7, &[]);
            let path = dir.path().join(format!("{}.{ty}", arch.name()));
            let mut first = context(&model, ty);
            run(&mut first, 1, &text[..20]);
            first.save_cache(&path, 1, &text[..20]).unwrap();
            let want = run(&mut first, 1, &text[20..]);
            for n in [20, 13] {
                // Another sequence than the one that was stored.
                let mut second = context(&model, ty);
                let file = CacheFile::open(&path, &second).unwrap();
                assert_eq!(file.tokens(), &text[..20]);
                file.load(&mut second, 0, n).unwrap();
                assert_eq!((second.cache().len(0), second.cache().len(1)), (n, 0));
                let got = run(&mut second, 0, &text[n..]);
                assert!(got.ends_with(&want), "{} {ty}, {n} tokens", arch.name());
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let (dir, text) = (tempfile::tempdir().unwrap(), tokens(9));
    let path = dir.path().join("cache");
    let made_with = model(ARCHITECTURES[0], 7, &[]);
    let mut first = context(&made_with, GgmlType::F16);
    run(&mut first, 0, &text);
    let incomplete = first.save_cache(&path, 0, &tokens(10)).unwrap_err().to_string();
    assert_eq!(incomplete, "10 tokens cannot be stored: the cache has K and V of 9");
    assert!(first.save_cache(&path, 1, &text).is_err() && !path.exists());
    first.save_cache(&path, 0, &text).unwrap();
    let refused = |context: &Context| CacheFile::open(&path, context).err().unwrap().to_string();
    assert_eq!(
        refused(&context(&model(ARCHITECTURES[0], 8, &[]), GgmlType::F16)),
        "it was made with another model: tiny, and here it is another file of that name"
    );
    assert_eq!(
        refused(&context(&made_with, GgmlType::Q8_0)),
        "it was made with another type of K (-ctk): f16, and here it is q8_0"
    );
    let slower = model(ARCHITECTURES[0], 7, &[("bitnet.rope.freq_base", Value::F32(500.0))]);
    assert_eq!(
        refused(&context(&slower, GgmlType::F16)),
        "it is no prompt cache (one of this model with other settings: --override-kv, --rope-*, or -c where RoPE depends on it)"
    );
    let file = tiny(ARCHITECTURES[0], GgmlType::F16, false, 7);
    let other = CacheFile::from_bytes(file, &first).err().unwrap().to_string();
    assert_eq!(other, "it is no prompt cache (a GGUF file of type 'model')");
    // A context that is smaller than the file takes what fits.
    let mut small =
        Context::new(made_with, ContextOptions { n_ctx: 4, swa_full: true, ..ContextOptions::default() }).unwrap();
    CacheFile::open(&path, &small).unwrap().load(&mut small, 0, 9).unwrap();
    assert_eq!(small.cache().len(0), 4);
}

/// Changed, cut and lengthened files: an error, or, where the change is in padding, what was stored. Never a panic.
#[test]
fn damaged_files_are_refused() {
    let (dir, text) = (tempfile::tempdir().unwrap(), tokens(9));
    let path = dir.path().join("cache");
    let mut whole = context(&model(ARCHITECTURES[0], 7, &[]), GgmlType::Q4_0);
    run(&mut whole, 0, &text);
    whole.save_cache(&path, 0, &text).unwrap();
    let good = std::fs::read(&path).unwrap();
    let file = Gguf::from_bytes(good.clone()).unwrap();
    let data: usize = file.tensors().iter().map(|t| t.n_bytes as usize).sum();
    let (mut rng, mut refused, mut damaged) = (Rng::with_seed(11), 0, 0);
    for i in 0..4000 {
        let mut bytes = good.clone();
        // Half of the changes go to the header, which is small.
        let end = if i % 2 == 0 { good.len() } else { good.len() - data };
        match rng.u8(0..8) {
            0 => bytes.truncate(rng.usize(0..good.len())),
            1 => bytes.extend((0..rng.usize(1..100)).map(|_| rng.u8(..))),
            2 => {
                let at = rng.usize(0..end - 8);
                bytes[at..at + 8].copy_from_slice(&[u64::MAX, 1 << 62, 1 << 31, 0][rng.usize(0..4)].to_le_bytes());
            }
            _ => {
                for _ in 0..rng.usize(1..4) {
                    bytes[rng.usize(0..end)] ^= 1 << rng.u8(0..8);
                }
            }
        }
        match CacheFile::from_bytes(bytes, &whole) {
            Ok(file) => assert_eq!(file.tokens(), text),
            Err(e) => {
                refused += 1;
                damaged += usize::from(matches!(e, CacheFileError::Damaged(_)));
            }
        }
    }
    assert!(refused > 3000 && damaged > 500, "{refused} refused, {damaged} of them damaged");
}
