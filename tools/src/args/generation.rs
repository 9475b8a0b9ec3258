//! What to complete, and when to stop.

use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// Flags of the prompt and of the generation.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Prompt and generation")]
pub struct GenerationArgs {
    /// Text to complete; in a conversation, the first message
    #[arg(short, long, value_name = "TEXT", overrides_with_all = ["file", "binary_file"])]
    pub prompt: Option<OsString>,
    /// File with the prompt; a line feed at its end is dropped
    #[arg(short, long, value_name = "FILE", overrides_with_all = ["prompt", "binary_file"])]
    pub file: Option<PathBuf>,
    /// File with the prompt, taken as it is
    #[arg(long, visible_alias = "bf", value_name = "FILE", overrides_with_all = ["prompt", "file"])]
    pub binary_file: Option<PathBuf>,
    /// Turn \n \t \r \' \" \\ \xHH in prompts, prefixes and stop texts into what they stand for
    #[arg(short, long, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "true",
          value_parser = super::value::switch())]
    pub escape: bool,
    /// Tokens to generate; -1: no limit, -2: until the context is full, 0: only run the prompt
    #[arg(short = 'n', long, alias = "n-predict", value_name = "N", default_value = "-1",
          env = "LLAMA_ARG_N_PREDICT", value_parser = super::value::n_predict)]
    pub predict: i32,
    /// Stop where this text has been generated; may be given several times
    #[arg(short, long, value_name = "TEXT")]
    pub reverse_prompt: Vec<String>,
    /// Show control tokens
    #[arg(long, visible_alias = "sp")]
    pub special: bool,
    /// Show the prompt before the generated text
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "true",
          value_parser = super::value::switch())]
    pub display_prompt: bool,
    /// Tell the tokens of the prompt
    #[arg(long)]
    pub verbose_prompt: bool,
    /// Run one token first, so that the timings do not include reading the model from disk
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "true",
          value_parser = super::value::switch())]
    pub warmup: bool,
    /// Write the logits of every token of the prompt to this .npy file, f32 [n_tokens, n_vocab]; no conversation then
    #[arg(long, value_name = "FILE")]
    pub logits_file: Option<PathBuf>,
}
