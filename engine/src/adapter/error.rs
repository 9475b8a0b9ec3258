use gguf::GgmlType;
use std::path::PathBuf;

/// Why an adapter cannot be made, read, written or merged.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The file is no good GGUF, or cannot be written.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// A key that says what the file is says something else.
    #[error("this file is no LoRA adapter: key {key} is {}, expected '{expected}'", quoted(got))]
    NotAnAdapter {
        /// `general.type` or `adapter.type`.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is; `None`: absent.
        got: Option<String>,
    },
    /// The adapter was made for another architecture.
    #[error("the adapter is for models of architecture '{got}', the model is of architecture '{expected}'")]
    Architecture {
        /// The model's.
        expected: String,
        /// The adapter's.
        got: String,
    },
    /// Alpha is no number that can be used.
    #[error("{place} is {got}, expected a finite number that is not negative")]
    Alpha {
        /// Key or field.
        place: &'static str,
        /// Its value.
        got: f32,
    },
    /// A tensor that is no part of a pair.
    #[error("tensor '{tensor}' is unexpected: its name ends in neither '.lora_a' nor '.lora_b'")]
    UnexpectedTensor {
        /// Tensor name.
        tensor: String,
    },
    /// One of a pair is missing.
    #[error("tensor '{missing}' is missing: '{present}' is nothing without it")]
    MissingHalf {
        /// The one that is there.
        present: String,
        /// The one that is not.
        missing: String,
    },
    /// The model has no such tensor.
    #[error("the adapter changes tensor '{tensor}', which the model does not have{}", tied_hint(tensor))]
    NoBaseTensor {
        /// Name of the model's tensor.
        tensor: String,
    },
    /// A shape that does not go with the model's tensor or with the other one of the pair.
    #[error("tensor '{tensor}' has shape {got:?}, expected {expected}")]
    Shape {
        /// Tensor name.
        tensor: String,
        /// In words.
        expected: String,
        /// In the file.
        got: Vec<usize>,
    },
    /// A storage type that cannot be decoded.
    #[error("tensor '{tensor}' has type {got}, expected F32, F16, BF16 or another type that Fabric computes with")]
    Type {
        /// Tensor name.
        tensor: String,
        /// In the file.
        got: GgmlType,
    },
    /// Data that cannot be decoded, or is NaN or infinite.
    #[error("tensor '{tensor}': {error}")]
    Data {
        /// Tensor name.
        tensor: String,
        /// Why.
        error: ggml_ops::quants::QuantError,
    },
    /// A rank that a new adapter cannot have.
    #[error("rank {rank} is too large for tensor '{tensor}' of shape {ne:?}: expected 1 to {max}")]
    Rank {
        /// What was asked for.
        rank: usize,
        /// Name of the model's tensor.
        tensor: String,
        /// Its shape.
        ne: [usize; 2],
        /// Its smaller side.
        max: usize,
    },
    /// A target word that stands for nothing.
    #[error("unknown LoRA target '{got}' (known: {})", super::target::known())]
    UnknownTarget {
        /// The word.
        got: String,
    },
    /// A list of targets with nothing in it.
    #[error("no LoRA targets given (known: {})", super::target::known())]
    NoTargets,
    /// A target that the model has no tensor for.
    #[error("target '{target}': the model has no tensor '{tensor}'{}", tied_hint(tensor))]
    NoTargetTensor {
        /// As on the command line.
        target: &'static str,
        /// Name of the tensor.
        tensor: String,
    },
    /// A role that takes no adapter.
    #[error("tensor role '{role}' takes no LoRA adapter (known targets: {})", super::target::known())]
    Role {
        /// The role's stem.
        role: &'static str,
    },
    /// The embedding of a model whose output is tied to it.
    #[error(
        "no adapter for token_embd.weight can be {verb}: the model's output is tied to it, so it would be changed there too, \
         where the pair's shapes do not fit (llama.cpp stops with an error on such an adapter)"
    )]
    Tied {
        /// What was tried.
        verb: &'static str,
    },
    /// A merged tensor cannot have the type asked for.
    #[error("tensor '{tensor}': rows of {ne0} elements are no whole number of {ty} blocks of {}", ty.block_size())]
    PartialBlock {
        /// Tensor name.
        tensor: String,
        /// Elements in a row.
        ne0: usize,
        /// The type.
        ty: GgmlType,
    },
    /// A file of a PEFT folder.
    #[error("{}: {what}", path.display())]
    Peft {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, `create`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Threads could not be had.
    #[error("cannot start {n_threads} threads: {error}")]
    Threads {
        /// How many.
        n_threads: usize,
        /// Why.
        error: rayon::ThreadPoolBuildError,
    },
}

fn quoted(got: &Option<String>) -> String {
    got.as_ref().map_or("missing".into(), |g| format!("'{g}'"))
}

fn tied_hint(tensor: &str) -> &'static str {
    if tensor == "output.weight" { " (its output is tied to the embedding)" } else { "" }
}
