//! Shows the tokens of a text.

use std::process::ExitCode;

fn main() -> ExitCode {
    fabric_tools::cmd::tokenize::run(std::env::args_os())
}
