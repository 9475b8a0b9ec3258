//! Errors of chat templates.

/// Why a chat template could not be read or applied.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ChatTemplateError {
    /// The template is not valid Jinja.
    #[error("chat template, line {line}: {message}")]
    Syntax {
        /// Line of the template, from 1 (0 if unknown).
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// Rendering failed, e.g. on an undefined value or at one of the limits.
    #[error("chat template, line {line}: {message}")]
    Render {
        /// Line of the template, from 1 (0 if unknown).
        line: usize,
        /// What went wrong there.
        message: String,
    },
    /// The template itself called `raise_exception`.
    #[error("chat template, line {line}: the template refuses the messages: {message}")]
    Raised {
        /// Line of the template, from 1 (0 if unknown).
        line: usize,
        /// The template's message.
        message: String,
    },
    /// The template is too long.
    #[error("chat template: expected at most {max} bytes, got {got}")]
    TooLong {
        /// Longest template accepted, in bytes.
        max: usize,
        /// Length of the template, in bytes.
        got: usize,
    },
    /// No built-in template has this name.
    #[error("unknown chat template '{got}': expected one of {expected}")]
    UnknownName {
        /// The name asked for.
        got: String,
        /// The names that exist.
        expected: String,
    },
}
