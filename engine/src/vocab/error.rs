//! What can be wrong with a vocabulary or with a text for it.

/// Why a vocabulary could not be loaded, or a text not be tokenized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VocabError {
    /// A key is missing or has the wrong type.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// The vocabulary has no tokens.
    #[error("key {key} is an empty array: the vocabulary has no tokens")]
    NoTokens {
        /// The key of the token array.
        key: &'static str,
    },
    /// An array has fewer elements than there are tokens.
    #[error("key {key} has {got} elements, but there are {expected} tokens")]
    ArrayTooShort {
        /// The key of the array.
        key: &'static str,
        /// Number of tokens.
        expected: usize,
        /// Number of elements in the array.
        got: usize,
    },
    /// A score is not a number, so that merges have no order.
    #[error("key {key}: the score of token {id} is NaN")]
    NanScore {
        /// The key of the scores.
        key: &'static str,
        /// The token.
        id: usize,
    },
    /// Two tokens have the same text.
    #[error("key {key}: token {} has ids {first} and {second}", Quoted(text))]
    DuplicateToken {
        /// The key of the token array.
        key: &'static str,
        /// The text of both.
        text: Vec<u8>,
        /// The smaller id.
        first: u32,
        /// The larger id.
        second: usize,
    },
    /// A merge is not two texts with a space between them.
    #[error("key {key}: merge {index} is {}, but two texts with a space between them were expected", Quoted(text))]
    BadMerge {
        /// The key of the merges.
        key: &'static str,
        /// Index of the merge.
        index: usize,
        /// What it is.
        text: Vec<u8>,
    },
    /// The vocabulary, or a text, is larger than indices of 32 bits can address.
    #[error("{what} has {got} bytes, at most {max} are supported")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its bytes.
        got: usize,
        /// The most that is supported.
        max: usize,
    },
    /// The tokenizer algorithm is not known.
    #[error("key {key}: tokenizer model {got:?} is not supported, only \"llama\" (SPM) and \"gpt2\" (BPE) are")]
    UnknownModel {
        /// The key of the model.
        key: &'static str,
        /// What the file has.
        got: String,
    },
    /// The pre-tokenizer is not known.
    #[error("key {key}: pre-tokenizer {got:?} is not known")]
    UnknownPreTokenizer {
        /// The key of the pre-tokenizer.
        key: &'static str,
        /// What the file has.
        got: String,
    },
    /// A token should be added to each text, but the vocabulary has no such token.
    #[error("key {flag} is true, but {id} is not set")]
    NoSuchSpecialToken {
        /// The flag that asks for the token.
        flag: &'static str,
        /// The key that would name it.
        id: &'static str,
    },
    /// The text has a byte for which the vocabulary has no token.
    #[error("the vocabulary has no token for byte 0x{byte:02X}")]
    NoByteToken {
        /// The byte.
        byte: u8,
    },
}

/// Bytes of a file in an error message: escaped, and cut so that a hostile file cannot fill the screen.
struct Quoted<'a>(&'a [u8]);

impl std::fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const MAX: usize = 64;
        let head = &self.0[..self.0.len().min(MAX)];
        write!(f, "{:?}", String::from_utf8_lossy(head))?;
        f.write_str(if self.0.len() > MAX { "..." } else { "" })
    }
}
