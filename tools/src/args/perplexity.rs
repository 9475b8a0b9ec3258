//! The command line of `fabric-perplexity`, which is llama-perplexity's.

use super::absent::{Absent, MAIN, Policy, Takes};
use super::adapter::AdapterArgs;
use super::cache::CacheArgs;
use super::device::DeviceArgs;
use super::logging::LoggingArgs;
use super::model::ModelArgs;
use super::text::TextArgs;
use clap::{Args, Parser};
use std::path::PathBuf;
use std::sync::LazyLock;

const EXAMPLES: &str = "\
Examples
  fabric-perplexity -m model-f16.gguf -f text.txt -c 512
  fabric-perplexity -m model-f16.gguf -f text.txt --kl-divergence-base base.kld
  fabric-perplexity -m model-q4.gguf --kl-divergence-base base.kld --kl-divergence";

/// Measures how well a model predicts a text (perplexity), or how far it is from another one (KL divergence)
#[derive(Parser, Clone, Debug)]
#[command(name = "fabric-perplexity", version, after_help = EXAMPLES)]
pub struct PerplexityArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub adapter: AdapterArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub measure: MeasureArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub logging: LoggingArgs,
}

/// What is measured.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Measure")]
pub struct MeasureArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub text: TextArgs,
    /// Tokens in a chunk; those in its second half are predicted
    #[arg(short, long, value_name = "N", default_value_t = 512, env = "LLAMA_ARG_CTX_SIZE",
          value_parser = clap::value_parser!(u32).range(4..=1 << 24))]
    pub ctx_size: u32,
    /// Tokens that are handed over at once: chunks run side by side if several fit; does not change the result
    #[arg(short, long, value_name = "N", default_value_t = 2048, env = "LLAMA_ARG_BATCH",
          value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub batch_size: u32,
    /// Tokens that are run at once; does not change the result
    #[arg(long, visible_alias = "ub", value_name = "N", default_value_t = 512, env = "LLAMA_ARG_UBATCH",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub ubatch_size: u32,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cache: CacheArgs,
    /// Chunks to run, -1: all
    #[arg(long, value_name = "N", default_value_t = -1, value_parser = clap::value_parser!(i32).range(-1..))]
    pub chunks: i32,
    /// Begin a chunk every N tokens, and predict its last N tokens; 0: chunks do not overlap
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1 << 24))]
    pub ppl_stride: u32,
    /// 0: the perplexity so far after each chunk; 1: a row with tokens, perplexity, mean and error of the logarithm
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=1))]
    pub ppl_output_type: u8,
    /// File with the log-probabilities of another model: written, or with --kl-divergence read
    #[arg(long, alias = "save-all-logits", value_name = "FILE")]
    pub kl_divergence_base: Option<PathBuf>,
    /// Compare the model with the one whose log-probabilities are in the file; the text comes from there
    #[arg(long)]
    pub kl_divergence: bool,
}

/// Flags of the common ones that say nothing to llama-perplexity: it generates no text and holds no conversation.
const NOT_COMMON: &[&str] = &[
    "--print-token-count",
    "-ptc",
    "-ns",
    "--jinja",
    "--grammar",
    "--grammar-file",
    "-j",
    "-jf",
    "--reasoning-format",
    "-rea",
    "--reasoning-budget",
    "-mm",
    "-mmu",
    "--image",
    "--audio",
    "-md",
    "--server-base",
    "-gan",
    "-gaw",
    "-bs",
];

const TASKS: Policy = Policy::Refused("perplexity and KL divergence are what is measured here");
const NOT_SAMPLED: Policy = Policy::Ignored("no token is chosen");

const fn row(spellings: &'static [&'static str], takes: Takes, policy: Policy) -> Absent {
    Absent { spellings, env: "", takes, policy }
}

const OWN: &[Absent] = &[
    row(&["--hellaswag"], Takes::Nothing, TASKS),
    row(&["--hellaswag-tasks"], Takes::Value, TASKS),
    row(&["--winogrande"], Takes::Nothing, TASKS),
    row(&["--winogrande-tasks"], Takes::Value, TASKS),
    row(&["--multiple-choice"], Takes::Nothing, TASKS),
    row(&["--multiple-choice-tasks"], Takes::Value, TASKS),
    row(&["-n", "--predict", "--n-predict"], Takes::Value, NOT_SAMPLED),
    row(&["--keep"], Takes::Value, NOT_SAMPLED),
    row(&["--swa-full"], Takes::Nothing, Policy::Ignored("a chunk is run once, and layers keep what they need of it")),
    row(&["-s", "--seed"], Takes::Value, NOT_SAMPLED),
    row(&["--temp", "--temperature"], Takes::Value, NOT_SAMPLED),
    row(&["--warmup", "--no-warmup"], Takes::Nothing, Policy::Ignored("chunks are long enough to warm up with")),
];

/// Whether a row is of one of llama-perplexity's tests.
pub(super) fn is_task(row: &Absent) -> bool {
    row.policy == TASKS
}

/// llama-perplexity's flags that there is no field for: the common ones of [`MAIN`], and its own.
pub static ABSENT: LazyLock<Vec<Absent>> = LazyLock::new(|| {
    let common = MAIN.iter().filter(|row| !row.spellings.iter().any(|s| NOT_COMMON.contains(s)));
    common.chain(OWN).copied().collect()
});
