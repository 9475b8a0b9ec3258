//! Runs a model: completes a text or holds a conversation, as llama-cli and llama-completion do.

use std::process::ExitCode;

fn main() -> ExitCode {
    fabric_tools::cmd::main::run(std::env::args_os())
}
