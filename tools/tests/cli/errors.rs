//! What goes wrong is told in one line, and is never a panic.

use crate::run::*;
use gguf::{Array, StringArray, Value, key};

#[test]
fn command_lines_that_are_wrong() {
    let cases: &[&[&str]] = &[
        &["--nonsense"],
        &["-xyz"],
        &["-t4"],
        &["word"],
        &["-n"],
        &["-n", "many"],
        &["-n", "-3"],
        &["-c", "-5"],
        &["-ub", "0"],
        &["-t", "1000"],
        &["-s", "-2"],
        &["--simd", "sse9"],
        &["--lora"],
        &["--lora", ""],
        &["--lora-scaled", "a.gguf"],
        &["--lora-scaled", "a.gguf:x"],
        &["--lora-scaled", "a.gguf:nan"],
        &["--samplers", "top_k;nonsense"],
        &["--sampler-seq", "kz"],
        &["--logit-bias", "5"],
        &["--logit-bias", "99999+1", "-n", "1"],
        &["--override-kv", "a=b"],
        &["--temp", "nan"],
        &["--mirostat", "3"],
        &["--repeat-penalty", "0"],
        &["--load-mode", "teleport"],
        &["--chat-template-kwargs", "[1]"],
        &["--chat-template-kwargs", "{"],
        &["--escape=perhaps"],
        &["-fa=on", "-ctk"],
        &["-cnv", "--logits-file", "x.npy"],
    ];
    let messages: Vec<String> = cases
        .iter()
        .map(|args| {
            let ran = fabric(args);
            assert_eq!(ran.stdout, "", "{args:?}");
            let message = ran.fails_with(2);
            let line = message.lines().find(|l| l.starts_with("error: ")).unwrap();
            format!("{}\n  {line}", args.join(" "))
        })
        .collect();
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn what_is_not_supported() {
    let cases: &[&[&str]] = &[
        &["--control-vector", "x.gguf"],
        &["-hf", "user/model"],
        &["--model-url", "http://x"],
        &["--rope-scaling", "yarn"],
        &["--yarn-ext-factor", "1.0"],
        &["--mmproj", "x"],
        &["-gan", "4"],
        &["--reasoning-budget", "0"],
    ];
    let messages: Vec<String> = cases
        .iter()
        .map(|args| {
            let message = fabric(&[args, &["-n", "1", "--log-disable"][..]].concat()).fails_with(1);
            format!("{}\n  {}", args.join(" "), message.trim_end())
        })
        .collect();
    insta::assert_snapshot!(messages.join("\n"));
}

/// `metadata[key]` cut to `n` elements.
fn cut(metadata: &mut gguf::Metadata, key: &str, n: usize) {
    let shorter: Value = match metadata.get(key) {
        Some(Value::Array(Array::String(a))) => a.iter().take(n).collect::<StringArray>().into(),
        Some(Value::Array(Array::F32(a))) => a[..n].to_vec().into(),
        Some(Value::Array(Array::I32(a))) => a[..n].to_vec().into(),
        other => panic!("{key}: {other:?}"),
    };
    metadata.insert(key, shorter);
}

#[test]
fn model_files_that_are_broken() {
    let tiny = tiny();
    let keep = |name: &str| Some(name.to_string());
    let without = |missing: &'static str| move |name: &str| (name != missing).then(|| name.to_string());
    let renamed = |name: &str| Some(name.replace("blk.0.attn_q.weight", "blk.0.attn_z.weight"));
    let vocab = ["tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"];
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("text", b"hello, this is no model".to_vec()),
        ("magic only", b"GGUF".to_vec()),
        ("version 9", [b"GGUF\x09\0\0\0", &tiny[8..]].concat()),
        ("cut in header", tiny[..1000].to_vec()),
        ("cut in data", tiny[..tiny.len() - 100].to_vec()),
        ("unknown architecture", tiny_with(|m| drop(m.insert(key::GENERAL_ARCHITECTURE, "nonsense")), keep)),
        ("no architecture", tiny_with(|m| drop(m.remove(key::GENERAL_ARCHITECTURE)), keep)),
        ("adapter", tiny_with(|m| drop(m.insert(key::GENERAL_TYPE, "adapter")), keep)),
        ("no block count", tiny_with(|m| drop(m.remove("bitnet.block_count")), keep)),
        ("block count of another type", tiny_with(|m| drop(m.insert("bitnet.block_count", 6u64)), keep)),
        ("absurd width", tiny_with(|m| drop(m.insert("bitnet.embedding_length", u32::MAX)), keep)),
        ("no heads", tiny_with(|m| drop(m.insert("bitnet.attention.head_count", 0u32)), keep)),
        ("missing tensor", tiny_with(|_| (), without("blk.3.ffn_down.weight"))),
        ("unknown tensor", tiny_with(|_| (), renamed)),
        ("wrong shape", tiny_with(|m| drop(m.insert("bitnet.feed_forward_length", 512u32)), keep)),
        ("smaller vocabulary", tiny_with(|m| vocab.iter().for_each(|k| cut(m, k, 4000)), keep)),
        ("scores too short", tiny_with(|m| cut(m, vocab[1], 4000), keep)),
        ("no tokenizer", tiny_with(|m| drop(m.insert(key::TOKENIZER_MODEL, "no_vocab")), keep)),
        ("unknown tokenizer", tiny_with(|m| drop(m.insert(key::TOKENIZER_MODEL, "nonsense")), keep)),
        ("BOS outside", tiny_with(|m| drop(m.insert(key::TOKENIZER_BOS_TOKEN_ID, 4096u32)), keep)),
        ("broken template", tiny_with(|m| drop(m.insert(key::TOKENIZER_CHAT_TEMPLATE, "{% if %}")), keep)),
    ];
    let dir = Dir::new();
    let messages: Vec<String> = cases
        .iter()
        .map(|(name, bytes)| {
            let file = dir.file("model.gguf", bytes);
            let ran = fabric(&["-m", &file, "-p", "x", "-n", "1", "--log-disable"]);
            assert!(ran.status.is_some(), "{name}: killed");
            let message =
                if ran.status == Some(0) { "(runs)".into() } else { ran.fails_with(1).replace(&file, "model.gguf") };
            // The list of architectures grows.
            let message = message.split(" (known:").next().unwrap_or_default();
            format!("{name}\n  {}", message.trim_end())
        })
        .collect();
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn any_cut_of_a_model_is_an_error() {
    let (tiny, dir) = (tiny(), Dir::new());
    for n in [5, 23, 24, 25, 100, 5000, 50_000, 90_000, 120_000, 1_000_000, 3_000_000] {
        let file = dir.file("model.gguf", &tiny[..n]);
        for flags in [&[][..], &["--no-mmap"]] {
            fabric(&[&["-m", &file, "-n", "1"], flags].concat()).fails_with(1);
        }
    }
}

#[test]
fn prompts_that_are_too_long() {
    let dir = Dir::new();
    let words = "word ".repeat(300);
    let message = fabric(&["-p", &words, "-n", "1"]).fails_with(1);
    assert!(message.contains("tokens, the context of 256 takes 252; make the context larger (-c "), "{message}");
    let large = dir.file("large", &b"And the king said unto him. ".repeat(40_000));
    assert!(fabric(&["-f", &large]).fails_with(1).contains("the prompt is too long"));
    // The size that the message names is enough.
    let needed = message.split_once("(-c ").unwrap().1.split_once(')').unwrap().0.to_string();
    fabric(&["-p", &words, "-n", "1", "-c", &needed]).good();
    let one_less = (needed.parse::<usize>().unwrap() - 1).to_string();
    fabric(&["-p", &words, "-n", "1", "-c", &one_less]).fails_with(1);
}

#[test]
fn contexts_that_no_memory_holds() {
    for n_ctx in ["2000000000", "4294967295"] {
        let message = fabric(&["-p", "x", "-n", "1", "-c", n_ctx]).fails_with(1);
        assert!(message.contains(&format!("cannot make a context of {n_ctx} tokens")), "{message}");
    }
    fabric(&["-p", "x", "-n", "1", "-c", "1"]).fails_with(1);
    fabric(&["-p", "x", "-n", "1", "-c", "8"]).good();
}

#[test]
fn files_that_are_not_there() {
    for flag in ["-m", "-f", "-bf", "--chat-template-file", "-sysf"] {
        for path in ["/nowhere/file", "/"] {
            let message = fabric(&[flag, path, "-cnv", "-st", "-p", "x", "-n", "1"][..]).stderr;
            // -p after -f takes its place.
            if !matches!(flag, "-f" | "-bf") {
                assert!(message.contains("error: ") && message.contains(path), "{flag}: {message}");
            } else {
                fabric(&[flag, path, "-n", "1"]).fails_with(1);
            }
        }
    }
    fabric(&["--log-file", "/nowhere/log", "-n", "1"]).fails_with(1);
}

#[test]
fn an_empty_prompt_needs_a_bos() {
    let dir = Dir::new();
    let file = dir.file("model.gguf", &tiny_with_metadata(|m| drop(m.insert(key::TOKENIZER_ADD_BOS_TOKEN, false))));
    let message = fabric(&["-m", &file, "-p", "", "-n", "1"]).fails_with(1);
    assert!(message.contains("the prompt is empty"), "{message}");
    fabric(&["-m", &file, "-p", "x", "-n", "1"]).good();
}
