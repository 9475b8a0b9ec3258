//! The command line of `fabric-imatrix`, which is llama-imatrix's.

use super::absent::{Absent, Policy, Takes};
use super::adapter::AdapterArgs;
use super::device::DeviceArgs;
use super::logging::LoggingArgs;
use super::model::ModelArgs;
use super::perplexity;
use super::text::TextArgs;
use clap::{Args, Parser};
use std::path::PathBuf;
use std::sync::LazyLock;

const EXAMPLES: &str = "\
Examples
  fabric-imatrix -m model-f16.gguf -f text.txt -o imatrix.gguf
  fabric-imatrix --in-file a.gguf --in-file b.gguf -o both.gguf
  fabric-quantize --imatrix imatrix.gguf model-f16.gguf model-Q4_K_M.gguf Q4_K_M";

/// Writes an importance matrix: how large what the columns of each weight are multiplied with is, over a text
#[derive(Parser, Clone, Debug)]
#[command(name = "fabric-imatrix", version, after_help = EXAMPLES)]
pub struct ImatrixArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub adapter: AdapterArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub collect: CollectArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub logging: LoggingArgs,
}

/// What is collected.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Collect")]
pub struct CollectArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub text: TextArgs,
    /// Understand special tokens in the text
    #[arg(long)]
    pub parse_special: bool,
    /// Where to write; what is there is replaced
    #[arg(short, long, alias = "output-file", value_name = "FILE", default_value = "imatrix.gguf")]
    pub output: PathBuf,
    /// Importance matrices to add; may be given several times. Without a text, only these
    #[arg(long, value_name = "FILE")]
    pub in_file: Vec<PathBuf>,
    /// Tokens in a chunk
    #[arg(short, long, value_name = "N", default_value_t = 512, env = "LLAMA_ARG_CTX_SIZE",
          value_parser = clap::value_parser!(u32).range(4..=1 << 24))]
    pub ctx_size: u32,
    /// Tokens that are handed over at once: chunks run side by side if several fit
    #[arg(short, long, value_name = "N", default_value_t = 2048, env = "LLAMA_ARG_BATCH",
          value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub batch_size: u32,
    /// Tokens that are run at once
    #[arg(long, visible_alias = "ub", value_name = "N", default_value_t = 512, env = "LLAMA_ARG_UBATCH",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub ubatch_size: u32,
    /// Chunks to run, -1: all
    #[arg(long, value_name = "N", default_value_t = -1, value_parser = clap::value_parser!(i32).range(-1..))]
    pub chunks: i32,
    /// The first chunk to run; those before it are left out
    #[arg(long, alias = "from-chunk", value_name = "N", default_value_t = 0)]
    pub chunk: u32,
    /// Collect for output.weight too
    #[arg(long)]
    pub process_output: bool,
    /// Perplexity on the way
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "true",
          value_parser = super::value::switch())]
    pub ppl: bool,
}

const OWN: &[Absent] = &[
    Absent {
        spellings: &["-ctk", "--cache-type-k"],
        env: "LLAMA_ARG_CACHE_TYPE_K",
        takes: Takes::Value,
        policy: Policy::Only(&["f16"], "rounding of the KV cache would be in the matrix"),
    },
    Absent {
        spellings: &["-ctv", "--cache-type-v"],
        env: "LLAMA_ARG_CACHE_TYPE_V",
        takes: Takes::Value,
        policy: Policy::Only(&["f16"], "rounding of the KV cache would be in the matrix"),
    },
    Absent {
        spellings: &["--output-format"],
        env: "",
        takes: Takes::Value,
        policy: Policy::Only(&["gguf"], "the format before GGUF is not written"),
    },
    Absent {
        spellings: &["-ofreq", "--output-frequency"],
        env: "",
        takes: Takes::Value,
        policy: Policy::Ignored("the file is written when it is complete, or at Ctrl-C"),
    },
    Absent {
        spellings: &["--save-frequency"],
        env: "",
        takes: Takes::Value,
        policy: Policy::Only(&["0"], "no copies of what is there so far are kept"),
    },
    Absent {
        spellings: &["--show-statistics"],
        env: "",
        takes: Takes::Nothing,
        policy: Policy::Refused("fabric-gguf shows what is in the file"),
    },
];

/// llama-imatrix's flags that there is no field for: the common ones, as of llama-perplexity, and its own.
pub static ABSENT: LazyLock<Vec<Absent>> = LazyLock::new(|| {
    let common = perplexity::ABSENT.iter().filter(|row| !perplexity::is_task(row));
    common.chain(OWN).copied().collect()
});
