//! Shows LoRA adapters, and converts them between GGUF and PEFT.

use std::process::ExitCode;

fn main() -> ExitCode {
    fabric_tools::cmd::lora::run(std::env::args_os())
}
