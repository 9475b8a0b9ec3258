//! Quantizes a model, as llama-quantize does.

use std::process::ExitCode;

fn main() -> ExitCode {
    fabric_tools::cmd::quantize::run(std::env::args_os())
}
