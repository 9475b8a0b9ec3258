//! Uses all of a grammar, schema, chat template or dataset, however bad it is. The fuzz targets share this with the tests.

use std::sync::{Arc, LazyLock};

use fabric_engine::chat_template::{ChatMessage, ChatTemplate};
use fabric_engine::grammar::{Grammar, GrammarError, Matcher, TokenTrie, json_schema_to_gbnf};
use fabric_engine::train::dataset::{Dataset, DatasetOptions};
use fabric_engine::vocab::Vocab;
use gguf::Gguf;
use serde_json::Map;

/// Single bytes, some longer tokens, half characters, and one that ends the text.
static TOKENS: LazyLock<Arc<TokenTrie>> = LazyLock::new(|| {
    let mut pieces: Vec<Vec<u8>> = (0..=255).map(|b| vec![b]).collect();
    let more: [&[u8]; 12] =
        [b"", b"</s>", b"{\"", b"\": ", b"\",", b"  ", b"ab", b"true", "é".as_bytes(), b"a\xE2\x82", b"\xAC", b"}}]"];
    pieces.extend(more.map(<[u8]>::to_vec));
    Arc::new(TokenTrie::of_pieces(pieces, &[257]))
});

/// Reads the grammar and walks through it at random; texts that are complete go to `complete`.
fn walk(text: &str, seed: &mut u64, n_steps: usize, mut complete: impl FnMut(&[u8])) -> Result<(), GrammarError> {
    let grammar = Arc::new(Grammar::parse(text, &())?);
    let mut matcher = Matcher::new(grammar, TOKENS.clone())?;
    let mut written = Vec::new();
    for step in 0..n_steps {
        if matcher.may_end() {
            complete(&written);
        }
        let mask = matcher.mask()?;
        let allowed: Vec<u32> = (0..268).filter(|id| mask[*id as usize / 64] >> (id % 64) & 1 == 1).collect();
        let mut logits = [0.0; 268];
        if allowed.is_empty() {
            assert_eq!(matcher.apply(&mut logits), Err(GrammarError::NoToken));
            break;
        }
        let mut random = || {
            *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (*seed >> 33) as usize
        };
        let other = random() as u32 % 268;
        assert_eq!(matcher.allows(other)?, allowed.contains(&other), "token {other} after {written:?}");
        // What closes something is likely, so that texts come to an end.
        let closing =
            allowed.iter().find(|id| b"}])\"".contains(&(**id as u8)) && **id < 256).filter(|_| random() % 3 == 0);
        let token = closing.copied().unwrap_or_else(|| allowed[random() % allowed.len()]);
        if step == 7 {
            matcher = matcher.clone();
        }
        matcher.accept(token)?;
        if token == 257 {
            break;
        }
        let piece: &[u8] = match token {
            0..256 => &[token as u8],
            _ => [
                &b""[..],
                b"",
                b"{\"",
                b"\": ",
                b"\",",
                b"  ",
                b"ab",
                b"true",
                "é".as_bytes(),
                b"a\xE2\x82",
                b"\xAC",
                b"}}]",
            ][token as usize - 256],
        };
        written.extend_from_slice(piece);
        if let Err(e) = std::str::from_utf8(&written) {
            assert_eq!(e.error_len(), None, "no UTF-8: {written:?}");
        }
    }
    matcher.reset()?;
    matcher.mask().map(drop)
}

/// A grammar.
pub fn grammar(text: &str) {
    let mut seed = text.len() as u64;
    // An error is an answer.
    let _ = walk(text, &mut seed, 24, |_| {});
}

/// A JSON schema: what its grammar makes is JSON.
pub fn schema(text: &str) {
    let Ok(gbnf) = json_schema_to_gbnf(text) else { return };
    let mut seed = text.len() as u64;
    let walked = walk(&gbnf.text, &mut seed, 100, |written| {
        if let Err(e) = serde_json::from_slice::<serde_json::Value>(written) {
            let deep = e.to_string().contains("recursion limit");
            assert!(deep, "{e}: {:?}\n{text}", String::from_utf8_lossy(written));
        }
    });
    match walked {
        Ok(()) | Err(GrammarError::LeftRecursion { .. } | GrammarError::TooAmbiguous { .. }) => {}
        Err(GrammarError::TooComplex { .. }) => {}
        Err(e) => panic!("{e}\n{text}\n{}", gbnf.text),
    }
}

/// A chat template.
pub fn chat_template(text: &str) {
    let Ok(template) = ChatTemplate::new(text, "<s>", "</s>") else { return };
    let messages =
        ["system", "user", "assistant", "user"].map(|role| ChatMessage::new(role, format!("{role} \u{e9}\n")));
    for add in [false, true] {
        let _ = template.apply(&messages, add, &Map::new());
    }
}

static VOCAB: LazyLock<Vocab> = LazyLock::new(|| {
    // The fuzz targets lie one folder deeper.
    let folders = ["../models", "../../models"].map(|up| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(up));
    let path =
        folders.map(|folder| folder.join("ggml-vocab-qwen2.gguf")).into_iter().find(|path| path.exists()).unwrap();
    Vocab::from_metadata(Gguf::open(path).unwrap().metadata()).unwrap()
});

/// A dataset, as text and as JSONL.
pub fn dataset(text: &str) {
    let dir = tempfile::tempdir().unwrap();
    for (name, assistant_loss_only) in [("a.txt", false), ("a.jsonl", false), ("b.jsonl", true)] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let options = DatasetOptions {
            n_ctx: 16,
            assistant_loss_only,
            skip_bad_lines: text.len().is_multiple_of(2),
            pack: text.len().is_multiple_of(3),
            ..DatasetOptions::default()
        };
        if let Ok(dataset) = Dataset::load(&path, &VOCAB, None, &options) {
            for windows in [&dataset.train, &dataset.val] {
                assert!(windows.iter().all(|window| window.tokens.len() <= 16));
            }
        }
    }
}
