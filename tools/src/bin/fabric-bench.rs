//! Measures how fast models run, as llama-bench does.

use std::process::ExitCode;

fn main() -> ExitCode {
    fabric_tools::cmd::bench::run(std::env::args_os())
}
