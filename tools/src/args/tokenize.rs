//! The command line of `fabric-tokenize`, which is llama-tokenize's.

use super::absent::Absent;
use clap::Parser;
use std::ffi::OsString;
use std::path::PathBuf;

/// Flags of the tool.
#[derive(Parser, Clone, Debug)]
#[command(name = "fabric-tokenize", version, about = "Shows the tokens that a model makes of a text")]
pub struct TokenizeArgs {
    /// Model file (GGUF); a vocabulary without tensors will do; left out: the small model that is built in
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// The text
    #[arg(short, long, value_name = "TEXT", help_heading = "Text")]
    pub prompt: Option<OsString>,
    /// A file with the text, taken as it is, in place of -p
    #[arg(short, long, value_name = "FILE", help_heading = "Text")]
    pub file: Option<PathBuf>,
    /// Read the text from standard input, in place of -p and -f
    #[arg(long, help_heading = "Text")]
    pub stdin: bool,
    /// Take \n \t \r \' \" \\ \xHH in the text as they are, and not for what they stand for
    #[arg(long, help_heading = "Text")]
    pub no_escape: bool,
    /// Never add BOS (nor EOS), even if the model wants it
    #[arg(long, help_heading = "Tokens")]
    pub no_bos: bool,
    /// Take the texts of control tokens for text
    #[arg(long, help_heading = "Tokens")]
    pub no_parse_special: bool,
    /// Print only the ids, as [1, 2, 3]
    #[arg(long, help_heading = "Tokens")]
    pub ids: bool,
    /// Tell the number of tokens too
    #[arg(long, help_heading = "Tokens")]
    pub show_count: bool,
    /// No messages but errors
    #[arg(long)]
    pub log_disable: bool,
}

/// llama-tokenize has no other flags.
pub const ABSENT: &[Absent] = &[];
