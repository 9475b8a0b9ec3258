//! One module per tool.

pub mod gguf;
pub mod main;
pub mod quantize;
