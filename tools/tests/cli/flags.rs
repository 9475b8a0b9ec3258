//! Flags: that llama.cpp's are known, in its spellings, and from the environment.

use crate::run::*;
use clap::CommandFactory;
use fabric_tools::args::absent::MAIN;
use fabric_tools::args::argv::spellings;
use fabric_tools::cmd::main::MainArgs;
use std::collections::HashSet;

/// Those of llama-cli and llama-completion: common ones, samplers, completion, chat.
const LLAMA_CPP: &str = "
-m --model -mu --model-url -hf -hfr --hf-repo -hff --hf-file -hft --hf-token -dr --docker-repo --offline
-t --threads -tb --threads-batch -C --cpu-mask -Cr --cpu-range --cpu-strict --prio --poll
-Cb --cpu-mask-batch -Crb --cpu-range-batch --cpu-strict-batch --prio-batch --poll-batch
-c --ctx-size -n --predict --n-predict -b --batch-size -ub --ubatch-size --keep -fa --flash-attn
-p --prompt -f --file -bf --binary-file -e --escape --no-escape
--rope-scaling --rope-scale --rope-freq-base --rope-freq-scale
--yarn-orig-ctx --yarn-ext-factor --yarn-attn-factor --yarn-beta-fast --yarn-beta-slow
-ctk --cache-type-k -ctv --cache-type-v -kvo --kv-offload -nkvo --no-kv-offload --swa-full -np --parallel
-lm --load-mode --mmap --no-mmap --mlock --numa -dev --device --list-devices -ngl --gpu-layers --n-gpu-layers
-sm --split-mode -ts --tensor-split -mg --main-gpu -fit --fit -fitt --fit-target -fitc --fit-ctx
-ot --override-tensor -cmoe --cpu-moe -ncmoe --n-cpu-moe --check-tensors --override-kv
--lora --lora-scaled --control-vector --control-vector-scaled --control-vector-layer-range
--repack -nr --no-repack --perf --no-perf --warmup --no-warmup
--log-file --log-colors --log-verbosity -lv --verbosity -v --verbose --log-verbose --log-disable --log-jsonl
--log-prefix --no-log-prefix --log-timestamps --no-log-timestamps --version -h --help

-s --seed --samplers --sampler-seq --sampling-seq --temp --temperature --top-k --top-p --min-p --typical --typical-p
--top-nsigma --top-n-sigma --xtc-probability --xtc-threshold --repeat-last-n --repeat-penalty
--presence-penalty --frequency-penalty --dry-multiplier --dry-base --dry-allowed-length --dry-penalty-last-n
--dry-sequence-breaker --dynatemp-range --dynatemp-exp --mirostat --mirostat-lr --mirostat-ent
--adaptive-target --adaptive-decay -l --logit-bias --ignore-eos
--grammar --grammar-file -j --json-schema -jf --json-schema-file -bs --backend-sampling

-no-cnv --no-conversation -cnv --conversation -st --single-turn -sys --system-prompt -sysf --system-prompt-file
-i --interactive -if --interactive-first -r --reverse-prompt -mli --multiline-input
--in-prefix --in-prefix-bos --in-suffix -sp --special --display-prompt --no-display-prompt --verbose-prompt
-co --color --prompt-cache --prompt-cache-all --prompt-cache-ro --context-shift --no-context-shift
-gan --grp-attn-n -gaw --grp-attn-w --jinja --no-jinja --chat-template --chat-template-file --chat-template-kwargs
--reasoning-format -rea --reasoning --reasoning-budget -ptc --print-token-count --simple-io

--show-timings --no-show-timings --server-base --image --audio -mm --mmproj
";

#[test]
fn every_flag_of_llama_cpp_is_known_once() {
    let mut command = MainArgs::command();
    command.build();
    let here = command.get_arguments().flat_map(|a| spellings(a).into_iter().map(|(s, _)| s));
    let absent = MAIN.iter().flat_map(|row| row.spellings.iter().map(ToString::to_string));
    let all: Vec<String> = here.chain(absent).collect();
    let known: HashSet<&str> = all.iter().map(String::as_str).collect();
    assert_eq!(known.len(), all.len(), "a spelling is there twice");
    let missing: Vec<_> = LLAMA_CPP.split_whitespace().filter(|f| !known.contains(f)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn help() {
    let ran = fabric(&["--help"]);
    assert!(ran.stderr.is_empty());
    let help = ran.good();
    assert!(help.lines().all(|line| line.chars().count() <= 80), "80 columns");
    assert_eq!(fabric(&["-h"]).good(), help);
    insta::assert_snapshot!(help);
}

#[test]
fn version_and_devices() {
    let ran = fabric(&["--version"]);
    assert!(ran.stdout.is_empty(), "on stderr, as in llama.cpp");
    assert!(ran.stderr.starts_with("version: "), "{}", ran.stderr);
    assert_eq!(ran.status, Some(0));
    assert!(fabric(&["--list-devices"]).good().starts_with("Available devices:\n  CPU: "));
}

#[test]
fn flags_with_one_dash_and_negative_values() {
    let ran = fabric(&[
        "-no-cnv", "-ub", "64", "-sm", "layer", "-fa", "-c", "32", "-s", "-1", "-n", "-2", "--temp", "-1", "-p", "-x",
    ]);
    assert!(ran.stderr.contains("warning: -sm has no effect"), "{}", ran.stderr);
    assert!(ran.stderr.contains("n_ctx = 32, n_batch = 2048, n_predict = -2"), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("warning: ").count(), 2);
    assert!(ran.good().starts_with(" -x"));
}

#[test]
fn flags_from_the_environment() {
    let run = |env: &[(&str, &str)], args: &[&str]| -> Ran {
        let mut command = command(args);
        command.envs(env.iter().copied());
        command.output().unwrap().into()
    };
    let env = [
        ("LLAMA_ARG_N_PREDICT", "3"),
        ("LLAMA_ARG_TEMPERATURE", "0"),
        ("LLAMA_ARG_CTX_SIZE", "64"),
        ("FABRIC_SIMD", "scalar"),
    ];
    let ran = run(&env, &["-p", "And the king said"]);
    assert!(ran.stderr.contains("n_ctx = 64, n_batch = 2048, n_predict = 3"), "{}", ran.stderr);
    assert!(ran.stderr.contains("temp = 0.000") && ran.stderr.contains("scalar"), "{}", ran.stderr);
    assert_eq!(ran.stdout, " And the king said unto him,\n\n");
    let ran = run(&env, &["-p", "And the king said", "-n", "1", "--simd", "scalar"]);
    assert_eq!(ran.good(), " And the king said unto\n\n", "the command line wins");
    for (word, there) in [
        ("true", true),
        ("1", true),
        ("on", true),
        ("enabled", true),
        ("false", false),
        ("0", false),
        ("off", false),
        ("disabled", false),
    ] {
        let ran = run(&[("LLAMA_ARG_PERF", word)], &["-n", "0"]);
        assert_eq!(ran.stderr.contains("common_perf_print"), there, "{word}");
    }
    let wins = run(&[("LLAMA_ARG_PERF", "on")], &["-n", "0", "--no-perf"]);
    assert!(!wins.stderr.contains("common_perf_print"));
    run(&[("LLAMA_ARG_PERF", "perhaps")], &["-n", "0"]).fails_with(2);
    run(&[("LLAMA_ARG_THREADS", "many")], &["-n", "0"]).fails_with(2);
    run(&[("LLAMA_ARG_CACHE_TYPE_K", "q8_0"), ("LLAMA_ARG_CACHE_TYPE_V", "f32")], &["-n", "0"]).good();
    run(&[("LLAMA_ARG_CACHE_TYPE_K", "q9_0")], &["-n", "0"]).fails_with(2);
    run(&[("LLAMA_ARG_SWA_FULL", "1"), ("LLAMA_ARG_CONTEXT_SHIFT", "on")], &["-n", "0"]).good();
    run(&[("LLAMA_ARG_SWA_FULL", "some")], &["-n", "0"]).fails_with(2);
    run(&[("LLAMA_ARG_MODEL", "/nowhere.gguf")], &["-n", "0"]).fails_with(1);
}

#[test]
fn metadata_can_be_overridden() {
    let greedy = |flags: &[&str]| fabric(&[&["-p", "And the king said", "-n", "12", "--temp", "0"], flags].concat());
    let plain = greedy(&[]).good();
    // A key that the file does not have: another activation, another text.
    assert_ne!(greedy(&["--override-kv", "bitnet.hidden_activation=str:relu2"]).good(), plain);
    assert_eq!(greedy(&["--override-kv", "bitnet.hidden_activation=str:silu,general.name=str:x"]).good(), plain);
    let wrong = greedy(&["--override-kv", "bitnet.block_count=float:1"]);
    assert!(
        wrong.stderr.contains("warning: --override-kv bitnet.block_count: the file's value is of type u32, not float"),
        "{}",
        wrong.stderr
    );
    assert_eq!(wrong.good(), plain);
    let fewer = greedy(&["--override-kv", "bitnet.block_count=int:5"]).fails_with(1);
    assert!(fewer.contains("blk.5."), "{fewer}");
    assert_ne!(greedy(&["--rope-freq-base", "500"]).good(), plain);
    assert_eq!(greedy(&["--rope-freq-base", "10000", "--rope-scale", "1"]).good(), plain);
    let scaled = greedy(&["--rope-scale", "4"]).good();
    assert_ne!(scaled, plain);
    assert_eq!(greedy(&["--rope-freq-scale", "0.25"]).good(), scaled);
    assert_eq!(greedy(&["--rope-scale", "4", "--rope-scaling", "none"]).good(), plain);
}

#[test]
fn types_of_the_cache() {
    let dir = Dir::new();
    let file = dir.path("logits.npy");
    let base = ["-p", "And the king said unto him", "-n", "0", "--logits-file", &file];
    let run = |flags: &[&str]| fabric(&[&base[..], flags].concat());
    // Text may stay the same where every logit has changed.
    let logits = |flags: &[&str]| {
        run(flags).good();
        std::fs::read(&file).unwrap()
    };
    let plain = logits(&[]);
    assert!(logits(&["-ctk", "f16", "--cache-type-v", "f16"]) == plain);
    let changed = [["-ctk", "q4_0"], ["-ctv", "q4_0"], ["-ctk", "q8_0"], ["-ctv", "bf16"]].map(|flags| logits(&flags));
    for (i, one) in changed.iter().enumerate() {
        assert!(*one != plain && !changed[..i].contains(one), "{i}");
    }
    let wrong = run(&["-ctk", "q3_K"]).fails_with(2);
    assert!(wrong.contains("expected one of f32, f16, bf16, q8_0, q4_0"), "{wrong}");
    // Heads of 16.
    let keys = ["attention.head_count", "attention.head_count_kv", "rope.dimension_count"];
    let keys = keys.map(|key| format!("bitnet.{key}=int:16")).join(",");
    let wrong = run(&["-ctv", "q8_0", "--override-kv", &keys]).fails_with(1);
    let expected = "-ctv: the V cache cannot be of type q8_0: the 16 elements of a head are no whole blocks of 32";
    assert!(wrong.contains(expected), "{wrong}");
}

#[test]
fn a_log_file_has_the_messages() {
    let dir = Dir::new();
    let file = dir.path("log");
    let ran = fabric(&["-n", "0", "--log-file", &file]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), ran.stderr);
    ran.good();
}

#[test]
fn recommended_samplers_yield_to_flags() {
    let dir = Dir::new();
    let file = dir.file(
        "m.gguf",
        &tiny_with_metadata(|m| {
            m.insert("general.sampling.temp", 0.0f32);
            m.insert("general.sampling.top_k", 7i32);
        }),
    );
    let ran = fabric(&["-m", &file, "-n", "0", "--top-k", "9"]);
    assert!(ran.stderr.contains("top_k = 9,") && ran.stderr.contains("temp = 0.000"), "{}", ran.stderr);
    ran.good();
}
