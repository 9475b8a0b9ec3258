//! Datasets for fine-tuning: from a file to rows of tokens with what is to be predicted.
//!
//! A file is plain text or JSONL, see [`DataFormat`]. Plain text is tokenized as one (with BOS or EOS where the tokenizer
//! adds them, without control tokens, without one newline at its end) and cut into windows that overlap. A line of JSONL is
//! one sample:
//!
//! - `{"text": "..."}`: a text like the above;
//! - `{"prompt": "...", "completion": "..."}`: two texts, tokenized apart, one after the other;
//! - `{"messages": [{"role": "...", "content": "..."}, ...]}`: a conversation, printed by a chat template. A content may be
//!   a list of `{"type": "text", "text": "..."}`; other keys (`tools`, `tool_calls`) reach the template as they are.
//!
//! Texts and completions end with EOS, so that the model learns to stop; the end of conversations is up to the template.
//! Lines that are empty or begin with `#` are passed over. A sample longer than a window is cut like a text, never dropped.
//!
//! With [`assistant_loss_only`](DatasetOptions::assistant_loss_only) only completions and what the assistant says, its end of
//! turn included, are to be predicted. Which tokens these are is found for any template by rendering parts of the
//! conversation (`chat.rs`) and the places of tokens in the text.
//!
//! All of it is a pure function of file, tokenizer, template and options: no thread count and no clock plays a role.

mod chat;
mod encode;
mod error;
mod load;
mod record;
mod shuffle;
mod window;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use error::{DatasetError, LineProblem};
pub use shuffle::epoch_order;
pub use window::{Sample, Window, Windows};

use crate::vocab::Vocab;
use load::Loader;
use window::Samples;

/// How a dataset is made.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetOptions {
    /// Positions of a row at most, at least 1.
    pub n_ctx: u32,
    /// Positions from one window of a long sample to the next, from 1 to `n_ctx`; half of `n_ctx` unless given.
    /// Validation rows do not overlap, so that each of their tokens counts once.
    pub stride: Option<u32>,
    /// The format of the files.
    pub format: DataFormat,
    /// Learn only what the assistant says.
    pub assistant_loss_only: bool,
    /// End the texts and completions of JSONL with EOS.
    pub append_eos: bool,
    /// Put several short samples in one row.
    pub pack: bool,
    /// Pass over lines that are bad, where they would be an error.
    pub skip_bad_lines: bool,
    /// A file with a template to use instead of the model's own.
    pub chat_template: Option<PathBuf>,
    /// The part of the samples, or of the tokens of a text, that is kept from training, at the end: at least 0, less than 1.
    pub val_fraction: f64,
    /// A file for validation; then all of the first one trains.
    pub val_file: Option<PathBuf>,
}

impl Default for DatasetOptions {
    fn default() -> Self {
        DatasetOptions {
            n_ctx: 4096,
            stride: None,
            format: DataFormat::Auto,
            assistant_loss_only: false,
            append_eos: true,
            pack: false,
            skip_bad_lines: false,
            chat_template: None,
            val_fraction: 0.05,
            val_file: None,
        }
    }
}

/// What a file is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DataFormat {
    /// JSONL if only the assistant's loss is asked for, if the name ends in `.jsonl`, `.json` or `.ndjson`, or if the first
    /// line that is neither empty nor begins with `#` is a JSON object with one of the keys `messages`, `prompt`,
    /// `completion` or `text`. Else plain text.
    #[default]
    Auto,
    /// Plain text.
    Text,
    /// One JSON object per line.
    Jsonl,
}

/// Rows to train on and rows to validate with.
#[derive(Debug)]
pub struct Dataset {
    /// At least one row.
    pub train: Windows,
    /// No row if nothing is kept for validation.
    pub val: Windows,
    /// The file.
    pub source: DataSource,
    /// The validation file, if there is one.
    pub val_source: Option<DataSource>,
}

/// A file that was read.
#[derive(Debug)]
pub struct DataSource {
    /// The file.
    pub path: PathBuf,
    /// What it was taken for, never [`DataFormat::Auto`].
    pub format: DataFormat,
    /// Hash of its bytes.
    pub sha256: [u8; 32],
    /// Number of samples; 1 for a text.
    pub n_samples: usize,
    /// Number of lines that were skipped because they are bad.
    pub n_bad: usize,
    /// The first few of them.
    pub bad_lines: Vec<BadLine>,
}

/// A line that was skipped.
#[derive(Debug)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: LineProblem,
}

impl Dataset {
    /// Loads a dataset. `model_template` is the chat template of the model, if it has one (`tokenizer.chat_template`);
    /// conversations are printed with that of the options, else with this one, else as ChatML.
    ///
    /// # Errors
    /// If an option is out of its range, a file cannot be read, has no samples, or has one that cannot be used.
    pub fn load(
        path: &Path,
        vocab: &Vocab,
        model_template: Option<&str>,
        options: &DatasetOptions,
    ) -> Result<Dataset, DatasetError> {
        let stride = check(options)?;
        let loader = Loader::new(vocab, model_template, options)?;
        let (mut train, source) = loader.load(path)?;
        let (val, val_source) = match &options.val_file {
            Some(path) => {
                let (val, source) = loader.load(path)?;
                (val, Some(source))
            }
            None => (split(&mut train, source.format, options.val_fraction), None),
        };
        Ok(Dataset {
            train: train.into_windows(options.n_ctx, stride, options.pack)?,
            val: val.into_windows(options.n_ctx, options.n_ctx, options.pack)?,
            source,
            val_source,
        })
    }

    /// Hash of all rows. It tells whether a run that is resumed would go on with the same data, whatever the reason may be that
    /// it does not: the file, the tokenizer, the template, or an option.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        self.train.hash_into(|bytes| hash.update(bytes));
        self.val.hash_into(|bytes| hash.update(bytes));
        hash.finalize().into()
    }
}

/// Checks the options; gives the stride.
fn check(options: &DatasetOptions) -> Result<u32, DatasetError> {
    let error = |name, expected: String, got: String| Err(DatasetError::Option { name, expected, got });
    let n_ctx = options.n_ctx;
    if n_ctx == 0 {
        return error("n_ctx", "at least 1".to_owned(), n_ctx.to_string());
    }
    let stride = options.stride.unwrap_or((n_ctx / 2).max(1));
    if !(1..=n_ctx).contains(&stride) {
        return error("stride", format!("1 to {n_ctx} (the window)"), stride.to_string());
    }
    if !(0.0..1.0).contains(&options.val_fraction) {
        return error("val_fraction", "at least 0 and less than 1".to_owned(), options.val_fraction.to_string());
    }
    if options.assistant_loss_only && options.format == DataFormat::Text {
        return error("format", "JSONL, as only the assistant's loss is asked for".to_owned(), "plain text".to_owned());
    }
    Ok(stride)
}

/// Takes the last part of the samples for validation. A text is cut before it is cut into windows, so that no token is in
/// both. Training always keeps a sample, of a text two tokens.
fn split(train: &mut Samples, format: DataFormat, val_fraction: f64) -> Samples {
    let n_train = |n: usize, min: usize| ((n as f64 * (1.0 - val_fraction)) as usize).max(min);
    if format == DataFormat::Text {
        let n = train.n_tokens();
        let at = n_train(n, 2);
        // One token predicts nothing.
        return if at + 2 <= n { train.split_text(at) } else { Samples::default() };
    }
    let at = n_train(train.len(), 1);
    if at < train.len() { train.split_off(at) } else { Samples::default() }
}
