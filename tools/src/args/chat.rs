//! Conversations, and other ways to type while a model runs.

use super::logging::When;
use clap::Args;
use std::path::PathBuf;

/// Flags of conversations.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Conversation")]
pub struct ChatArgs {
    /// Hold a conversation; left out: if the model has a chat template
    #[arg(long, visible_alias = "cnv", num_args = 0..=1, default_missing_value = "true",
          value_parser = super::value::switch())]
    pub conversation: Option<bool>,
    /// System prompt
    #[arg(long, visible_alias = "sys", value_name = "TEXT", overrides_with = "system_prompt_file")]
    pub system_prompt: Option<String>,
    /// File with the system prompt
    #[arg(long, visible_alias = "sysf", value_name = "FILE", overrides_with = "system_prompt")]
    pub system_prompt_file: Option<PathBuf>,
    /// End after one answer
    #[arg(long, visible_alias = "st")]
    pub single_turn: bool,
    /// Name of a chat template that is built in, or Jinja; left out: the model's
    #[arg(long, value_name = "NAME|JINJA", env = "LLAMA_ARG_CHAT_TEMPLATE", overrides_with = "chat_template_file")]
    pub chat_template: Option<String>,
    /// File with a chat template
    #[arg(long, value_name = "FILE", env = "LLAMA_ARG_CHAT_TEMPLATE_FILE", overrides_with = "chat_template")]
    pub chat_template_file: Option<PathBuf>,
    /// More variables for the chat template: a JSON object
    #[arg(long, value_name = "JSON", env = "LLAMA_ARG_CHAT_TEMPLATE_KWARGS")]
    pub chat_template_kwargs: Option<String>,
    /// Tell tokens per second after each answer
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "true",
          env = "LLAMA_ARG_SHOW_TIMINGS", value_parser = super::value::switch())]
    pub show_timings: bool,
}

/// Flags of typing.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Typing")]
pub struct TypingArgs {
    /// Without chat template: take turns in one growing text; Ctrl-C or a stop text (-r) hands over
    #[arg(short, long)]
    pub interactive: bool,
    /// The same, and it is your turn first
    #[arg(long, visible_alias = "if")]
    pub interactive_first: bool,
    /// Typed text goes on over several lines until one ends with \ (or /, to leave out the line feed)
    #[arg(long, visible_alias = "mli")]
    pub multiline_input: bool,
    /// Text to put before what is typed (with -i)
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub in_prefix: String,
    /// Put BOS before what is typed (with -i)
    #[arg(long)]
    pub in_prefix_bos: bool,
    /// Text to put after what is typed (with -i)
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub in_suffix: String,
    /// No line editing in conversations
    #[arg(long)]
    pub simple_io: bool,
    /// Colors for prompt and typed text: on, off or auto
    #[arg(long, visible_alias = "co", value_name = "WHEN", num_args = 0..=1, default_missing_value = "on",
          default_value = "auto")]
    pub color: When,
}
