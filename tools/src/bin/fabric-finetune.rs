//! Trains a LoRA adapter.

use std::process::ExitCode;

fn main() -> ExitCode {
    fabric_tools::cmd::finetune::run(std::env::args_os())
}
