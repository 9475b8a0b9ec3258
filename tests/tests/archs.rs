//! The laws that hold for every architecture, on tiny seeded models of every weight type.

use fabric_cpu::simd::SimdLevel;
use fabric_engine::arch::{self, ARCHITECTURES};
use fabric_engine::{Batch, BatchToken, Context, ContextOptions, Model, ModelOptions};
use fabric_tests::backends::cpu;
use fabric_tests::models::{N_VOCAB, bits, load, logits, tiny, tiny_with};
use gguf::{Array, GgmlType, Gguf, TensorRole, Value};
use std::sync::Arc;

/// Every type with a codec, and the ternary ones with one scale.
fn types() -> impl Iterator<Item = (GgmlType, bool)> {
    let own = ggml_ops::quants::ALL.iter().map(|&ty| (ty, false));
    own.chain([(GgmlType::TQ1_0, true), (GgmlType::TQ2_0, true)])
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + 11) % N_VOCAB).collect()
}

fn open(bytes: &[u8]) -> Gguf {
    Gguf::from_bytes(bytes.to_vec()).unwrap()
}

/// Levels, threads and cuts of the prompt: the same bits.
#[test]
fn settings_do_not_change_a_bit() {
    let tokens = tokens(24);
    for (i, arch) in ARCHITECTURES.iter().enumerate() {
        // Ternary types on each architecture, each of the others on one.
        let is_due = |at: usize, ty| matches!(ty, GgmlType::TQ1_0 | GgmlType::TQ2_0) || at % ARCHITECTURES.len() == i;
        for (_, (ty, uniform)) in types().enumerate().filter(|&(at, (ty, _))| is_due(at, ty)) {
            let file = tiny(*arch, ty, uniform, 7);
            let want = bits(&logits(&load(open(&file), 1, SimdLevel::Scalar), &tokens, 24));
            for level in SimdLevel::available() {
                // Each number of threads and each cut once: tests/golden.rs has all pairs, on a real model.
                for (threads, batch) in [(1, 24), (2, 7), (3, 1)] {
                    let got = bits(&logits(&load(open(&file), threads, level), &tokens, batch));
                    let name = arch.name();
                    assert!(got == want, "{name} {ty} uniform {uniform}: {level} x{threads}, batches of {batch}");
                }
            }
        }
    }
}

/// TQ1_0 and TQ2_0 hold the same numbers, so they give the same bits.
#[test]
fn both_ternary_types_agree() {
    let tokens = tokens(23);
    for arch in ARCHITECTURES {
        for uniform in [true, false] {
            let run = |ty| {
                let model = load(open(&tiny(*arch, ty, uniform, 3)), 2, SimdLevel::detect());
                bits(&logits(&model, &tokens, 9))
            };
            assert!(run(GgmlType::TQ1_0) == run(GgmlType::TQ2_0), "{} uniform {uniform}", arch.name());
        }
    }
}

/// Several sequences in one batch, interleaved: each as if it were alone.
#[test]
fn sequences_do_not_see_each_other() {
    for arch in ARCHITECTURES {
        let model = load(open(&tiny(*arch, GgmlType::TQ2_0, true, 5)), 2, SimdLevel::detect());
        let texts: Vec<Vec<u32>> =
            (0..3u32).map(|s| tokens(10 + s as usize).iter().map(|t| (t + s) % N_VOCAB).collect()).collect();
        let options = ContextOptions { n_ctx: 16, n_seq_max: 3, n_ubatch: 8, ..ContextOptions::default() };
        let mut context = Context::new(model.clone(), options).unwrap();
        let mut batch = Batch::default();
        for pos in 0..12 {
            for (seq, text) in texts.iter().enumerate().filter(|(_, t)| pos < t.len()) {
                batch.tokens.push(BatchToken { token: text[pos], seq, pos, logits: true });
            }
        }
        let mut got = vec![Vec::new(); 3];
        context.decode(&batch, |i, row| got[batch.tokens[i].seq].extend(bits(row))).unwrap();
        for (text, got) in texts.iter().zip(got) {
            assert!(got == bits(&logits(&model, text, 100)), "{}", arch.name());
        }
    }
}

/// After forgetting a tail, the past is as if the tail had never been.
#[test]
fn truncation_forgets() {
    let model = load(open(&tiny(ARCHITECTURES[0], GgmlType::F16, false, 5)), 1, SimdLevel::detect());
    let mut context = Context::new(model.clone(), ContextOptions { n_ctx: 32, ..ContextOptions::default() }).unwrap();
    let text = tokens(20);
    context.decode(&Batch::of(&text, 0, 0), |_, _| {}).unwrap();
    context.cache_mut().truncate(0, 8);
    let mut got = Vec::new();
    context.decode(&Batch::of(&[3, 4], 0, 8), |_, row| got = bits(row)).unwrap();
    let whole: Vec<u32> = text[..8].iter().copied().chain([3, 4]).collect();
    let want = bits(&logits(&model, &whole, 64));
    assert!(want.ends_with(&got) && !got.is_empty());
}

#[test]
fn bad_batches_are_refused_and_change_nothing() {
    let model = load(open(&tiny(ARCHITECTURES[0], GgmlType::F32, false, 5)), 1, SimdLevel::Scalar);
    let mut context = Context::new(model, ContextOptions { n_ctx: 4, ..ContextOptions::default() }).unwrap();
    let mut refuse = |batch: Batch| context.decode(&batch, |_, _| panic!("no logits")).unwrap_err().to_string();
    let messages = [
        refuse(Batch::of(&[N_VOCAB], 0, 0)),
        refuse(Batch::of(&[1], 1, 0)),
        refuse(Batch::of(&[1], 0, 2)),
        refuse(Batch::of(&[1; 5], 0, 0)),
    ];
    assert_eq!(
        messages,
        [
            "token 320 is not below the vocabulary's 320",
            "sequence 1 is not below the context's 1",
            "position 2 of sequence 0 does not follow the 0 that are there",
            "the context is full: position 4 is not below its 4",
        ]
    );
    assert!(context.cache().is_empty());
}

/// Each optional tensor (bias, scale, RoPE factors, an output of its own) is used: the logits change with it.
#[test]
fn optional_tensors_are_used() {
    let tokens = tokens(6);
    for arch in ARCHITECTURES {
        let run = |file: &[u8]| bits(&logits(&load(open(file), 1, SimdLevel::detect()), &tokens, 6));
        let without = run(&tiny(*arch, GgmlType::F32, false, 5));
        let (mut optional, mut normed) = (Vec::new(), false);
        tiny_with(*arch, GgmlType::F32, false, 5, |spec| {
            if !spec.required {
                optional.push(spec.name);
            }
            normed |= spec.name.role == TensorRole::AttnQNorm;
            spec.required
        });
        // A norm of each head of Q and K takes a scale before it out again.
        let scales = [TensorRole::AttnQ, TensorRole::AttnK];
        optional.retain(|name| !normed || scales.iter().all(|role| *name != role.scale(name.il.unwrap_or(0))));
        // These are for contexts that are longer: `rope_factors_follow_the_context`.
        optional.retain(|name| name.role != TensorRole::RopeFactorsLong);
        assert!(!optional.is_empty());
        for name in optional {
            let with = run(&tiny_with(*arch, GgmlType::F32, false, 5, |spec| spec.required || spec.name == name));
            assert!(with != without, "{}: {name} changes nothing", arch.name());
        }
    }
}

/// Factors for short contexts up to the original length, those for long ones from there on.
#[test]
fn rope_factors_follow_the_context() {
    let arch = arch::find("phi3").unwrap();
    let tokens = tokens(12);
    let run = |keep: &[TensorRole], n_ctx: usize, original: u32| {
        let file = tiny_with(arch, GgmlType::F32, false, 5, |s| s.required || keep.contains(&s.name.role));
        let key = "phi3.rope.scaling.original_context_length".to_owned();
        let options = ModelOptions { overrides: vec![(key, Value::U32(original))], ..ModelOptions::default() };
        let model = Arc::new(Model::load(open(&file), cpu(1, SimdLevel::detect()), options).unwrap());
        let mut context = Context::new(model, ContextOptions { n_ctx, ..ContextOptions::default() }).unwrap();
        let mut out = Vec::new();
        context.decode(&Batch::of(&tokens, 0, 0).with_all_logits(), |_, row| out.extend(bits(row))).unwrap();
        out
    };
    let (short, long) = (TensorRole::RopeFactorsShort, TensorRole::RopeFactorsLong);
    let (none, both) = (run(&[], 16, 16), [short, long]);
    let (with_short, with_long) = (run(&[short], 16, 16), run(&[long], 17, 16));
    assert!(with_short != none && with_long != none && with_short != with_long);
    assert!(run(&both, 16, 16) == with_short && run(&both, 16, 15) == with_long && run(&both, 17, 16) == with_long);
    assert!(run(&[short], 17, 16) == none && run(&[long], 16, 16) == none);
}

fn tiny_gemma3(overrides: &[(&str, Value)]) -> Result<Arc<Model>, fabric_engine::Error> {
    let file = open(&tiny(arch::find("gemma3").unwrap(), GgmlType::F32, false, 5));
    let overrides = overrides.iter().map(|(k, v)| (format!("gemma3.{k}"), v.clone())).collect();
    Model::load(file, cpu(1, SimdLevel::detect()), ModelOptions { overrides, ..ModelOptions::default() }).map(Arc::new)
}

/// Through two layers that each show 5 tokens, a token reaches 8 tokens ahead and no further.
#[test]
fn a_sliding_window_ends_where_it_should() {
    let run = |model: &Arc<Model>, first: u32| {
        let mut tokens = tokens(24);
        tokens[0] = first;
        bits(&logits(model, &tokens, 7))
    };
    let reach = |overrides: &[(&str, Value)]| {
        let model = tiny_gemma3(overrides).unwrap();
        let n = N_VOCAB as usize;
        let (a, b) = (run(&model, 3), run(&model, 4));
        a.chunks_exact(n).zip(b.chunks_exact(n)).rposition(|(a, b)| a != b)
    };
    let all_local = ("attention.sliding_window_pattern", Value::U32(0));
    assert_eq!(reach(std::slice::from_ref(&all_local)), Some(8));
    assert_eq!(reach(&[all_local, ("attention.sliding_window", Value::U32(3))]), Some(4));
    assert_eq!(reach(&[("attention.sliding_window_pattern", Value::Array(Array::Bool(vec![true, true])))]), Some(8));
    // The second layer sees everything.
    assert_eq!(reach(&[]), Some(23));
    assert_eq!(reach(&[("attention.sliding_window", Value::U32(0))]), Some(23));
}

/// Keys that call for what is not computed are refused by name.
#[test]
fn what_gemma3_cannot_do_is_refused() {
    let refuse = |key: &str, value: Value| tiny_gemma3(&[(key, value)]).err().unwrap().to_string();
    assert_eq!(
        refuse("final_logit_softcapping", Value::F32(30.0)),
        "key gemma3.final_logit_softcapping is 30, expected 0 (soft caps of logits are not supported)"
    );
    assert_eq!(
        refuse("attention.sliding_window_pattern", Value::Array(Array::Bool(vec![true; 3]))),
        "key gemma3.attention.sliding_window_pattern is 3, expected a number, or one for each of 2 layers"
    );
}
