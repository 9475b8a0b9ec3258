use std::path::PathBuf;

/// Why training cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model cannot be run.
    #[error(transparent)]
    Engine(#[from] crate::Error),
    /// The graph of a step cannot be built or run.
    #[error(transparent)]
    Op(#[from] ggml_ops::OpError),
    /// The adapter cannot be made, read or written.
    #[error(transparent)]
    Adapter(#[from] crate::adapter::AdapterError),
    /// A file cannot be written.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// A checkpoint that cannot be gone on from.
    #[error("checkpoint {}: {what}", path.display())]
    Checkpoint {
        /// Folder or file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Training has diverged.
    #[error("step {step}: {what} is not a finite number; lower the learning rate or set --grad-clip")]
    NotFinite {
        /// The step that would have been.
        step: u64,
        /// The loss, or the gradient of which tensor.
        what: String,
    },
    /// The model's file has values that are no numbers.
    #[error("step {step}: the loss is not a finite number, because of the model's tensor '{tensor}': {why}")]
    BrokenModel {
        /// The step that would have been.
        step: u64,
        /// The tensor's name.
        tensor: String,
        /// Where in it, and what.
        why: ggml_ops::quants::QuantError,
    },
    /// The system refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the device failed: elsewhere training can go on from what is on the host.
    pub fn is_of_device(&self) -> bool {
        match self {
            Error::Engine(e) => e.is_of_device(),
            Error::Op(e) => crate::Error::from(e.clone()).is_of_device(),
            _ => false,
        }
    }
}
