//! Measures how well a model predicts a text.

use std::process::ExitCode;

fn main() -> ExitCode {
    fabric_tools::cmd::perplexity::run(std::env::args_os())
}
