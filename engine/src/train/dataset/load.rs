//! Reading a dataset's file.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::encode::Encoder;
use super::window::Samples;
use super::{BadLine, DataFormat, DataSource, DatasetError, DatasetOptions, record};
use crate::chat_template::{ChatTemplate, ChatTemplateError};
use crate::vocab::Vocab;

/// The time that templates see, 2024-07-26: the date that Llama 3.1's falls back to. With today's date a run that is resumed
/// tomorrow would learn other tokens.
const TEMPLATE_TIME: i64 = 1_721_952_000;
/// Lines that are tokenized at a time, by all threads together.
const LINES_AT_A_TIME: usize = 256;
/// Bad lines that are reported when they are skipped.
const MAX_REPORTED: usize = 8;

/// Loads files with the same tokenizer, template and options.
pub(super) struct Loader<'a> {
    vocab: &'a Vocab,
    options: &'a DatasetOptions,
    template: Result<ChatTemplate, ChatTemplateError>,
    /// The text of EOS.
    eos: String,
}

impl<'a> Loader<'a> {
    /// Reads the template file of the options. A model's own template that is no good is an error only once it is needed.
    pub fn new(
        vocab: &'a Vocab,
        model_template: Option<&str>,
        options: &'a DatasetOptions,
    ) -> Result<Self, DatasetError> {
        let text = |id: Option<u32>| {
            let piece = id.map(|id| vocab.token_to_piece(id, true)).unwrap_or_default();
            String::from_utf8_lossy(&piece).into_owned()
        };
        let (bos, eos) = (text(vocab.bos()), text(vocab.eos()));
        let template = match (&options.chat_template, model_template) {
            (Some(path), _) => {
                let source = utf8(path, read(path)?)?;
                let template = ChatTemplate::new(&source, &bos, &eos);
                Ok(template.map_err(|source| DatasetError::Template { path: path.clone(), source })?)
            }
            (None, Some(source)) => ChatTemplate::new(source, &bos, &eos),
            (None, None) => ChatTemplate::default_for(&bos, &eos),
        };
        Ok(Loader { vocab, options, template: template.map(|template| template.at_time(TEMPLATE_TIME)), eos })
    }

    /// The samples of a file, at least one of them. A text is one sample of at least two tokens.
    pub fn load(&self, path: &Path) -> Result<(Samples, DataSource), DatasetError> {
        let bytes = read(path)?;
        let sha256 = Sha256::digest(&bytes).into();
        let format = match self.options.format {
            DataFormat::Auto => detect(path, &bytes, self.options.assistant_loss_only),
            format => format,
        };
        let mut source =
            DataSource { path: path.to_owned(), format, sha256, n_samples: 0, n_bad: 0, bad_lines: Vec::new() };
        let samples = match format {
            DataFormat::Text => self.text(path, bytes)?,
            DataFormat::Auto | DataFormat::Jsonl => self.jsonl(&bytes, &mut source)?,
        };
        source.n_samples = samples.len();
        Ok((samples, source))
    }

    fn text(&self, path: &Path, bytes: Vec<u8>) -> Result<Samples, DatasetError> {
        let text = utf8(path, bytes)?;
        // One newline that ends the file is not part of the text.
        let text = text.strip_suffix('\n').unwrap_or(&text);
        if text.is_empty() {
            return Err(DatasetError::Empty { path: path.to_owned() });
        }
        let tokens = self.vocab.tokenize(text, true, false);
        let tokens = tokens.map_err(|source| DatasetError::Tokenize { path: path.to_owned(), source })?;
        match tokens.len() {
            got @ (0 | 1) => Err(DatasetError::TooShort { path: path.to_owned(), got }),
            _ => Ok(Samples::text(tokens)),
        }
    }

    fn jsonl(&self, bytes: &[u8], source: &mut DataSource) -> Result<Samples, DatasetError> {
        let encoder = Encoder {
            vocab: self.vocab,
            template: self.template.as_ref(),
            eos: &self.eos,
            assistant_loss_only: self.options.assistant_loss_only,
            append_eos: self.options.append_eos,
        };
        let mut samples = Samples::default();
        let lines: Vec<(usize, &[u8])> = lines(bytes).collect();
        for lines in lines.chunks(LINES_AT_A_TIME) {
            let encoded: Vec<_> = lines.par_iter().map(|&(n, line)| (n, encoder.encode_line(line))).collect();
            for (line, sample) in encoded {
                match sample {
                    Ok(sample) => samples.push(&sample),
                    Err(problem) if self.options.skip_bad_lines => {
                        source.n_bad += 1;
                        if source.bad_lines.len() < MAX_REPORTED {
                            source.bad_lines.push(BadLine { line, problem });
                        }
                    }
                    Err(problem) => return Err(DatasetError::Line { path: source.path.clone(), line, problem }),
                }
            }
        }
        if samples.len() > 0 {
            return Ok(samples);
        }
        let path = source.path.clone();
        Err(match source.bad_lines.drain(..).next() {
            Some(BadLine { line, problem }) => DatasetError::AllBad { path, n_lines: source.n_bad, line, problem },
            None => DatasetError::Empty { path },
        })
    }
}

/// See [`DataFormat::Auto`].
fn detect(path: &Path, bytes: &[u8], assistant_loss_only: bool) -> DataFormat {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let by_name = ["jsonl", "json", "ndjson"].contains(&extension.as_str());
    let by_content = || lines(bytes).next().is_some_and(|(_, line)| record::is_record(line));
    if assistant_loss_only || by_name || by_content() { DataFormat::Jsonl } else { DataFormat::Text }
}

/// The lines that hold something, each with its number from 1. A byte order mark before the first does not matter.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let bytes = bytes.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(bytes);
    (1..).zip(bytes.split(|&byte| byte == b'\n')).filter(|(_, line)| !record::is_blank(line))
}

fn read(path: &Path) -> Result<Vec<u8>, DatasetError> {
    std::fs::read(path).map_err(|source| DatasetError::Read { path: path.to_owned(), source })
}

fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String, DatasetError> {
    String::from_utf8(bytes).map_err(|err| {
        let valid = &err.as_bytes()[..err.utf8_error().valid_up_to()];
        let line = 1 + memchr::memchr_iter(b'\n', valid).count();
        let column = 1 + valid.len() - memchr::memrchr(b'\n', valid).map_or(0, |at| at + 1);
        DatasetError::NotUtf8 { path: PathBuf::from(path), line, column }
    })
}
