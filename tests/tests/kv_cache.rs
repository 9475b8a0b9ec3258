//! The KV cache: its types, and what is done to it between runs. References: `fixtures/kv_cache/generate.py`.

use fabric_cpu::simd::SimdLevel;
use fabric_engine::arch::{self, ARCHITECTURES};
use fabric_engine::kv_cache::KvCache;
use fabric_engine::{Batch, Context, ContextOptions, Model, ModelOptions};
use fabric_tests::backends::cpu;
use fabric_tests::golden::{argmax, log_softmax, model};
use fabric_tests::models::{N_VOCAB, bits, load, logits_in, one_layer, tiny};
use gguf::{GgmlType, Gguf, Value};
use serde_json::Value as Json;
use std::sync::Arc;

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + 11) % N_VOCAB).collect()
}

fn open(bytes: &[u8]) -> Gguf {
    Gguf::from_bytes(bytes.to_vec()).unwrap()
}

fn with_types(n_ctx: usize, [type_k, type_v]: [GgmlType; 2]) -> ContextOptions {
    ContextOptions { n_ctx, type_k, type_v, ..ContextOptions::default() }
}

/// Every type of K and V, and some that differ.
fn types() -> Vec<[GgmlType; 2]> {
    let mixed = [[GgmlType::Q8_0, GgmlType::Q4_0], [GgmlType::F16, GgmlType::Q5_1], [GgmlType::BF16, GgmlType::F16]];
    KvCache::TYPES.iter().map(|&ty| [ty; 2]).chain(mixed).collect()
}

/// Token by token = one prefill = batches of 7, at every level and with any number of threads: the same bits.
#[test]
fn settings_do_not_change_a_bit_with_any_type() {
    let tokens = tokens(24);
    for (i, types) in types().into_iter().enumerate() {
        let arch = ARCHITECTURES[i % ARCHITECTURES.len()];
        let file = tiny(arch, GgmlType::F16, false, 7);
        let run = |threads, level, n_ubatch| {
            let options = ContextOptions { n_ubatch, ..with_types(24, types) };
            bits(&logits_in(&load(open(&file), threads, level), &tokens, options))
        };
        let want = run(1, SimdLevel::Scalar, 24);
        for level in SimdLevel::available() {
            for (threads, batch) in [(1, 24), (2, 7), (3, 1)] {
                let got = run(threads, level, batch);
                assert!(got == want, "{} {types:?}: {level} x{threads}, batches of {batch}", arch.name());
            }
        }
    }
}

fn fixture() -> Json {
    serde_json::from_str(include_str!("../fixtures/kv_cache/llama_cpp.json")).unwrap()
}

fn ids(json: &Json) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|t| t.as_u64().unwrap().try_into().unwrap()).collect()
}

/// The KL divergence to second order of the tokens in `want`: pairs of id and log-probability.
fn distance(want: &Json, got: &[f32]) -> f64 {
    let got = log_softmax(got);
    let terms = want.as_array().unwrap().iter().map(|entry| {
        let (id, want) = (entry[0].as_u64().unwrap() as usize, entry[1].as_f64().unwrap());
        want.exp() * (want - got[id]).powi(2) / 2.0
    });
    terms.sum()
}

#[test]
fn every_type_computes_what_llama_cpp_computes() {
    let fixture = fixture();
    let tokens = ids(&fixture["tokens"]);
    let tiny = load(Gguf::open(model("tiny-bitnet-f16.gguf")).unwrap(), 2, SimdLevel::detect());
    let by_type = fixture["types"].as_object().unwrap();
    assert_eq!(by_type.len(), KvCache::TYPES.len());
    for &ty in KvCache::TYPES {
        let rows = by_type[&ty.name().to_lowercase()].as_array().unwrap();
        let got = logits_in(&tiny, &tokens, with_types(256, [ty; 2]));
        let got = got.chunks_exact(tiny.hparams().n_vocab).skip(3).step_by(4);
        assert_eq!(rows.len(), got.len());
        let (mut sum, mut same) = (0.0, 0);
        for (row, got) in rows.iter().zip(got) {
            sum += distance(row, got);
            same += usize::from(row[0][0].as_u64().unwrap() as usize == argmax(got));
        }
        // llama.cpp rounds the queries too, to the type that goes with K's: Q8_0, which has an error of its own, or bf16. For
        // IQ4_NL it looks less far for a scale.
        let limit = match ty {
            GgmlType::F32 | GgmlType::F16 => 2e-7,
            GgmlType::BF16 => 2e-6,
            GgmlType::Q8_0 => 1e-5,
            GgmlType::IQ4_NL => 5e-3,
            _ => 2e-4,
        };
        let (mean, n) = (sum / rows.len() as f64, rows.len());
        eprintln!("{ty}: {mean:.2e}, same top token {same} of {n}");
        assert!(mean < limit && same * 10 >= n * 9, "{ty}: {mean:e}, same top token {same} of {n}");
    }
}

/// Fewer bits, less memory and larger errors; K and V each have their own type.
#[test]
fn types_take_the_memory_that_they_should() {
    let tiny = load(Gguf::open(model("tiny-bitnet-f16.gguf")).unwrap(), 1, SimdLevel::detect());
    let bytes = |types| Context::new(tiny.clone(), with_types(100, types)).unwrap().cache().bytes();
    let elements = 6 * 100 * 256;
    assert_eq!(bytes([GgmlType::F16; 2]), elements * 2 * 2);
    assert_eq!(bytes([GgmlType::F32, GgmlType::BF16]), elements * (4 + 2));
    assert_eq!(bytes([GgmlType::Q8_0, GgmlType::Q4_0]), elements / 32 * (34 + 18));
}

#[test]
fn types_that_cannot_be_are_refused() {
    // Twice as many heads, each half as wide.
    let file = open(&tiny(ARCHITECTURES[0], GgmlType::F32, false, 5));
    let heads = [("bitnet.attention.head_count", 16), ("bitnet.attention.head_count_kv", 4)];
    let overrides = heads.map(|(key, n)| (key.into(), Value::U32(n))).into();
    let options = ModelOptions { overrides, ..ModelOptions::default() };
    let tiny = Arc::new(Model::load(file, cpu(1, SimdLevel::detect()), options).unwrap());
    let refused = |types| match Context::new(tiny.clone(), with_types(16, types)) {
        Ok(_) => panic!("{types:?}"),
        Err(e) => e.to_string(),
    };
    assert_eq!(
        refused([GgmlType::F16, GgmlType::Q4_K]),
        "the V cache cannot be of type q4_k: expected one of f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, iq4_nl"
    );
    assert_eq!(
        refused([GgmlType::Q8_0, GgmlType::F16]),
        "the K cache cannot be of type q8_0: the 16 elements of a head are no whole blocks of 32"
    );
    assert!(Context::new(tiny.clone(), with_types(16, [GgmlType::F32, GgmlType::BF16])).is_ok());
}

/// Feeds the tokens that llama.cpp generated, and shifts where it shifted: the same distributions at every step.
#[test]
fn shifted_contexts_compute_what_llama_cpp_computes() {
    let fixture = fixture();
    for (name, run) in fixture["shifts"].as_object().unwrap() {
        let file = match name.as_str() {
            "bitnet" => model("tiny-bitnet-f16.gguf"),
            arch => fabric_tests::golden::fixture(&format!("archs/{arch}-f32.gguf")),
        };
        let tiny = load(Gguf::open(file).unwrap(), 2, SimdLevel::detect());
        let size = |key: &str| run[key].as_u64().unwrap() as usize;
        let (n_ctx, n_keep) = (size("n_ctx"), size("n_keep"));
        let mut context = Context::new(tiny, ContextOptions { n_ctx, ..ContextOptions::default() }).unwrap();
        let (mut row, mut shifts, mut worst) = (Vec::new(), Vec::new(), [0.0f64; 2]);
        context.decode(&Batch::of(&ids(&run["prompt"]), 0, 0), |_, logits| row = logits.to_vec()).unwrap();
        let steps = run["steps"].as_array().unwrap();
        for (i, step) in steps.iter().enumerate() {
            let shifted = usize::from(!shifts.is_empty());
            worst[shifted] = worst[shifted].max(distance(step, &row));
            let n_past = context.cache().len(0);
            if n_past + 1 >= n_ctx {
                context.shift(0, n_keep, (n_past - n_keep) / 2).unwrap();
                shifts.push(i as u64 + 1);
            }
            let token = step[0][0].as_u64().unwrap() as u32;
            let pos = context.cache().len(0);
            context.decode(&Batch::of(&[token], 0, pos), |_, logits| row = logits.to_vec()).unwrap();
        }
        let expected: Vec<u64> = run["shifts"].as_array().unwrap().iter().map(|s| s.as_u64().unwrap()).collect();
        assert!(shifts.len() >= 2 && shifts == expected, "{name}: {shifts:?}");
        eprintln!("{name}: KL at most {:.2e} before the first shift, {:.2e} after it", worst[0], worst[1]);
        // Of random weights, Qwen3's have the largest logits. K is rounded to f16 at every shift, by both: that adds little.
        assert!(worst[0] < 1e-5 && worst[1] < 2.0 * worst[0] + 1e-6, "{name}: {worst:?}");
    }
}

/// The K and V of a model of one layer know nothing of other tokens: a shift gives what the tokens that remain give, but for
/// the rounding of what is rotated twice.
#[test]
fn a_shift_of_one_layer_is_as_if_the_tokens_had_never_been() {
    let (n, keep, discard) = (40, 3, 17);
    for arch in ARCHITECTURES {
        let name = arch.name();
        let types = [(GgmlType::F32, 2e-6), (GgmlType::F16, 1e-3), (GgmlType::Q8_0, 0.03)];
        for (local, (ty, limit)) in types.into_iter().flat_map(|ty| [(0, ty), (1, ty)]) {
            let file = open(&one_layer(*arch, 5));
            let overrides = [("attention.sliding_window_pattern", 1 - local), ("rope.dimension_count", 24)];
            let overrides = overrides.map(|(key, v)| (format!("{name}.{key}"), Value::U32(v))).into();
            let tiny =
                Model::load(file, cpu(2, SimdLevel::detect()), ModelOptions { overrides, ..ModelOptions::default() })
                    .unwrap();
            let tiny = Arc::new(tiny);
            let mut text = tokens(n);
            let options = with_types(64, [ty; 2]);
            let mut context = Context::new(tiny.clone(), options).unwrap();
            context.decode(&Batch::of(&text, 0, 0), |_, _| {}).unwrap();
            context.shift(0, keep, discard).unwrap();
            assert_eq!(context.cache().len(0), n - discard);
            let mut got = Vec::new();
            context.decode(&Batch::of(&[7], 0, n - discard), |_, row| got = row.to_vec()).unwrap();
            text.drain(keep..keep + discard);
            text.push(7);
            let all = logits_in(&tiny, &text, options);
            let want = &all[all.len() - got.len()..];
            let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let error = want.iter().zip(&got).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            eprintln!("{name} {ty} {local}: {error:.2e} of {largest}");
            assert!(error <= limit * largest, "{name} {ty}: {error:e} of {largest}");
        }
    }
}

#[test]
fn shifts_that_cannot_be_are_refused() {
    let tiny = load(open(&tiny(ARCHITECTURES[0], GgmlType::F16, false, 5)), 1, SimdLevel::detect());
    let options = ContextOptions { n_ctx: 16, n_seq_max: 2, ..ContextOptions::default() };
    let mut context = Context::new(tiny, options).unwrap();
    context.decode(&Batch::of(&tokens(9), 1, 0), |_, _| {}).unwrap();
    let message = |result: Result<(), fabric_engine::Error>| result.unwrap_err().to_string();
    assert_eq!(message(context.shift(1, 4, 6)), "cannot discard 6 positions after the first 4: the sequence has 9");
    assert!(context.shift(1, usize::MAX, 2).is_err() && context.shift(2, 0, 0).is_err());
    assert_eq!(context.cache().len(1), 9);
    context.shift(1, 4, 5).unwrap();
    assert_eq!((context.cache().len(0), context.cache().len(1)), (0, 4));
}

/// Layers with a window that hold little more than it: the same bits as with all rows, less memory, and a past that is whole or
/// gone.
#[test]
fn local_layers_need_only_their_window() {
    let file = tiny(arch::find("gemma3").unwrap(), GgmlType::F16, false, 7);
    let tiny = load(open(&file), 2, SimdLevel::detect());
    let text = tokens(1300);
    let options = |n_ubatch, swa_full| ContextOptions { n_ctx: 1300, n_ubatch, swa_full, ..ContextOptions::default() };
    let want = bits(&logits_in(&tiny, &text, options(100, true)));
    for n_ubatch in [100, 512, 1] {
        assert!(bits(&logits_in(&tiny, &text, options(n_ubatch, false))) == want, "batches of {n_ubatch}");
    }
    let bytes = |swa_full| Context::new(tiny.clone(), options(100, swa_full)).unwrap().cache().bytes();
    // One layer of two is local: a window of 5, 100 tokens and 256, in steps of 256.
    assert_eq!((bytes(true), bytes(false)), (2 * 1300 * 128 * 2, (1300 + 512) * 128 * 2));

    let mut context = Context::new(tiny.clone(), ContextOptions { n_seq_max: 2, ..options(64, false) }).unwrap();
    let run = |context: &mut Context, seq, text: &[u32]| {
        let (pos, mut out) = (context.cache().len(seq), Vec::new());
        context.decode(&Batch::of(text, seq, pos).with_all_logits(), |_, row| out.extend(bits(row))).unwrap();
        out
    };
    let n = N_VOCAB as usize;
    // Two sequences that slide at different times.
    let (a, b) = text.split_at(700);
    assert!(run(&mut context, 1, a) == want[..700 * n]);
    assert!(run(&mut context, 0, &text[..900]) == want[..900 * n]);
    assert!(run(&mut context, 1, b) == want[700 * n..]);
    // Near the end it can be cut; further back nothing is left, and is run again.
    let first = 1300 / 256 * 256 - 256;
    for (len, left) in [(1290, 1290), (first + 4, first + 4), (first + 3, 0)] {
        context.cache_mut().truncate(1, len);
        assert_eq!(context.cache().len(1), left, "{len}");
        assert!(run(&mut context, 1, &text[left..]) == want[left * n..], "{len}");
    }
    assert!(context.shift(1, 4, 8).is_err());
    assert!(context.save_cache("/nowhere", 1, &text).is_err());
    context.cache_mut().clear();
    assert!(run(&mut context, 0, &text[..40]) == want[..40 * n]);
}
