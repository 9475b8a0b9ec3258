//! Writes an importance matrix.

use std::process::ExitCode;

fn main() -> ExitCode {
    fabric_tools::cmd::imatrix::run(std::env::args_os())
}
