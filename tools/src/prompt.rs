//! Prompts: from flags or files to bytes, and from bytes to tokens.

use crate::args::generation::GenerationArgs;
use crate::args::text::TextArgs;
use crate::{Error, escape};
use fabric_engine::vocab::Vocab;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Most bytes of a file that are read as a prompt: far more than any context holds.
const MAX_BYTES: u64 = 256 << 20;

/// Reads a whole file.
///
/// # Errors
/// If it cannot be read or is too large.
pub fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    let fail = |source| Error::File { action: "read", path: path.into(), source };
    let file = File::open(path).map_err(fail)?;
    read_all(file, path)
}

/// Reads all of standard input.
///
/// # Errors
/// If it cannot be read or is too large.
pub fn read_stdin() -> Result<Vec<u8>, Error> {
    read_all(std::io::stdin().lock(), Path::new("standard input"))
}

fn read_all(from: impl Read, path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = from.take(MAX_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| Error::File { action: "read", path: path.into(), source })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::FileTooLarge { path: path.into(), max: MAX_BYTES });
    }
    Ok(bytes)
}

/// Reads a whole file as text.
///
/// # Errors
/// Those of [`read_file`], and if it is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, Error> {
    String::from_utf8(read_file(path)?)
        .map_err(|e| Error::NotText { path: path.into(), at: e.utf8_error().valid_up_to() })
}

/// The prompt that the flags ask for, if they do.
///
/// # Errors
/// If a file cannot be read.
pub fn given(args: &GenerationArgs) -> Result<Option<Vec<u8>>, Error> {
    let GenerationArgs { prompt, file, binary_file, escape, .. } = args;
    from_flags(prompt.as_deref(), file.as_deref(), binary_file.as_deref(), *escape)
}

/// The text that the flags give, if they do.
///
/// # Errors
/// If a file cannot be read.
pub fn text(args: &TextArgs) -> Result<Option<Vec<u8>>, Error> {
    let TextArgs { prompt, file, binary_file, escape } = args;
    from_flags(prompt.as_deref(), file.as_deref(), binary_file.as_deref(), *escape)
}

/// The text of the first of these that is there: a file, whose last line feed is dropped, a file as it is, a text.
///
/// # Errors
/// If a file cannot be read.
fn from_flags(
    text: Option<&OsStr>,
    file: Option<&Path>,
    binary_file: Option<&Path>,
    escapes: bool,
) -> Result<Option<Vec<u8>>, Error> {
    let bytes = if let Some(path) = file {
        let mut bytes = read_file(path)?;
        bytes.pop_if(|&mut last| last == b'\n');
        bytes
    } else if let Some(path) = binary_file {
        read_file(path)?
    } else if let Some(text) = text {
        text.as_encoded_bytes().to_vec()
    } else {
        return Ok(None);
    };
    Ok(Some(if escapes { escape::process(&bytes) } else { bytes }))
}

/// Tokens to begin with: BOS if the model wants it, then the text, in which control tokens may be written out.
///
/// # Errors
/// [`Error::EmptyPrompt`] where that is nothing at all.
pub fn tokenize(vocab: &Vocab, text: &[u8]) -> Result<Vec<u32>, Error> {
    let mut tokens = vocab.tokenize_bytes(text, true, true)?;
    // A text that is to go on does not end with EOS, whatever the tokenizer adds to others.
    if vocab.add_eos() {
        tokens.pop_if(|last| Some(*last) == vocab.eos());
    }
    if tokens.is_empty() { Err(Error::EmptyPrompt) } else { Ok(tokens) }
}
