//! Ids and texts as llama.cpp has them.

use fabric_engine::vocab::Vocab;
use gguf::{Metadata, StringArray};
use serde_json::Value;

use super::{VOCABS, fixture, metadata, models, vocab};

fn json_lines(name: &str) -> Vec<Value> {
    fixture(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

fn hex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap();
    (0..digits.len() / 2).map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// llama.cpp's own test files: no special tokens are added or parsed.
#[test]
fn inp_and_out_files() {
    for name in VOCABS {
        let vocab = vocab(name);
        let read = |ext| std::fs::read_to_string(models().join(format!("ggml-vocab-{name}.gguf.{ext}"))).unwrap();
        let (inp, out) = (read("inp"), read("out"));
        let mut texts: Vec<&str> = inp.split("\n__ggml_vocab_test__\n").collect();
        let expected: Vec<Vec<u32>> =
            out.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
        // The separator ends the last test, too.
        assert_eq!(texts.pop(), Some(""), "{name}");
        assert_eq!((texts.len(), expected.len()), (46, 46), "{name}");
        for (text, expected) in texts.iter().zip(&expected) {
            assert_eq!(&vocab.tokenize(text, false, false).unwrap(), expected, "{name} {text:?}");
        }
    }
}

/// 300 odd texts for each vocabulary. Their `detokenized` is the pieces joined, special tokens shown.
#[test]
fn recorded_cases() {
    for name in VOCABS {
        let vocab = vocab(name);
        let cases = json_lines(&format!("{name}.cases.jsonl"));
        assert_eq!(cases.len(), 300, "{name}");
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let (add, parse) = (case["add_special"].as_bool().unwrap(), case["parse_special"].as_bool().unwrap());
            let expected = ids(&case["ids"]);
            assert_eq!(vocab.tokenize(text, add, parse).unwrap(), expected, "{name} {case}");
            let pieces: Vec<u8> = expected.iter().flat_map(|&id| vocab.token_to_piece(id, true).into_owned()).collect();
            assert_eq!(String::from_utf8(pieces).unwrap(), case["detokenized"].as_str().unwrap(), "{name} {case}");
        }
    }
}

/// `llama_detokenize` with all combinations of its flags.
#[test]
fn recorded_detokenizations() {
    let cases = json_lines("detokenize.jsonl");
    for name in VOCABS {
        let vocab = vocab(name);
        let mut n = 0;
        for case in cases.iter().filter(|case| case["vocab"] == name) {
            let (remove, unparse) =
                (case["remove_special"].as_bool().unwrap(), case["unparse_special"].as_bool().unwrap());
            let text = vocab.detokenize(&ids(&case["ids"]), remove, unparse);
            assert_eq!(String::from_utf8_lossy(&text), String::from_utf8_lossy(&hex(&case["hex"])), "{case}");
            n += 1;
        }
        assert_eq!(n, 24, "{name}");
    }
}

/// Texts that are not UTF-8.
#[test]
fn recorded_bytes() {
    for name in ["llama-spm", "llama-bpe"] {
        let vocab = vocab(name);
        for case in json_lines("bytes.jsonl").iter().filter(|case| case["vocab"] == name) {
            assert_eq!(vocab.tokenize_bytes(&hex(&case["hex"]), false, false).unwrap(), ids(&case["ids"]), "{case}");
        }
    }
}

/// A vocabulary of all bytes and all pairs of them, ranked in a fixed disorder, so that the ends of pieces show in the
/// ids, and of one token that no merge makes.
fn pairs(pre: &str) -> Metadata {
    let char_of = |byte: u8| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => byte as char,
        _ => {
            let others = (0..byte).filter(|b| !matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)).count();
            char::from_u32(0x100 + others as u32).unwrap()
        }
    };
    let mut tokens: StringArray = (0..=255).map(|byte| char_of(byte).to_string()).collect();
    let mut merges = StringArray::new();
    for i in 0..0x1_0000u32 {
        let [low, high, ..] = (i * 40503 % 0x1_0000).to_le_bytes();
        let (left, right) = (char_of(high), char_of(low));
        tokens.push(format!("{left}{right}").as_bytes());
        merges.push(format!("{left} {right}").as_bytes());
    }
    tokens.push(b"abcd");
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata.insert("tokenizer.ggml.pre", pre);
    metadata.insert("tokenizer.ggml.tokens", tokens);
    metadata.insert("tokenizer.ggml.merges", merges);
    metadata
}

/// Each pre-tokenizer that llama.cpp knows and we do, with what else depends on its name.
#[test]
fn recorded_pre_tokenizers() {
    let texts: Vec<String> = serde_json::from_str(&fixture("pre_tokenizers.texts.json")).unwrap();
    let mut n = 0;
    for case in json_lines("pre_tokenizers.jsonl") {
        let expected: Vec<Vec<u32>> = case["ids"].as_array().unwrap().iter().map(ids).collect();
        assert_eq!(expected.len(), texts.len());
        for pre in case["pre"].as_array().unwrap() {
            let vocab = Vocab::from_metadata(&pairs(pre.as_str().unwrap())).unwrap();
            for (text, expected) in texts.iter().zip(&expected) {
                assert_eq!(&vocab.tokenize(text, false, false).unwrap(), expected, "{pre} {text:?}");
            }
            let whole = vocab.tokenize("abcd", false, false).unwrap().len() == 1;
            assert_eq!(Value::from(whole), case["ignore_merges"], "{pre}");
            assert_eq!(Value::from(vocab.detokenize(&[32, 46], false, false) == b"."), case["clean_spaces"], "{pre}");
            assert_eq!(Value::from(vocab.add_bos()), case["add_bos"], "{pre}");
            assert_eq!(vocab.bos().map_or(Value::from(-1), Value::from), case["bos"], "{pre}");
            n += 1;
        }
    }
    assert_eq!(n, 69);
}

#[test]
fn special_tokens() {
    let spm = vocab("llama-spm");
    assert_eq!((spm.len(), spm.bos(), spm.eos(), spm.nl()), (32000, Some(1), Some(2), Some(13)));
    assert!(spm.add_bos() && !spm.add_eos() && spm.add_space_prefix());
    assert_eq!(spm.eog_ids(), [2]);
    let bpe = vocab("llama-bpe");
    assert_eq!((bpe.len(), bpe.bos(), bpe.eot()), (128256, Some(128000), Some(128009)));
    assert!(bpe.add_bos() && !bpe.add_space_prefix());
    assert_eq!(bpe.eog_ids(), [128001, 128009]);
    assert!(bpe.is_eog(128009) && !bpe.is_eog(128000) && !bpe.is_eog(u32::MAX));
    assert_eq!(bpe.find(b"<|eot_id|>"), Some(128009));
    assert_eq!(bpe.token_text(128009), Some(b"<|eot_id|>".as_slice()));
}

/// Files of BitNet b1.58 2B4T do not name their pre-tokenizer, which is that of Llama 3.
#[test]
fn missing_pre_tokenizer() {
    let without = |architecture: &str| {
        let mut metadata = metadata("llama-bpe");
        metadata.remove("tokenizer.ggml.pre");
        metadata.insert("general.architecture", architecture);
        Vocab::from_metadata(&metadata).unwrap()
    };
    let text = "Hello  world's 12345678\n\n  x";
    let expected = vocab("llama-bpe").tokenize(text, true, false).unwrap();
    for architecture in ["bitnet-b1.58", "bitnet"] {
        assert_eq!(without(architecture).tokenize(text, true, false).unwrap(), expected, "{architecture}");
    }
    let default = without("llama");
    assert_ne!(default.tokenize(text, true, false).unwrap(), expected);
    assert!(default.warnings()[0].contains("tokenizer.ggml.pre"), "{:?}", default.warnings());
}
