//! Where tokens begin, and texts that continue others.

use fabric_engine::vocab::{Tokenized, Vocab};

use super::{Rng, VOCABS, vocab};

/// Every token's piece is the text from where it begins to where the next does, but for the space that SPM puts before a
/// text, and white space that special tokens swallow.
fn check(vocab: &Vocab, text: &str, tokens: &Tokenized) {
    assert_eq!(tokens.ids.len(), tokens.starts.len());
    let ends = tokens.starts.iter().copied().skip(1).chain([text.len() as u32]);
    let mut covered = Vec::new();
    for ((&id, &start), end) in tokens.ids.iter().zip(&tokens.starts).zip(ends) {
        let of_text = &text.as_bytes()[start as usize..end as usize];
        covered.extend_from_slice(of_text);
        let piece = vocab.token_to_piece(id, true);
        let without_space = piece.strip_prefix(b" ").filter(|_| vocab.add_space_prefix());
        let is = |piece: &[u8]| of_text.strip_prefix(piece).is_some_and(|rest| rest.trim_ascii().is_empty());
        assert!(is(&piece) || without_space.is_some_and(is), "{text:?}: {piece:?} at {start}..{end}");
    }
    assert_eq!(covered, text.as_bytes());
}

#[test]
fn pieces_stand_in_the_text_where_they_are_said_to() {
    for name in VOCABS {
        let vocab = vocab(name);
        let specials: Vec<String> = (0..vocab.len() as u32)
            .filter(|&id| vocab.is_eog(id) || Some(id) == vocab.bos())
            .map(|id| String::from_utf8_lossy(vocab.token_text(id).unwrap()).into_owned())
            .collect();
        let mut rng = Rng(11);
        for i in 0..300 {
            // U+2581 is SPM's own character for a space.
            let mut text = rng.text().replace('\u{2581}', "");
            for _ in 0..i % 4 {
                let mut at = rng.below(text.len() + 1);
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                text.insert_str(at, &specials[rng.below(specials.len())]);
            }
            for special in [false, true] {
                let tokens = vocab.tokenize_with_offsets(&text, false, special).unwrap();
                assert_eq!(tokens.ids, vocab.tokenize(&text, false, special).unwrap(), "{name}");
                check(&vocab, &text, &tokens);
            }
        }
    }
}

#[test]
fn offsets_are_those_of_the_first_bytes() {
    let llama = vocab("llama-spm");
    let tokens = llama.tokenize_with_offsets("é  Hello<s> world\u{1F999}", true, true).unwrap();
    let pieces: Vec<_> = tokens.ids.iter().map(|&id| llama.token_to_piece(id, true).into_owned()).collect();
    let expected: [(&[u8], u32); 10] = [
        (b"<s>", 0),
        (" é".as_bytes(), 0),
        (b" ", 2),
        (b" Hello", 3),
        (b"<s>", 9),
        // One space is the text's, the other stands before each text.
        (b" ", 12),
        (b" world", 12),
        (b"\xF0", 18),
        (b"\x9F", 19),
        (b"\xA6", 20),
    ];
    let got: Vec<(&[u8], u32)> = pieces.iter().map(Vec::as_slice).zip(tokens.starts.iter().copied()).collect();
    assert_eq!(got[..10], expected);
    assert_eq!(got[10..], [(&b"\x99"[..], 21)]);
    let phi = vocab("phi-3");
    let tokens = phi.tokenize_with_offsets("<|user|>\n Hi<|end|>", false, true).unwrap();
    assert_eq!(tokens.starts, [0, 10, 12]);
}

#[test]
fn a_text_that_continues_another_gets_no_space() {
    for name in VOCABS {
        let vocab = vocab(name);
        let (first, second) = ("Answer: ", "No, Hello world");
        let mut ids = vocab.tokenize(first, true, false).unwrap();
        let tokens = vocab.tokenize_continuation(second, false).unwrap();
        check(&vocab, second, &tokens);
        ids.extend(tokens.ids);
        let text = vocab.detokenize(&ids, true, false);
        assert_eq!(String::from_utf8_lossy(&text).trim_start(), format!("{first}{second}"), "{name}");
    }
}
