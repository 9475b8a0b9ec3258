//! Grammars, from flags.

use crate::args::grammar::GrammarArgs;
use crate::log::Log;
use crate::{Error, prompt};
use fabric_engine::grammar::{Gbnf, Grammar, GrammarError, Matcher, SchemaError, TokenTrie, json_schema_to_gbnf};
use fabric_engine::vocab::Vocab;
use std::path::Path;
use std::sync::Arc;

/// The GBNF that the flags ask for.
#[derive(Debug)]
pub struct Given<'a> {
    text: String,
    source: Source<'a>,
}

/// Where a grammar comes from.
#[derive(Clone, Copy, Debug)]
enum Source<'a> {
    Flag(&'static str),
    File(&'a Path),
}

impl Source<'_> {
    fn error(self, what: impl std::fmt::Display) -> Error {
        match self {
            Source::Flag(flag) => Error::Usage(format!("{flag}: {what}")),
            Source::File(path) => Error::GrammarFile { path: path.into(), what: what.to_string() },
        }
    }
}

/// Reads the flags and their files, and turns a schema into a grammar. No grammar is nothing, as in llama.cpp.
///
/// # Errors
/// If a file cannot be read, or a schema cannot be used.
pub fn given<'a>(args: &'a GrammarArgs, log: &Log) -> Result<Option<Given<'a>>, Error> {
    let GrammarArgs { grammar, grammar_file, json_schema, json_schema_file } = args;
    let (text, source, is_schema) = match (grammar, grammar_file, json_schema, json_schema_file) {
        (Some(text), ..) => (text.clone(), Source::Flag("--grammar"), false),
        (_, Some(path), ..) => (prompt::read_text(path)?, Source::File(path), false),
        (_, _, Some(text), _) => (text.clone(), Source::Flag("--json-schema"), true),
        (.., Some(path)) => (prompt::read_text(path)?, Source::File(path), true),
        (None, None, None, None) => return Ok(None),
    };
    let text = if is_schema {
        let Gbnf { text, warnings } = json_schema_to_gbnf(&text).map_err(|e: SchemaError| source.error(e))?;
        warnings.iter().for_each(|w| log.warning(w));
        text
    } else {
        text
    };
    Ok((!text.is_empty()).then_some(Given { text, source }))
}

impl Given<'_> {
    /// The grammar, ready to be held against tokens of the vocabulary.
    ///
    /// # Errors
    /// If the grammar cannot be used.
    pub fn matcher(&self, vocab: &Vocab) -> Result<Matcher, Error> {
        let grammar = Grammar::parse(&self.text, vocab);
        let matcher = grammar.and_then(|g| Matcher::new(Arc::new(g), Arc::new(TokenTrie::new(vocab))));
        matcher.map_err(|e: GrammarError| self.source.error(e))
    }
}
