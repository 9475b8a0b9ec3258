//! The command-line tools. `bin/<tool>.rs` calls `cmd/<tool>.rs`; flags live in `args/<group>.rs`.
//!
//! May import the engine and `gguf`. No unsafe.
//!
//! To add a flag:
//! 1. a field in `args/<group>.rs`, with its default taken from the engine's `Default`;
//! 2. use it where that group is taken apart (full destructuring: a forgotten field does not compile);
//! 3. if it was listed in `args/absent.rs`, take it out there;
//! 4. `cargo test -p fabric-tools` shows the changed `--help`; accept the snapshot.
//!
//! To add a tool: `bin/<tool>.rs`, `cmd/<tool>.rs` and its row in `cmd/mod.rs`.
#![forbid(unsafe_code)]

pub mod adapters;
pub mod args;
pub mod chat;
pub mod cmd;
pub mod device;
pub mod error;
pub mod escape;
pub mod fallback;
pub mod generate;
pub mod grammar;
pub mod interactive;
pub mod interrupt;
pub mod line_editor;
pub mod load;
pub mod log;
pub mod memory;
pub mod npy;
pub mod output;
pub mod perf;
pub mod prompt;
pub mod prompt_cache;
pub mod session;

pub use error::Error;
