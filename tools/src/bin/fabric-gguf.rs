//! Shows what is in a GGUF file.

use std::process::ExitCode;

fn main() -> ExitCode {
    fabric_tools::cmd::gguf::run(std::env::args_os())
}
