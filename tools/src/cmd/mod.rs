//! One module per tool.

pub mod bench;
pub mod gguf;
pub mod main;
pub mod quantize;
