//! What can go wrong in a tool.

use fabric_engine::kv_cache::CacheFileError;
use fabric_engine::sampler::SamplerError;
use std::io;
use std::path::PathBuf;

/// Why a tool ends early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag whose value is wrong in a way that only shows later.
    #[error("{0}")]
    Usage(String),
    /// What a flag asks for is not here.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The model in this file cannot be used.
    #[error("{}: {source}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: fabric_engine::Error,
    },
    /// The device that `-dev` names cannot be used.
    #[error("-dev {device}: {source}")]
    Device {
        /// The name given.
        device: String,
        /// What is wrong with it.
        source: fabric_engine::Error,
    },
    /// The adapter in this file cannot be used.
    #[error("{}: {source}", path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: fabric_engine::adapter::AdapterError,
    },
    /// An adapter cannot be converted or merged.
    #[error(transparent)]
    Lora(#[from] fabric_engine::adapter::AdapterError),
    /// The data cannot be trained on.
    #[error(transparent)]
    Dataset(#[from] fabric_engine::train::dataset::DatasetError),
    /// Training cannot begin or go on.
    #[error(transparent)]
    Train(Box<fabric_engine::train::Error>),
    /// More memory than there is.
    #[error(
        "training needs about {need_mib} MiB of memory, and {mib} MiB are available; lower -c, -ub or --lora-rank{}",
        if *checkpointing { "" } else { ", or set --grad-checkpoint on" }
    )]
    Memory {
        /// What is needed.
        need_mib: u64,
        /// What there is.
        mib: u64,
        /// Whether layers are already computed again rather than kept.
        checkpointing: bool,
    },
    /// The system does not let us listen for signals.
    #[error("cannot listen for signals: {0}")]
    Signal(#[source] io::Error),
    /// From the engine.
    #[error(transparent)]
    Engine(#[from] fabric_engine::Error),
    /// The model's file.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// The model cannot be quantized.
    #[error(transparent)]
    Quantize(#[from] fabric_engine::quantize::QuantizeError),
    /// The importance matrix in this file cannot be used or written.
    #[error("{}: {source}", path.display())]
    Imatrix {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: fabric_engine::imatrix::ImatrixError,
    },
    /// The tokenizer.
    #[error(transparent)]
    Vocab(#[from] fabric_engine::vocab::VocabError),
    /// The samplers.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// No token can be chosen.
    #[error(transparent)]
    Sample(#[from] fabric_engine::grammar::SampleError),
    /// The grammar or schema in this file cannot be used.
    #[error("{}: {what}", path.display())]
    GrammarFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        what: String,
    },
    /// The chat template.
    #[error(transparent)]
    ChatTemplate(#[from] fabric_engine::chat_template::ChatTemplateError),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file with more than can be a prompt.
    #[error("{} has more than {max} bytes, which no prompt may have", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Most that is read.
        max: u64,
    },
    /// A file that should be text.
    #[error("{} is not UTF-8 text (byte {at})", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The offset of the first bad byte.
        at: usize,
    },
    /// Standard output could not be written to.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// The terminal could not be read.
    #[error("cannot read what is typed: {0}")]
    Input(#[source] io::Error),
    /// The model or its device cannot have a cache of the type that a flag asks for.
    #[error("{flag}: {source}")]
    CacheType {
        /// `-ctk` or `-ctv`.
        flag: &'static str,
        /// The engine's reason.
        source: fabric_engine::Error,
    },
    /// The file of `--prompt-cache` cannot be used.
    #[error("--prompt-cache {} cannot be used: {source}; remove it, or name another file", path.display())]
    PromptCache {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CacheFileError,
    },
    /// The file of `--prompt-cache` cannot be written.
    #[error("cannot write --prompt-cache {}: {source}", path.display())]
    SavePromptCache {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: CacheFileError,
    },
    /// No memory for the context.
    #[error("cannot make a context of {n_ctx} tokens: {source}; -c makes it smaller")]
    Context {
        /// Its size.
        n_ctx: usize,
        /// The engine's reason.
        source: fabric_engine::Error,
    },
    /// No memory for the context of a test.
    #[error("cannot make a context of {n_ctx} tokens: {source}; -p, -n and -d make it smaller")]
    BenchContext {
        /// Its size.
        n_ctx: usize,
        /// The engine's reason.
        source: fabric_engine::Error,
    },
    /// The model has no vocabulary.
    #[error("the model has no tokenizer (tokenizer.ggml.model), so it cannot read or write text")]
    NoVocab,
    /// Nothing to start from.
    #[error("the prompt is empty, and this model does not begin texts with a BOS token: give some text with -p")]
    EmptyPrompt,
    /// A text that is too short to be measured.
    #[error("the text has {n_tokens} tokens: chunks of {n_ctx} take at least {} (-c makes them shorter)", 2 * n_ctx)]
    TextTooShort {
        /// Its length.
        n_tokens: usize,
        /// Tokens in a chunk.
        n_ctx: usize,
    },
    /// A file of log-probabilities that cannot be used.
    #[error("{} is no file of log-probabilities for this: {what}", path.display())]
    BaseFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The prompt leaves no room to generate.
    #[error(
        "the prompt is too long: it has {n_prompt} tokens, the context of {n_ctx} takes {max}; \
         make the context larger (-c {}) or the prompt shorter", n_prompt + (n_ctx - max)
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// Size of the context.
        n_ctx: usize,
        /// Tokens that would do.
        max: usize,
    },
}

impl Error {
    /// A context that cannot be made.
    pub fn context(n_ctx: usize, source: fabric_engine::Error) -> Error {
        Error::cache_type(source).unwrap_or_else(|source| Error::Context { n_ctx, source })
    }

    /// As [`context`](Self::context), for a benchmark.
    pub fn bench_context(n_ctx: usize, source: fabric_engine::Error) -> Error {
        Error::cache_type(source).unwrap_or_else(|source| Error::BenchContext { n_ctx, source })
    }

    fn cache_type(source: fabric_engine::Error) -> Result<Error, fabric_engine::Error> {
        match source {
            fabric_engine::Error::CacheType { which: "K", .. } => Ok(Error::CacheType { flag: "-ctk", source }),
            fabric_engine::Error::CacheType { .. } => Ok(Error::CacheType { flag: "-ctv", source }),
            other => Err(other),
        }
    }

    /// The exit status of a program that ends with this.
    pub fn exit_status(&self) -> u8 {
        match self {
            // Values in the model's file are checked before they take the place of the flags'.
            Error::Usage(_)
            | Error::Sampler(SamplerError::InvalidParam { .. } | SamplerError::TokenOutOfRange { .. }) => {
                crate::args::USAGE
            }
            _ => 1,
        }
    }

    /// Whether a GPU failed, rather than what it was to run.
    pub fn is_of_device(&self) -> bool {
        if let Error::Train(e) = self {
            return e.is_of_device();
        }
        let (Error::Engine(source)
        | Error::Model { source, .. }
        | Error::Context { source, .. }
        | Error::BenchContext { source, .. }) = self
        else {
            return false;
        };
        source.is_of_device()
    }

    /// Whether the reader of standard output went away, which is no failure.
    pub fn is_closed_output(&self) -> bool {
        matches!(self, Error::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }
}
