//! What is told besides the text.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// When to use colors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// Always.
    On,
    /// Never.
    Off,
    /// On a terminal.
    Auto,
}

impl When {
    /// Whether to, given that the output is a terminal or not.
    pub fn applies(self, is_terminal: bool) -> bool {
        self == When::On || self == When::Auto && is_terminal
    }
}

/// Flags of messages, which go to stderr.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Messages (on stderr)")]
pub struct LoggingArgs {
    /// How much to tell: 0 the text only, 1 errors, 2 warnings, 3 information, 4 details of the model, 5 all
    #[arg(
        long,
        visible_alias = "lv",
        alias = "log-verbosity",
        value_name = "N",
        default_value_t = 3,
        env = "LLAMA_ARG_LOG_VERBOSITY"
    )]
    pub verbosity: i32,
    /// Tell all
    #[arg(short, long, alias = "log-verbose")]
    pub verbose: bool,
    /// No messages but errors
    #[arg(long)]
    pub log_disable: bool,
    /// Write messages to this file too
    #[arg(long, value_name = "FILE", env = "LLAMA_ARG_LOG_FILE")]
    pub log_file: Option<PathBuf>,
    /// Colored messages: on, off or auto
    #[arg(long, value_name = "WHEN", num_args = 0..=1, default_missing_value = "on", default_value = "auto",
          env = "LLAMA_ARG_LOG_COLORS")]
    pub log_colors: When,
    /// Timings at the end
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "true", env = "LLAMA_ARG_PERF",
          value_parser = super::value::switch())]
    pub perf: bool,
}
