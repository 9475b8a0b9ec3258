//! Merges LoRA adapters into a model, as llama-export-lora does.

use std::process::ExitCode;

fn main() -> ExitCode {
    fabric_tools::cmd::export_lora::run(std::env::args_os())
}
