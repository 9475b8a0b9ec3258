//! Models for tests: loaded with given settings, or made up from a seed.

use crate::backends::cpu;
use fabric_cpu::simd::SimdLevel;
use fabric_engine::arch::{Architecture, HParams, TensorSpec};
use fabric_engine::{Batch, Context, ContextOptions, Model, ModelOptions};
use fastrand::Rng;
use ggml_ops::quants;
use gguf::{Array, GgmlType, Gguf, Metadata, Value, Writer, key};
use std::sync::Arc;

/// Loads a model for the CPU.
///
/// # Panics
/// Where it cannot be loaded.
pub fn load(gguf: Gguf, threads: usize, simd: SimdLevel) -> Arc<Model> {
    Arc::new(Model::load(gguf, cpu(threads, simd), ModelOptions::default()).unwrap_or_else(|e| panic!("{e}")))
}

/// As [`load`], with weights in the order that the processor multiplies fastest.
///
/// # Panics
/// Where it cannot be loaded.
pub fn load_repacked(gguf: Gguf, threads: usize, simd: SimdLevel) -> Arc<Model> {
    let options = ModelOptions { repack: true, ..ModelOptions::default() };
    Arc::new(Model::load(gguf, cpu(threads, simd), options).unwrap_or_else(|e| panic!("{e}")))
}

/// Logits of every token, one row after the other, computed in batches of `batch`.
///
/// # Panics
/// Where they cannot be computed.
pub fn logits(model: &Arc<Model>, tokens: &[u32], batch: usize) -> Vec<f32> {
    let n_ctx = tokens.len().max(8);
    logits_in(model, tokens, ContextOptions { n_ctx, n_ubatch: batch, ..ContextOptions::default() })
}

/// The same in a context of one's own making.
///
/// # Panics
/// Where they cannot be computed.
pub fn logits_in(model: &Arc<Model>, tokens: &[u32], options: ContextOptions) -> Vec<f32> {
    let mut context = Context::new(model.clone(), options).unwrap();
    let mut out = Vec::new();
    let batch = Batch::of(tokens, 0, 0).with_all_logits();
    context.decode(&batch, |_, row| out.extend_from_slice(row)).unwrap();
    out
}

/// The bits of floats, to compare them as integers.
pub fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

/// Tokens in the vocabulary of a made-up model.
pub const N_VOCAB: u32 = 320;

/// A tiny model of an architecture with seeded random weights: matrices of type `ty`, ternary ones with one scale if
/// `uniform`. Only the tensors that it requires. No tokenizer.
///
/// # Panics
/// Where the architecture contradicts itself.
pub fn tiny(arch: &dyn Architecture, ty: GgmlType, uniform: bool, seed: u64) -> Vec<u8> {
    tiny_with(arch, ty, uniform, seed, |spec| spec.required)
}

/// As [`tiny`], with the tensors that `keep` picks.
///
/// # Panics
/// Where the architecture contradicts itself.
pub fn tiny_with(
    arch: &dyn Architecture,
    ty: GgmlType,
    uniform: bool,
    seed: u64,
    keep: impl FnMut(&TensorSpec) -> bool,
) -> Vec<u8> {
    seeded(arch, metadata(arch), ty, uniform, seed, keep)
}

/// As [`tiny`] with float matrices and one layer.
///
/// # Panics
/// Where the architecture contradicts itself.
pub fn one_layer(arch: &dyn Architecture, seed: u64) -> Vec<u8> {
    let mut m = metadata(arch);
    m.insert(key::of_arch(arch.name(), key::BLOCK_COUNT), Value::U32(1));
    seeded(arch, m, GgmlType::F32, false, seed, |spec| spec.required)
}

fn seeded(
    arch: &dyn Architecture,
    mut m: Metadata,
    ty: GgmlType,
    uniform: bool,
    seed: u64,
    keep: impl FnMut(&TensorSpec) -> bool,
) -> Vec<u8> {
    m.insert("general.name", Value::from("tiny"));
    let hp = HParams::read(&m, arch, N_VOCAB as usize).unwrap();
    let mut writer = Writer::new(m).unwrap();
    let specs: Vec<_> = arch.tensors(&hp).into_iter().filter(keep).collect();
    let type_of = |ne: &[usize]| if ne.len() == 1 { GgmlType::F32 } else { ty };
    for spec in &specs {
        writer.add_tensor(&spec.name.to_string(), type_of(&spec.ne), &spec.ne).unwrap();
    }
    let mut out = writer.start(Vec::new()).unwrap();
    for spec in &specs {
        // Each tensor has a seed of its own, so that one more or less does not change the others.
        let mut rng =
            Rng::with_seed(spec.name.to_string().bytes().fold(seed, |h, b| h.wrapping_mul(31).wrapping_add(b.into())));
        let (n, ty) = (spec.ne.iter().product::<usize>(), type_of(&spec.ne));
        let scale = 1.5 / (spec.ne[0] as f32).sqrt();
        let ternary = matches!(ty, GgmlType::TQ1_0 | GgmlType::TQ2_0) && uniform;
        let values: Vec<f32> = (0..n)
            .map(|_| match spec.ne.len() {
                1 => 0.8 + 0.4 * rng.f32(),
                _ if ternary => 0.0625 * (rng.i32(-1..=1) as f32),
                _ => scale * (2.0 * rng.f32() - 1.0),
            })
            .collect();
        let mut bytes = vec![0; ty.row_size(n).unwrap()];
        quants::quantize(ty, &values, &mut bytes).unwrap();
        out.write_tensor(&spec.name.to_string(), &bytes).unwrap();
    }
    out.into_inner().unwrap()
}

fn metadata(arch: &dyn Architecture) -> Metadata {
    let mut m = Metadata::new();
    m.insert(key::GENERAL_ARCHITECTURE, Value::from(arch.name()));
    let sizes = [
        (key::CONTEXT_LENGTH, 64),
        (key::EMBEDDING_LENGTH, 256),
        (key::BLOCK_COUNT, 2),
        (key::FEED_FORWARD_LENGTH, 512),
        (key::ATTENTION_HEAD_COUNT, 8),
        (key::ATTENTION_HEAD_COUNT_KV, 2),
        (key::VOCAB_SIZE, N_VOCAB),
    ];
    for (suffix, n) in sizes {
        m.insert(key::of_arch(arch.name(), suffix), Value::U32(n));
    }
    if arch.sliding_window_pattern().is_some() {
        for (suffix, n) in [(key::ATTENTION_SLIDING_WINDOW, 5), (key::ATTENTION_SLIDING_WINDOW_PATTERN, 2)] {
            m.insert(key::of_arch(arch.name(), suffix), Value::U32(n));
        }
    }
    m.insert(key::of_arch(arch.name(), key::ATTENTION_LAYER_NORM_RMS_EPSILON), Value::F32(1e-5));
    m.insert("general.tags", Value::Array(Array::String(Default::default())));
    m
}
