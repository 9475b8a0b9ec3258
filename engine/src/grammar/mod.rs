//! Constrained output: grammars in llama.cpp's GBNF, and JSON schemas, which become grammars.
//!
//! [`Grammar::parse`] reads GBNF (`parser.rs`) into flat rules (`rules.rs`). A [`Matcher`] holds a grammar against a text that
//! grows by tokens: `stacks.rs` is an automaton over characters that is built as texts need it, `trie.rs` has the texts of all
//! tokens. [`Sampler`] is a chain of samplers whose choices a grammar may restrict. [`json_schema_to_gbnf`] (`schema/`)
//! writes GBNF.
//!
//! Grammars and schemas come with requests and files: no text may panic, recurse without bound, or take unbounded time or
//! memory; what would is an error.

mod error;
mod matcher;
mod parser;
mod rules;
mod sampler;
mod schema;
mod stacks;
mod trie;
mod utf8;

pub use error::{GrammarError, SampleError, SchemaError};
pub use matcher::Matcher;
pub use rules::Grammar;
pub use sampler::Sampler;
pub use schema::{Gbnf, json_schema_to_gbnf};
pub use trie::TokenTrie;

use crate::vocab::Vocab;

/// Where a grammar looks up tokens that it names by their text.
pub trait TokenNames {
    /// The token that is all of `text`, angle brackets included.
    fn token(&self, text: &str) -> Option<u32>;
}

impl TokenNames for Vocab {
    fn token(&self, text: &str) -> Option<u32> {
        match self.tokenize(text, false, true).ok()?[..] {
            [id] => Some(id),
            _ => None,
        }
    }
}

/// No tokens.
impl TokenNames for () {
    fn token(&self, _: &str) -> Option<u32> {
        None
    }
}
