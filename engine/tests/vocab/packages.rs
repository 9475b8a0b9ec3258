//! The sentencepiece and tokenizers packages implement the same algorithms: where they can follow, they must agree.

use fabric_engine::vocab::Vocab;
use gguf::Metadata;
use sentencepiece::SentencePieceProcessor;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::utils::SysRegex;

use super::{Rng, metadata, vocab};

fn varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn message(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn int(out: &mut Vec<u8>, field: u64, v: u64) {
    varint(out, field << 3);
    varint(out, v);
}

/// SentencePiece's own file format with the tokens of a GGUF file.
fn sentencepiece(metadata: &Metadata) -> Result<SentencePieceProcessor, sentencepiece::SentencePieceError> {
    let tokens = metadata.require_strings("tokenizer.ggml.tokens").unwrap();
    let scores = metadata.f32s("tokenizer.ggml.scores").unwrap().unwrap();
    let types = metadata.i32s("tokenizer.ggml.token_type").unwrap().unwrap();
    let mut model = Vec::new();
    for ((text, score), &token_type) in tokens.iter().zip(scores).zip(types) {
        let mut piece = Vec::new();
        message(&mut piece, 1, text);
        varint(&mut piece, 2 << 3 | 5);
        piece.extend(score.to_le_bytes());
        int(&mut piece, 3, u64::try_from(token_type).unwrap());
        message(&mut model, 1, &piece);
    }
    let mut trainer = Vec::new();
    int(&mut trainer, 3, 2); // BPE
    int(&mut trainer, 35, 1); // byte fallback
    message(&mut model, 2, &trainer);
    let mut normalizer = Vec::new();
    message(&mut normalizer, 1, b"identity");
    int(&mut normalizer, 3, 0); // no dummy prefix: it comes with the text
    int(&mut normalizer, 4, 0); // spaces stay
    int(&mut normalizer, 5, 1); // and become U+2581
    message(&mut model, 3, &normalizer);
    SentencePieceProcessor::from_serialized_proto(&model)
}

#[test]
fn sentencepiece_agrees() {
    let metadata = metadata("llama-spm");
    let vocab = Vocab::from_metadata(&metadata).unwrap();
    let package = sentencepiece(&metadata).unwrap();
    let mut rng = Rng(11);
    for _ in 0..1000 {
        let text = rng.text();
        let expected: Vec<u32> = package.encode(&format!(" {text}")).unwrap().iter().map(|piece| piece.id).collect();
        assert_eq!(vocab.tokenize(&text, false, false).unwrap(), expected, "{text:?}");
    }
}

#[test]
fn tokenizers_agrees() {
    let metadata = metadata("gpt-2");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let tokens = metadata.require_strings("tokenizer.ggml.tokens").unwrap();
    let merges = metadata.require_strings("tokenizer.ggml.merges").unwrap();
    let vocab_map: tokenizers::models::bpe::Vocab = tokens.iter().map(text).zip(0..).collect();
    let merges = merges.iter().map(text).map(|m| m.split_once(' ').map(|(l, r)| (l.into(), r.into())).unwrap());
    let model = BPE::builder().vocab_and_merges(vocab_map, merges.collect()).build().unwrap();
    let mut package = tokenizers::Tokenizer::new(model);
    package.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)));
    let vocab = vocab("gpt-2");
    let mut rng = Rng(12);
    for _ in 0..1000 {
        let text = rng.text();
        let expected = package.encode(text.as_str(), false).unwrap();
        assert_eq!(vocab.tokenize(&text, false, false).unwrap(), expected.get_ids(), "{text:?}");
    }
}

/// Why the algorithms are our own. When one of these fails, the package has learned something: see docs/decisions.md.
#[test]
fn what_the_packages_cannot_do() {
    // phi-3 has several tokens of type unknown.
    assert!(sentencepiece(&metadata("phi-3")).is_err());
    // A regex gives up without a word: a million spaces match `\s+`.
    let regex = SysRegex::new(r"\s*[\r\n]+|\s+(?!\S)|\s+").unwrap();
    assert_eq!(regex.find_iter(&" ".repeat(1000)).count(), 1);
    assert_eq!(regex.find_iter(&" ".repeat(1 << 20)).count(), 0);
    // A merge whose result is no token. (Without the longest token this panics.)
    let tokens =
        ["a", "b", "longest"].map(String::from).into_iter().zip(0..).collect::<tokenizers::models::bpe::Vocab>();
    assert!(BPE::builder().vocab_and_merges(tokens, vec![("a".into(), "b".into())]).build().is_err());
}
