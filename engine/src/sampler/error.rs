//! Errors of the samplers.

/// What can be wrong with sampler parameters, or with the logits given to a chain.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// A parameter has a value outside its range.
    #[error("sampling parameter {name}: expected {expected}, got {got}")]
    InvalidParam {
        /// The flag's name without dashes, e.g. `repeat_penalty`.
        name: &'static str,
        /// The values allowed.
        expected: &'static str,
        /// The value given.
        got: String,
    },
    /// A name or character in the sampler list is not a sampler.
    #[error("unknown sampler '{got}': expected one of {expected}")]
    UnknownSampler {
        /// The names or characters that exist.
        expected: &'static str,
        /// The name or character given.
        got: String,
    },
    /// The sampler exists in llama.cpp but not here.
    #[error("sampler '{0}' is not supported")]
    Unsupported(&'static str),
    /// A token id in a parameter is not in the vocabulary.
    #[error("{name}: token id {token} is outside the vocabulary of {n_vocab} tokens")]
    TokenOutOfRange {
        /// The parameter holding the id.
        name: &'static str,
        /// The id given.
        token: u32,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// The vocabulary is empty or has more tokens than ids.
    #[error("sampler vocabulary size: expected 1..=2147483647 tokens, got {0}")]
    VocabSize(usize),
    /// The logits slice does not have one value per token.
    #[error("logits: expected {expected} values (the vocabulary size), got {got}")]
    LogitsLen {
        /// Size of the vocabulary.
        expected: usize,
        /// Length of the slice.
        got: usize,
    },
    /// No token has a finite chance.
    #[error("no token can be sampled: the logits of all {0} candidates are NaN or -inf")]
    NoCandidates(usize),
}
