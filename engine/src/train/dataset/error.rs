//! What can be wrong with a dataset.

use std::path::PathBuf;

use crate::chat_template::ChatTemplateError;
use crate::vocab::VocabError;

/// Why a dataset could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// An option has a value that cannot be.
    #[error("{name} is {got}, expected {expected}")]
    Option {
        /// Name of the option.
        name: &'static str,
        /// What would do.
        expected: String,
        /// What was asked for.
        got: String,
    },
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Plain text that is no UTF-8.
    #[error("{}, line {line}, column {column}: not UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Byte in the line, from 1.
        column: usize,
    },
    /// A line of JSONL that cannot be learned from.
    #[error("{}, line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: LineProblem,
    },
    /// A file without a single sample.
    #[error("{}: the dataset is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Bad lines were to be skipped, and all lines are bad.
    #[error("{}: all {n_lines} lines are bad; line {line}: {problem}", path.display())]
    AllBad {
        /// The file.
        path: PathBuf,
        /// Number of lines that are neither empty nor comments.
        n_lines: usize,
        /// The first of them, from 1.
        line: usize,
        /// What is wrong with it.
        problem: LineProblem,
    },
    /// A text too short to predict anything in it.
    #[error("{}: the text has {got} tokens, at least 2 are needed", path.display())]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Number of tokens.
        got: usize,
    },
    /// More rows than can be numbered.
    #[error("the dataset makes more than {max} training rows")]
    TooManyRows {
        /// The most that there may be.
        max: usize,
    },
    /// The chat template cannot be read.
    #[error("{}: {source}", path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ChatTemplateError,
    },
    /// A text cannot be tokenized.
    #[error("{}: {source}", path.display())]
    Tokenize {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: VocabError,
    },
}

/// What is wrong with one line of JSONL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineProblem {
    /// No text at all.
    #[error("column {column}: not UTF-8")]
    NotUtf8 {
        /// Byte in the line, from 1.
        column: usize,
    },
    /// No JSON.
    #[error("column {column}: {message}")]
    Json {
        /// Byte in the line, from 1.
        column: usize,
        /// The parser's words.
        message: String,
    },
    /// JSON of another type than expected.
    #[error("{key} is {got}, expected {expected}")]
    Type {
        /// Where in the line, e.g. `messages[2].content`.
        key: String,
        /// What would do.
        expected: &'static str,
        /// JSON's name of the type.
        got: &'static str,
    },
    /// A key that must be there.
    #[error("{key} is missing")]
    Missing {
        /// Where in the line, e.g. `messages[2].role`.
        key: String,
    },
    /// None of the keys that tell what the line is.
    #[error("expected the key \"messages\", \"prompt\" with \"completion\", or \"text\"; the keys are {keys}")]
    UnknownForm {
        /// The keys that there are.
        keys: String,
    },
    /// `messages` is an empty list.
    #[error("\"messages\" is empty")]
    NoMessages,
    /// Too little text.
    #[error("{got} tokens, at least 2 are needed")]
    TooShort {
        /// Number of tokens.
        got: usize,
    },
    /// Only what the assistant says is learned, and it says nothing.
    #[error("no token of an assistant to learn from (only the loss of the assistant's tokens was asked for)")]
    NoAssistant,
    /// The template does not print a message once, so that its tokens cannot be told from others.
    #[error("the chat template prints the content of messages[{index}] {count} times, expected once")]
    ContentCount {
        /// Index of the assistant's message.
        index: usize,
        /// How often it was found.
        count: usize,
    },
    /// The template prints messages in another order than they come in.
    #[error("the chat template prints messages[{index}] before an earlier message of the assistant")]
    Order {
        /// Index of the assistant's message.
        index: usize,
    },
    /// The chat template fails.
    #[error(transparent)]
    Template(#[from] ChatTemplateError),
    /// The text cannot be tokenized.
    #[error(transparent)]
    Tokenize(#[from] VocabError),
}
