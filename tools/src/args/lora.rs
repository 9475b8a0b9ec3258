//! The command line of `fabric-lora`.

use super::absent::Absent;
use crate::Error;
use clap::Parser;
use std::ffi::OsString;
use std::path::PathBuf;

const USAGE: &str = "fabric-lora show FILE | fabric-lora convert IN OUT --base MODEL.gguf";

const EXAMPLES: &str = "\
Examples
  fabric-lora show adapter.gguf
  fabric-lora convert adapter.gguf peft-folder --base model.gguf
  fabric-lora convert peft-folder adapter.gguf --base model.gguf";

/// Flags and words.
#[derive(Parser, Clone, Debug)]
#[command(name = "fabric-lora", version, override_usage = USAGE, after_help = EXAMPLES)]
#[command(about = "Shows a LoRA adapter, or converts it between GGUF and the folders of Hugging Face's PEFT")]
pub struct LoraArgs {
    /// The model that the adapter is for (GGUF, any type): shapes are checked against it, and it tells in which order
    /// the rows of attention lie
    #[arg(long, visible_alias = "m", alias = "model", value_name = "MODEL.gguf")]
    pub base: Option<PathBuf>,
    /// show: print what is in an adapter; convert: from GGUF to a PEFT folder, or from a folder to GGUF
    #[arg(value_name = "show FILE | convert IN OUT")]
    pub words: Vec<OsString>,
}

/// llama.cpp has no such tool.
pub const ABSENT: &[Absent] = &[];

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Print what is in an adapter.
    Show(PathBuf),
    /// Convert an adapter.
    Convert {
        /// GGUF file or PEFT folder.
        input: PathBuf,
        /// The other one.
        output: PathBuf,
        /// The model.
        base: PathBuf,
    },
}

impl LoraArgs {
    /// What the words ask for.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn command(&self) -> Result<Command, Error> {
        let LoraArgs { base, words } = self;
        let usage = |message: &str| Error::Usage(format!("{message}\n\nUsage: {USAGE}"));
        let Some((verb, files)) = words.split_first() else { return Err(usage("nothing to do: say show or convert")) };
        let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
        match (verb.to_str(), files.as_slice(), base) {
            (Some("show"), [file], _) => Ok(Command::Show(file.clone())),
            (Some("show"), ..) => Err(usage("show takes one adapter")),
            (Some("convert"), [input, output], Some(base)) => {
                Ok(Command::Convert { input: input.clone(), output: output.clone(), base: base.clone() })
            }
            (Some("convert"), [_, _], None) => {
                Err(usage("convert needs the model that the adapter is for: --base MODEL.gguf"))
            }
            (Some("convert"), ..) => Err(usage("convert takes an adapter and where to write it")),
            _ => Err(usage(&format!("'{}' is neither show nor convert", verb.to_string_lossy()))),
        }
    }
}
