//! The sampler chains against llama.cpp's: `fixtures/sampler/generate.py` recorded what llama.cpp chooses.

use fabric_engine::sampler::{
    DryBreakers, Mt19937, SamplerChain, SamplerError, SamplerParams, SamplerType, SamplerVocab,
};
use serde::Deserialize;
use serde_json::Value;

/// One chain, the history it starts from and what llama.cpp chose in each step.
#[derive(Deserialize)]
struct Case {
    params: serde_json::Map<String, Value>,
    n_vocab: usize,
    scale: f64,
    logits_seed: u32,
    prompt: Vec<u32>,
    #[serde(default)]
    breakers: Vec<Vec<u32>>,
    chain: String,
    tokens: Vec<u32>,
    alive: Vec<usize>,
    hash: Vec<u32>,
}

/// The logits of `generate.py`: sums of four 24-bit uniforms.
fn logits(seed: u32, n: usize, scale: f64) -> Vec<f32> {
    let mut rng = Mt19937::new(seed);
    (0..n)
        .map(|_| {
            let sum: i64 = (0..4).map(|_| i64::from(rng.next_u32() >> 8)).sum();
            ((sum - (2 << 24)) as f64 * (scale / f64::from(1 << 24))) as f32
        })
        .collect()
}

fn params(map: &serde_json::Map<String, Value>) -> SamplerParams {
    let mut p = SamplerParams { seed: 1, ..SamplerParams::default() };
    for (name, v) in map {
        let f = || v.as_f64().unwrap() as f32;
        let i = || i32::try_from(v.as_i64().unwrap()).unwrap();
        match name.as_str() {
            "seed" => p.seed = u32::try_from(v.as_u64().unwrap()).unwrap(),
            "samplers" => p.samplers = SamplerType::parse_chars(v.as_str().unwrap()).unwrap(),
            "min_keep" => p.min_keep = usize::try_from(i()).unwrap(),
            "temp" => p.temp = f(),
            "dynatemp_range" => p.dynatemp_range = f(),
            "dynatemp_exp" => p.dynatemp_exp = f(),
            "top_k" => p.top_k = i(),
            "top_p" => p.top_p = f(),
            "min_p" => p.min_p = f(),
            "typical" => p.typical = f(),
            "top_nsigma" => p.top_nsigma = f(),
            "xtc_probability" => p.xtc_probability = f(),
            "xtc_threshold" => p.xtc_threshold = f(),
            "repeat_last_n" => p.repeat_last_n = i(),
            "repeat_penalty" => p.repeat_penalty = f(),
            "presence_penalty" => p.presence_penalty = f(),
            "frequency_penalty" => p.frequency_penalty = f(),
            "dry_multiplier" => p.dry_multiplier = f(),
            "dry_base" => p.dry_base = f(),
            "dry_allowed_length" => p.dry_allowed_length = i(),
            "dry_penalty_last_n" => p.dry_penalty_last_n = i(),
            "mirostat" => p.mirostat = u32::try_from(i()).unwrap(),
            "mirostat_lr" => p.mirostat_lr = f(),
            "mirostat_ent" => p.mirostat_ent = f(),
            "adaptive_target" => p.adaptive_target = f(),
            "adaptive_decay" => p.adaptive_decay = f(),
            "logit_bias" => {
                let pairs: Vec<(u32, Value)> = serde_json::from_value(v.clone()).unwrap();
                let bias = |v: Value| v.as_f64().map_or(f32::NEG_INFINITY, |b| b as f32);
                p.logit_bias = pairs.into_iter().map(|(t, b)| (t, bias(b))).collect();
            }
            // given to the chain as token sequences
            "dry_sequence_breaker" => {}
            _ => panic!("unknown parameter {name} in chains.json"),
        }
    }
    p
}

fn chain(case: &Case) -> SamplerChain {
    let vocab = SamplerVocab {
        n_vocab: case.n_vocab,
        dry_breakers: DryBreakers::from_sequences(&case.breakers),
        ..SamplerVocab::default()
    };
    let mut chain = SamplerChain::new(&params(&case.params), &vocab).unwrap();
    for &token in &case.prompt {
        chain.accept(token);
    }
    chain
}

fn cases() -> Vec<Case> {
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sampler/chains.json");
    serde_json::from_str(&std::fs::read_to_string(text).unwrap()).unwrap()
}

/// Tokens chosen, with the number of candidates left and a hash of their ids, in each step.
fn run(case: &Case, chain: &mut SamplerChain) -> Vec<(u32, usize, u32)> {
    (0u32..)
        .take(case.tokens.len())
        .map(|i| {
            let row = logits(case.logits_seed + i, case.n_vocab, case.scale);
            let token = chain.sample(&row).unwrap();
            let alive = || {
                let left = chain.candidates().iter();
                left.filter(|c| c.logit != f32::NEG_INFINITY)
            };
            let hash = alive().fold(0u32, |h, c| h.wrapping_add(c.id.wrapping_mul(2_654_435_761)));
            let step = (token, alive().count(), hash);
            chain.accept(token);
            step
        })
        .collect()
}

#[test]
fn chains_choose_the_tokens_that_llama_cpp_chooses() {
    let cases = cases();
    assert!(cases.len() >= 500, "only {} cases", cases.len());
    let mut failures = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        let mut chain = chain(case);
        if chain.describe() != case.chain {
            failures.push(format!("{n}: {} != {}", chain.describe(), case.chain));
        }
        let want: Vec<_> =
            case.tokens.iter().zip(&case.alive).zip(&case.hash).map(|((&t, &a), &h)| (t, a, h)).collect();
        let got = run(case, &mut chain);
        if got != want {
            failures.push(format!("{n}: {:?} ({})\n  got  {got:?}\n  want {want:?}", case.params, case.chain));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} cases differ:\n{}",
        failures.len(),
        cases.len(),
        failures[..failures.len().min(20)].join("\n")
    );
}

#[test]
fn reset_restarts_the_stream_and_the_history() {
    for case in cases().iter().filter(|c| c.prompt.is_empty()).step_by(5) {
        let mut chain = chain(case);
        let first = run(case, &mut chain);
        chain.reset();
        assert_eq!(run(case, &mut chain), first, "{:?}", case.params);
    }
}

fn chain_of(params: &SamplerParams, n_vocab: usize) -> SamplerChain {
    let vocab = SamplerVocab { n_vocab, n_ctx: 32, eog_tokens: vec![2], ..SamplerVocab::default() };
    SamplerChain::new(params, &vocab).unwrap()
}

/// Every sampler active at once, in the default order with adaptive-p left out.
fn all_active() -> SamplerParams {
    SamplerParams {
        seed: 3,
        top_nsigma: 2.0,
        typical: 0.9,
        xtc_probability: 0.5,
        repeat_penalty: 1.1,
        presence_penalty: 0.1,
        frequency_penalty: 0.1,
        dry_multiplier: 0.8,
        repeat_last_n: -1,
        dry_penalty_last_n: -1,
        dynatemp_range: 0.5,
        ..SamplerParams::default()
    }
}

#[test]
fn describe_lists_the_chain_and_marks_inactive_samplers() {
    let line = |p: &SamplerParams| chain_of(p, 10).describe();
    assert_eq!(
        line(&SamplerParams::default()),
        "logits -> ?penalties -> ?dry -> ?top-n-sigma -> top-k -> ?typical -> top-p -> min-p -> ?xtc -> temp-ext -> dist"
    );
    assert_eq!(
        line(&SamplerParams { ignore_eos: true, ..all_active() }),
        "logits -> logit-bias -> penalties -> dry -> top-n-sigma -> top-k -> typical -> top-p -> min-p -> xtc -> \
         temp-ext -> dist"
    );
}

#[test]
fn nan_and_infinite_logits_neither_panic_nor_get_chosen() {
    let mut variants = vec![SamplerParams::default(), all_active()];
    for mirostat in [1, 2] {
        variants.push(SamplerParams { mirostat, ..all_active() });
    }
    variants.push(SamplerParams { temp: 0.0, ..all_active() });
    variants.push(SamplerParams {
        samplers: SamplerType::parse_chars("eda").unwrap(),
        adaptive_target: 0.3,
        ..all_active()
    });
    for params in &variants {
        let mut chain = chain_of(params, 8);
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        for (row, allowed) in [
            ([nan, 1.0, nan, 2.0, -inf, nan, -inf, -1.0], &[1u32, 3, 7][..]),
            ([nan, inf, 0.0, -inf, nan, nan, -inf, -1.0], &[1, 2, 7]),
            ([nan, inf, inf, f32::MAX, nan, nan, -inf, f32::MIN], &[1, 2, 3, 7]),
            ([nan, nan, nan, nan, nan, -1e38, nan, nan], &[5]),
        ] {
            for _ in 0..50 {
                let token = chain.sample(&row).unwrap();
                assert!(allowed.contains(&token), "{token} from {row:?}: {params:?}");
                chain.accept(token);
            }
        }
        for row in [[nan; 8], [-inf; 8]] {
            assert_eq!(chain.sample(&row), Err(SamplerError::NoCandidates(8)));
        }
    }
}

#[test]
fn equal_logits_are_ordered_by_token_id() {
    let greedy = SamplerParams { temp: 0.0, ..SamplerParams::default() };
    let mut row = vec![0.5f32; 5000];
    row[3000] = 4.0;
    row[1234] = 4.0;
    assert_eq!(chain_of(&greedy, 5000).sample(&row), Ok(1234));
    let top_k = SamplerParams { samplers: vec![SamplerType::TopK], top_k: 5, ..SamplerParams::default() };
    let mut chain = chain_of(&top_k, 5000);
    chain.sample(&row).unwrap();
    let ids: Vec<u32> = chain.candidates().iter().map(|c| c.id).collect();
    assert_eq!(ids, [1234, 3000, 0, 1, 2]);
}

#[test]
fn ignore_eos_and_minus_infinity_bias_exclude_tokens() {
    let params = SamplerParams {
        seed: 11,
        samplers: vec![],
        logit_bias: vec![(4, f32::NEG_INFINITY)],
        ignore_eos: true,
        ..SamplerParams::default()
    };
    let mut chain = chain_of(&params, 6);
    let chosen: std::collections::BTreeSet<u32> = (0..500).map(|_| chain.sample(&[0.0; 6]).unwrap()).collect();
    assert_eq!(chosen.into_iter().collect::<Vec<_>>(), [0, 1, 3, 5]);
}

#[test]
fn a_random_seed_is_reported_and_reproduces_the_stream() {
    let row = vec![0.0f32; 1000];
    let mut params = SamplerParams { samplers: vec![], ..SamplerParams::default() };
    let mut random = chain_of(&params, 1000);
    params.seed = random.seed();
    let mut fixed = chain_of(&params, 1000);
    for _ in 0..20 {
        assert_eq!(random.sample(&row), fixed.sample(&row));
    }
}

#[test]
fn wrong_sizes_and_ids_are_errors() {
    let mut chain = chain_of(&SamplerParams::default(), 4);
    assert_eq!(chain.sample(&[0.0; 3]), Err(SamplerError::LogitsLen { expected: 4, got: 3 }));
    // a token that is not in the vocabulary must not disturb the history
    let mut chain = chain_of(&all_active(), 4);
    chain.accept(u32::MAX);
    chain.sample(&[0.0; 4]).unwrap();
    let vocab = SamplerVocab { n_vocab: 4, ..SamplerVocab::default() };
    let params = SamplerParams { logit_bias: vec![(4, 1.0)], ..SamplerParams::default() };
    let err = SamplerChain::new(&params, &vocab).unwrap_err();
    assert!(err.to_string().contains("token id 4"), "{err}");
    let err = SamplerChain::new(&SamplerParams::default(), &SamplerVocab::default()).unwrap_err();
    assert_eq!(err, SamplerError::VocabSize(0));
}

#[test]
fn extreme_parameters_stay_bounded() {
    let params = SamplerParams {
        repeat_last_n: i32::MAX,
        dry_penalty_last_n: i32::MAX,
        dry_allowed_length: i32::MIN,
        dry_base: 3.0e38,
        dry_multiplier: 3.0e38,
        dynatemp_exp: -50.0,
        temp: f32::MIN_POSITIVE,
        top_k: i32::MAX,
        min_keep: usize::MAX,
        ..all_active()
    };
    let mut chain = chain_of(&params, 50);
    for i in 0..200 {
        match chain.sample(&logits(i, 50, 5.0)) {
            Ok(token) => chain.accept(token),
            // every token has been penalized to -inf
            Err(err) => assert_eq!(err, SamplerError::NoCandidates(50)),
        }
    }
}
