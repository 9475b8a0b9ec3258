use gguf::GgmlType;

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is no good GGUF.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// The vocabulary is no good.
    #[error(transparent)]
    Vocab(#[from] crate::vocab::VocabError),
    /// The graph cannot be built or run.
    #[error(transparent)]
    Op(#[from] ggml_ops::OpError),
    /// An architecture that is not in the table.
    #[error("unknown model architecture '{name}' (known: {known})")]
    UnknownArchitecture {
        /// As in `general.architecture`.
        name: String,
        /// Those in the table.
        known: String,
    },
    /// The file is an adapter or something else that is no model.
    #[error("this file is of type '{0}', not a model")]
    NotAModel(String),
    /// A hyperparameter with a value that cannot be.
    #[error("key {key} is {got}, expected {expected}")]
    HParam {
        /// Metadata key.
        key: String,
        /// What would do.
        expected: String,
        /// What the file says.
        got: String,
    },
    /// A tensor that the architecture needs.
    #[error("tensor '{name}' is missing: architecture '{arch}' needs it")]
    MissingTensor {
        /// Tensor name.
        name: String,
        /// Architecture name.
        arch: &'static str,
    },
    /// A tensor that the architecture has no use for: computing without it would be wrong.
    #[error("tensor '{name}' is not known to architecture '{arch}'")]
    UnknownTensor {
        /// Tensor name.
        name: String,
        /// Architecture name.
        arch: &'static str,
    },
    /// A tensor with another shape than the hyperparameters call for.
    #[error("tensor '{name}' has shape {got:?}, expected {expected:?}")]
    TensorShape {
        /// Tensor name.
        name: String,
        /// From the hyperparameters.
        expected: Vec<usize>,
        /// In the file.
        got: Vec<usize>,
    },
    /// A tensor with a type that cannot be computed with.
    #[error("tensor '{name}' has type {got}, expected {expected}")]
    TensorType {
        /// Tensor name.
        name: String,
        /// What would do.
        expected: &'static str,
        /// In the file.
        got: GgmlType,
    },
    /// A tensor whose data cannot be.
    #[error("tensor '{name}': {what}")]
    TensorData {
        /// Tensor name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// The embedding and the tokenizer disagree.
    #[error("token_embd.weight has {embd} rows but the vocabulary has {vocab} tokens")]
    VocabSize {
        /// Rows of the embedding.
        embd: usize,
        /// Tokens in `tokenizer.ggml.tokens`.
        vocab: usize,
    },
    /// A batch that does not fit the context.
    #[error("{0}")]
    Batch(#[from] crate::batch::BatchError),
    /// The KV cache cannot have this type.
    #[error("the {which} cache cannot be of type {}: {why}", ty.name().to_lowercase())]
    CacheType {
        /// `K` or `V`.
        which: &'static str,
        /// As asked for.
        ty: GgmlType,
        /// What is wrong with it.
        why: String,
    },
    /// The system gave no memory or threads.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the device failed, or has no kernel for something: elsewhere it may go well.
    pub fn is_of_device(&self) -> bool {
        use ggml_ops::OpError::{Backend, Unsupported};
        matches!(self, Error::Op(Backend { .. } | Unsupported { .. }))
    }
}
