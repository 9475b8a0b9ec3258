//! The command line of `fabric-gguf`.

use super::absent::Absent;
use crate::Error;
use clap::Parser;
use std::path::PathBuf;

const USAGE: &str = "fabric-gguf [FLAGS] [dump] FILE";

/// Flags and the file.
#[derive(Parser, Clone, Debug)]
#[command(name = "fabric-gguf", version, override_usage = USAGE,
    about = "Shows the metadata and the tensors of a GGUF file"
)]
pub struct GgufArgs {
    /// As JSON: every value with its type and in full
    #[arg(long)]
    pub json: bool,
    /// Without the tensors
    #[arg(long)]
    pub no_tensors: bool,
    /// Only the value of this key, in full
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Long strings and arrays in full
    #[arg(long)]
    pub full: bool,
    /// Read all tensor data, and tell which has numbers that are not finite
    #[arg(long)]
    pub check: bool,
    /// The file, of a split model the first
    #[arg(value_name = "[dump] FILE")]
    pub words: Vec<PathBuf>,
}

/// llama.cpp has no such tool.
pub const ABSENT: &[Absent] = &[];

impl GgufArgs {
    /// The file.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn file(&self) -> Result<&PathBuf, Error> {
        match self.words.as_slice() {
            [file] => Ok(file),
            [dump, file] if dump.as_os_str() == "dump" => Ok(file),
            [] => Err(usage("no file given")),
            [file, rest @ ..] => {
                let extra = if file.as_os_str() == "dump" { rest.get(1) } else { rest.first() };
                Err(usage(&format!("unexpected argument '{}'", extra.unwrap_or(file).display())))
            }
        }
    }
}

fn usage(message: &str) -> Error {
    Error::Usage(format!("{message}\n\nUsage: {USAGE}"))
}
