//! The text that a tool measures with.

use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// Where the text comes from.
#[derive(Args, Clone, Debug)]
pub struct TextArgs {
    /// The text
    #[arg(short, long, value_name = "TEXT", overrides_with_all = ["file", "binary_file"])]
    pub prompt: Option<OsString>,
    /// File with the text; a line feed at its end is dropped
    #[arg(short, long, value_name = "FILE", overrides_with_all = ["prompt", "binary_file"])]
    pub file: Option<PathBuf>,
    /// File with the text, taken as it is
    #[arg(long, visible_alias = "bf", value_name = "FILE", overrides_with_all = ["prompt", "file"])]
    pub binary_file: Option<PathBuf>,
    /// Turn \n \t \r \' \" \\ \xHH in the text into what they stand for
    #[arg(short, long, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "false",
          value_parser = super::value::switch())]
    pub escape: bool,
}
