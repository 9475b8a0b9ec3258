//! What must hold for every text.

use std::time::{Duration, Instant};

use fabric_engine::vocab::{Utf8Stream, Vocab};

use super::{Rng, VOCABS, vocab};

/// The text that the pieces of `ids` make.
fn pieces(vocab: &Vocab, ids: &[u32]) -> String {
    let mut stream = Utf8Stream::new();
    let text: String = ids.iter().map(|&id| stream.push(&vocab.token_to_piece(id, true))).collect();
    text + &stream.finish()
}

#[test]
fn text_survives_the_round_trip() {
    for name in VOCABS {
        let vocab = vocab(name);
        let mut rng = Rng(7);
        for _ in 0..400 {
            // U+2581 is SPM's own character for a space.
            let text = rng.text().replace(if vocab.add_space_prefix() { '\u{2581}' } else { '\u{E000}' }, "");
            let ids = vocab.tokenize(&text, false, false).unwrap();
            let expected = if vocab.add_space_prefix() && !text.is_empty() { format!(" {text}") } else { text };
            assert_eq!(pieces(&vocab, &ids), expected, "{name} {ids:?}");
            assert!(ids.iter().all(|&id| (id as usize) < vocab.len()));
        }
    }
}

#[test]
fn every_byte_survives_spm() {
    let vocab = vocab("llama-spm");
    let bytes: Vec<u8> = (0..=255).collect();
    let ids = vocab.tokenize_bytes(&bytes, true, true).unwrap();
    assert_eq!(vocab.detokenize(&ids[1..], false, false), bytes);
    for byte in 0..=255u8 {
        let ids = vocab.tokenize_bytes(&[byte], false, false).unwrap();
        assert_eq!(vocab.detokenize(&ids, false, false), [byte]);
    }
}

#[test]
fn large_texts_take_no_more_than_seconds() {
    const N: usize = 1 << 20;
    let english = "The quick brown fox jumps over the lazy dog, and 12345 others; don't they?\n";
    let texts = [
        english.repeat(N / english.len()),
        "a".repeat(N),
        "ab".repeat(N / 2),
        " ".repeat(N),
        " ".repeat(N) + "x",
        "\n".repeat(N),
        "!".repeat(N),
        "1".repeat(N),
        "日".repeat(N / 3),
        "<s><|eot_id|><|endoftext|>".repeat(N / 26),
        "\0".repeat(N),
    ];
    for name in ["llama-spm", "llama-bpe"] {
        let vocab = vocab(name);
        for text in &texts {
            let start = Instant::now();
            let ids = vocab.tokenize(text, false, true).unwrap();
            let text_back = pieces(&vocab, &ids);
            // Quadratic time would be hours.
            assert!(start.elapsed() < Duration::from_secs(60), "{name} {:?}", start.elapsed());
            let same = text_back.trim_start_matches(' ') == text.trim_start_matches(' ');
            assert!(same || text.starts_with('<'), "{name} {:?}", &text[..8]);
        }
    }
}

#[test]
fn tokens_in_the_text_are_parsed_only_if_asked_for() {
    let spm = vocab("llama-spm");
    assert_eq!(spm.tokenize("", true, true).unwrap(), [1]);
    assert!(spm.tokenize("", false, true).unwrap().is_empty());
    assert_eq!(spm.tokenize("<s>", true, true).unwrap(), [1, 1]);
    assert_eq!(
        spm.tokenize("Hello <s> world's  café 123456", true, true).unwrap(),
        [
            1, 15043, 29871, 1, 29871, 3186, 29915, 29879, 29871, 274, 28059, 29871, 29896, 29906, 29941, 29946, 29945,
            29953
        ]
    );
    assert_eq!(spm.tokenize("Hello <s>", false, false).unwrap(), [15043, 529, 29879, 29958]);
}

#[test]
fn ids_that_are_no_tokens_have_no_text() {
    for name in ["llama-spm", "llama-bpe"] {
        let vocab = vocab(name);
        for id in [vocab.len() as u32, u32::MAX] {
            assert!(vocab.token_to_piece(id, true).is_empty());
            assert_eq!(vocab.token_text(id), None);
            assert_eq!(vocab.token_type(id), None);
        }
        assert!(vocab.detokenize(&[u32::MAX, vocab.len() as u32], true, true).is_empty());
        assert_eq!(vocab.find(b"no such token, surely"), None);
    }
}
