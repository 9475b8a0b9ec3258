//! Errors of grammars and schemas.

/// Why a grammar cannot be used, or cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// The text is no GBNF.
    #[error("line {line}, column {column}: {what}")]
    Syntax {
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What was expected and what is there.
        what: String,
    },
    /// There is nothing to begin with.
    #[error("there is no rule 'root'")]
    NoRoot,
    /// A rule is used that is not there.
    #[error("line {line}, column {column}: rule '{name}' is not defined")]
    Undefined {
        /// Where it is used first, from 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// Its name.
        name: String,
    },
    /// A rule begins with itself.
    #[error("left recursion: rule '{name}' begins with itself ({path}); put what it repeats first, or use * or +")]
    LeftRecursion {
        /// Its name.
        name: String,
        /// The names of the rules from it back to it.
        path: String,
    },
    /// More elements than can be numbered.
    #[error("the grammar is too large: over {max} elements")]
    TooLarge {
        /// The limit.
        max: usize,
    },
    /// Too many ways to read the text.
    #[error("the grammar is too ambiguous: there are over {max} ways to read the text so far")]
    TooAmbiguous {
        /// The limit.
        max: usize,
    },
    /// Too much work for one token.
    #[error("the grammar is too complex: one token takes over {max} steps")]
    TooComplex {
        /// The limit.
        max: usize,
    },
    /// The text cannot go on.
    #[error("the grammar allows no token of the vocabulary here")]
    NoToken,
    /// A token was accepted that is not allowed.
    #[error("the grammar does not allow token {0} here")]
    Refused(u32),
}

/// Why a JSON schema cannot be turned into a grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// No JSON.
    #[error("{0}")]
    Json(String),
    /// Something in it cannot be, or is not supported.
    #[error("schema {path}: {what}")]
    At {
        /// JSON pointer; `#` is the whole schema.
        path: String,
        /// What was expected and what is there.
        what: String,
    },
    /// It becomes too much text.
    #[error("the schema makes a grammar of over {max} bytes")]
    TooLarge {
        /// The limit.
        max: usize,
    },
}

/// Why no token could be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// The samplers.
    #[error(transparent)]
    Sampler(#[from] crate::sampler::SamplerError),
    /// The grammar.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
}
