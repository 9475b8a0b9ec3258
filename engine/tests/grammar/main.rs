//! Grammars against llama.cpp's masks, JSON schemas against llama.cpp and a validator, and hostile input.

mod hostile;
mod masks;
mod matching;
mod sampler;
mod schemas;

use std::path::PathBuf;
use std::sync::Arc;

use fabric_engine::grammar::{Grammar, Matcher, TokenTrie};
use fabric_engine::vocab::Vocab;
use gguf::Gguf;

fn fixture(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/grammar").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn vocab(name: &str) -> Vocab {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../models/ggml-vocab-{name}.gguf"));
    Vocab::from_metadata(Gguf::open(path).unwrap().metadata()).unwrap()
}

/// A vocabulary of the 256 bytes, and of one token, 256, that ends the text.
fn bytes() -> Arc<TokenTrie> {
    let pieces = (0..=255u8).map(|b| vec![b]).chain([b"</s>".to_vec()]);
    Arc::new(TokenTrie::of_pieces(pieces, &[256]))
}

/// Whether a grammar takes all of the text; an error where it cannot tell.
fn takes(grammar: &Arc<Grammar>, text: &str) -> Result<bool, fabric_engine::grammar::GrammarError> {
    let mut matcher = Matcher::new(grammar.clone(), bytes())?;
    for &byte in text.as_bytes() {
        if !matcher.allows(byte.into())? {
            return Ok(false);
        }
        matcher.accept(byte.into())?;
    }
    Ok(matcher.may_end())
}

fn grammar(text: &str) -> Arc<Grammar> {
    Arc::new(Grammar::parse(text, &()).unwrap_or_else(|e| panic!("{e}\n{text}")))
}

/// A small generator of numbers, so that a failure can be repeated.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n as u64) as usize
    }
}
