//! One module per tool.

pub mod bench;
pub mod export_lora;
pub mod finetune;
pub mod gguf;
pub mod imatrix;
pub mod lora;
pub mod main;
pub mod perplexity;
pub mod quantize;
pub mod tokenize;
