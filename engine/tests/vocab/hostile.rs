//! Files with broken vocabularies: an error that says what is wrong, and never a panic.

use fabric_engine::vocab::{TokenType, Vocab, VocabError};
use gguf::{Metadata, StringArray, Value};

use super::metadata;

fn strings(texts: &[&str]) -> StringArray {
    texts.iter().collect()
}

/// A small SPM vocabulary with the 26 letters, "ab" and "abc".
fn spm() -> Metadata {
    let mut tokens = strings(&["<unk>", "<s>", "</s>", "\u{2581}"]);
    ('a'..='z').for_each(|c| tokens.push(c.to_string().as_bytes()));
    tokens.push(b"ab");
    tokens.push(b"abc");
    let n = tokens.len();
    let mut types = vec![1i32; n];
    types[..3].copy_from_slice(&[2, 3, 3]);
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", "llama");
    metadata.insert("tokenizer.ggml.tokens", tokens);
    metadata.insert("tokenizer.ggml.scores", vec![0f32; n]);
    metadata.insert("tokenizer.ggml.token_type", types);
    metadata
}

fn bpe() -> Metadata {
    let mut metadata = spm();
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata.insert("tokenizer.ggml.pre", "gpt-2");
    metadata.insert("tokenizer.ggml.merges", strings(&["a b", "ab c"]));
    metadata
}

/// The error that a change brings about.
fn error(mut metadata: Metadata, key: &str, value: impl Into<Value>) -> String {
    metadata.insert(key, value);
    match Vocab::from_metadata(&metadata) {
        Ok(_) => panic!("{key}: no error"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn the_small_vocabularies_work() {
    for metadata in [spm(), bpe()] {
        let vocab = Vocab::from_metadata(&metadata).unwrap();
        let text = if vocab.add_space_prefix() { "abcb" } else { "\u{2581}abcb" };
        let expected: &[u32] = if vocab.add_space_prefix() { &[3, 31, 5] } else { &[31, 5] };
        assert_eq!(vocab.tokenize(text, false, false).unwrap(), expected);
        assert_eq!(vocab.token_type(1), Some(TokenType::Control));
    }
}

#[test]
fn missing_keys() {
    for (metadata, key) in
        [(spm(), "tokenizer.ggml.model"), (spm(), "tokenizer.ggml.tokens"), (bpe(), "tokenizer.ggml.merges")]
    {
        let mut metadata = metadata;
        metadata.remove(key);
        let error = Vocab::from_metadata(&metadata).err().unwrap().to_string();
        assert!(error.contains(key) && error.contains("missing"), "{error}");
    }
    for key in ["tokenizer.ggml.scores", "tokenizer.ggml.token_type"] {
        let mut metadata = spm();
        metadata.remove(key);
        Vocab::from_metadata(&metadata).unwrap();
    }
}

#[test]
fn arrays_of_the_wrong_type() {
    for (key, expected) in [
        ("tokenizer.ggml.tokens", "str[]"),
        ("tokenizer.ggml.scores", "f32[]"),
        ("tokenizer.ggml.token_type", "i32[]"),
        ("tokenizer.ggml.merges", "str[]"),
    ] {
        for wrong in [Value::from(vec![1u8; 64]), Value::from(7u32)] {
            let got = wrong.type_name();
            let error = error(bpe(), key, wrong);
            assert!([key, expected, got].iter().all(|part| error.contains(part)), "{error}");
        }
    }
    let error = error(spm(), "tokenizer.ggml.add_bos_token", 1u32);
    assert!(error.contains("add_bos_token") && error.contains("bool"), "{error}");
}

#[test]
fn arrays_of_the_wrong_length() {
    assert!(error(spm(), "tokenizer.ggml.tokens", StringArray::new()).contains("no tokens"));
    for (key, short) in [
        ("tokenizer.ggml.scores", Value::from(vec![0f32; 31])),
        ("tokenizer.ggml.token_type", Value::from(vec![1i32; 31])),
    ] {
        let error = error(spm(), key, short);
        assert!([key, "31", "32"].iter().all(|part| error.contains(part)), "{error}");
    }
    // Longer ones are taken, as in llama.cpp; so are scores that are integers.
    let mut metadata = spm();
    metadata.insert("tokenizer.ggml.scores", vec![0i32; 40]);
    metadata.insert("tokenizer.ggml.token_type", vec![1i32; 40]);
    assert_eq!(Vocab::from_metadata(&metadata).unwrap().len(), 32);
}

#[test]
fn bad_tokens_scores_and_merges() {
    let mut tokens: Vec<String> = (0..32).map(|i| format!("t{i}")).collect();
    tokens[31] = "t5".into();
    let duplicate = error(spm(), "tokenizer.ggml.tokens", tokens.iter().collect::<StringArray>());
    assert!(["\"t5\"", "5", "31"].iter().all(|part| duplicate.contains(part)), "{duplicate}");

    let mut scores = vec![0f32; 32];
    scores[3] = f32::NAN;
    assert!(error(spm(), "tokenizer.ggml.scores", scores).contains("token 3"));

    for bad in ["ab", "", " ", " a", "a "] {
        let error = error(bpe(), "tokenizer.ggml.merges", strings(&["a b", bad]));
        assert!(error.contains("tokenizer.ggml.merges") && error.contains("merge 1"), "{error}");
    }
}

#[test]
fn unknown_names() {
    let long = "x".repeat(1 << 20);
    for (metadata, key) in [(spm(), "tokenizer.ggml.model"), (bpe(), "tokenizer.ggml.pre")] {
        for name in ["no-such", &long] {
            let error = error(metadata.clone(), key, name);
            assert!(error.contains(key) && error.contains(&name[..7]) && error.len() < 300, "{error}");
        }
    }
}

#[test]
fn special_ids_out_of_range() {
    let mut metadata = spm();
    metadata.insert("tokenizer.ggml.eos_token_id", u32::MAX);
    let vocab = Vocab::from_metadata(&metadata).unwrap();
    assert_eq!(vocab.eos(), Some(2));
    assert!(vocab.warnings()[0].contains("4294967295"), "{:?}", vocab.warnings());

    // With a single token the default BOS, 1, does not exist.
    let error = error(spm(), "tokenizer.ggml.tokens", strings(&["x"]));
    assert!(error.contains("add_bos_token") && error.contains("bos_token_id"), "{error}");
}

#[test]
fn empty_tokens_get_a_name() {
    let mut metadata = spm();
    let texts: StringArray = (0..32).map(|i| if i % 8 == 7 { String::new() } else { format!("t{i}") }).collect();
    metadata.insert("tokenizer.ggml.tokens", texts);
    let vocab = Vocab::from_metadata(&metadata).unwrap();
    assert_eq!(vocab.token_text(7), Some(b"[EMPTY_7]".as_slice()));
    assert!(vocab.warnings()[0].contains("4 tokens are empty"), "{:?}", vocab.warnings());
}

/// llama.cpp takes such files, and falls back to single bytes.
#[test]
fn merges_of_what_is_no_token() {
    let mut metadata = bpe();
    metadata.insert("tokenizer.ggml.merges", strings(&["x y", "é q", "xy zz", "a b", "a b"]));
    let vocab = Vocab::from_metadata(&metadata).unwrap();
    assert_eq!(vocab.tokenize("xyabq", false, false).unwrap(), [27, 28, 30, 20]);
    assert!(vocab.tokenize("é", false, false).unwrap().is_empty());
    assert!(vocab.warnings()[0].contains("3 merges"), "{:?}", vocab.warnings());
    assert_eq!(vocab.len(), 32);
    assert_eq!((vocab.find(b"xy"), vocab.token_text(32)), (None, None));
}

#[test]
fn a_byte_that_no_token_stands_for() {
    let vocab = Vocab::from_metadata(&spm()).unwrap();
    assert!(matches!(vocab.tokenize("aéb", false, false), Err(VocabError::NoByteToken { byte: 0xC3 })));
}

#[test]
fn odd_types_and_texts_do_not_panic() {
    let mut metadata = spm();
    metadata.insert("tokenizer.ggml.token_type", (0..32).map(|i| i * 7 % 11 - 2).collect::<Vec<i32>>());
    metadata.insert("tokenizer.ggml.scores", vec![f32::INFINITY; 32]);
    let vocab = Vocab::from_metadata(&metadata).unwrap();
    for id in 0..40 {
        vocab.token_to_piece(id, true);
        vocab.token_to_piece(id, false);
    }
    vocab.tokenize("abcabc", true, true).unwrap();

    let mut metadata = bpe();
    let mut tokens = StringArray::new();
    (0..32u8).for_each(|i| tokens.push(&[0xC0 | i, i]));
    metadata.insert("tokenizer.ggml.tokens", tokens);
    metadata.insert("tokenizer.ggml.token_type", vec![6i32; 32]);
    let vocab = Vocab::from_metadata(&metadata).unwrap();
    assert!(vocab.tokenize("abc", false, true).unwrap().is_empty());
    (0..33).for_each(|id| assert!(vocab.token_to_piece(id, true).is_empty()));
}

/// Which tokens end generation depends on which others there are.
#[test]
fn ends_of_generation() {
    let eog = |texts: &[&str]| {
        let mut tokens = strings(&["<unk>", "<s>", "</s>"]);
        texts.iter().for_each(|text| tokens.push(text.as_bytes()));
        let mut metadata = spm();
        metadata.insert("tokenizer.ggml.tokens", tokens);
        metadata.insert("tokenizer.ggml.eos_token_id", 3u32);
        let vocab = Vocab::from_metadata(&metadata).unwrap();
        (vocab.eog_ids().to_vec(), vocab.token_type(4))
    };
    let control = Some(TokenType::Control);
    assert_eq!(eog(&["x", "<|end|>", "<|call|>"]), (vec![2, 3, 4, 5], control));
    let shown = Some(TokenType::UserDefined);
    assert_eq!(eog(&["x", "<|end|>", "<|call|>", "<|return|>"]), (vec![2, 3, 5, 6], shown));
    assert_eq!(eog(&["x", "<|end|>", "<|flush|>", "<|calls|>"]), (vec![2, 3, 5, 6], shown));
    assert_eq!(eog(&["x", "<|tool_response>"]), (vec![3, 4], control));
    assert_eq!(eog(&["x", "<fim_pad>", "<REPO>"]), (vec![2, 3, 4, 5], control));
    assert_eq!(eog(&["x", "<|message|>"]), (vec![2, 3], shown));
}

/// White space around some tokens is dropped in the models that llama.cpp knows by name.
#[test]
fn tokens_that_swallow_white_space() {
    let plain = Vocab::from_metadata(&{
        let mut metadata = metadata("phi-3");
        metadata.insert("general.name", "other");
        metadata
    });
    let named = Vocab::from_metadata(&{
        let mut metadata = metadata("phi-3");
        metadata.insert("general.name", "Phi-3 mini");
        metadata
    });
    let (plain, named) = (plain.unwrap(), named.unwrap());
    let ids = |vocab: &Vocab, text: &str| vocab.tokenize(text, false, true).unwrap();
    assert_ne!(ids(&plain, "<|end|>\n\nx"), ids(&named, "<|end|>\n\nx"));
    assert_eq!(ids(&plain, "<|end|>x"), ids(&named, "<|end|> \t\r\nx"));
    assert_eq!(ids(&plain, "<s>\nx"), ids(&named, "<s>\nx"));
}
