//! The command line of `fabric-export-lora`, which is llama-export-lora's.

use super::absent::Absent;
use super::adapter::AdapterArgs;
use clap::Parser;
use fabric_engine::quantize::FType;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples
  fabric-export-lora -m model.gguf --lora adapter.gguf -o merged.gguf
  fabric-export-lora -m model.gguf --lora-scaled a.gguf:0.5,b.gguf:0.8 --type Q8_0";

/// Flags.
#[derive(Parser, Clone, Debug)]
#[command(name = "fabric-export-lora", version, after_help = EXAMPLES)]
#[command(about = "Merges LoRA adapters into a model, as llama-export-lora does")]
pub struct ExportLoraArgs {
    /// Model file (GGUF), of a split one the first
    #[arg(short, long, value_name = "FILE", env = "LLAMA_ARG_MODEL")]
    pub model: PathBuf,
    /// Which adapters.
    #[command(flatten)]
    pub adapter: AdapterArgs,
    /// Where to write
    #[arg(
        short,
        long,
        alias = "output-file",
        value_name = "FILE",
        default_value = "ggml-lora-merged-f16.gguf",
        help_heading = "Output"
    )]
    pub output: PathBuf,
    /// Type of the merged tensors, by name or number as in fabric-quantize; left out: F16, or F32 where the model has F32.
    /// All other tensors stay as they are
    #[arg(long = "type", value_name = "TYPE", value_parser = |t: &str| FType::parse(t).map_err(|e| e.to_string()), help_heading = "Output")]
    pub ftype: Option<FType>,
    /// Threads; -1: one per core
    #[arg(short, long, value_name = "N", default_value_t = -1, env = "LLAMA_ARG_THREADS", help_heading = "Output",
          value_parser = clap::value_parser!(i32).range(-1..=512))]
    pub threads: i32,
}

/// llama-export-lora's other flags have no meaning there either.
pub const ABSENT: &[Absent] = &[];
