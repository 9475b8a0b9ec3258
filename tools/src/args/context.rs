//! The context that a model works in.

use super::cache::CacheArgs;
use clap::Args;
use fabric_engine::ContextOptions;
use std::path::PathBuf;

/// Flags of the context.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Context")]
pub struct ContextArgs {
    /// Size of the context in tokens; 0: as the model was trained
    #[arg(short, long, value_name = "N", default_value_t = default().n_ctx as u32, env = "LLAMA_ARG_CTX_SIZE")]
    pub ctx_size: u32,
    /// Tokens of a prompt between two looks at the keyboard (Ctrl-C); does not change the output
    #[arg(short, long, value_name = "N", default_value_t = 2048, env = "LLAMA_ARG_BATCH",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: u32,
    /// Tokens that are run at once; does not change the output
    #[arg(long, visible_alias = "ub", value_name = "N", default_value_t = default().n_ubatch as u32,
          env = "LLAMA_ARG_UBATCH", value_parser = clap::value_parser!(u32).range(1..))]
    pub ubatch_size: u32,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cache: CacheArgs,
    /// Keep all of the text in the KV cache of layers with a sliding window too: more memory, but going back far (such as
    /// /regen) need not run it again. --context-shift and --prompt-cache do so
    #[arg(long, env = "LLAMA_ARG_SWA_FULL", value_parser = super::value::yes_or_no)]
    pub swa_full: bool,
    /// Go on where the context is full: forget half of the text after the first tokens (--keep)
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "false",
          value_parser = super::value::switch(), env = "LLAMA_ARG_CONTEXT_SHIFT")]
    pub context_shift: bool,
    /// Tokens of the prompt to keep when the context is shifted, besides BOS; -1: all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep: i32,
    /// File with what the prompt was turned into: written once it has been run, and read where it is there, so that what two
    /// prompts have in common is run once
    #[arg(long, value_name = "FILE")]
    pub prompt_cache: Option<PathBuf>,
    /// Write the generated text to that file too, at the end
    #[arg(long)]
    pub prompt_cache_all: bool,
    /// Do not write that file
    #[arg(long)]
    pub prompt_cache_ro: bool,
}

fn default() -> ContextOptions {
    ContextOptions::default()
}

impl ContextArgs {
    /// For the engine, for one sequence.
    pub fn options(&self) -> ContextOptions {
        let &ContextArgs {
            ctx_size,
            batch_size: _,
            ubatch_size,
            cache: CacheArgs { cache_type_k: type_k, cache_type_v: type_v },
            swa_full,
            context_shift,
            keep: _,
            ref prompt_cache,
            prompt_cache_all: _,
            prompt_cache_ro: _,
        } = self;
        ContextOptions {
            n_ctx: ctx_size as usize,
            n_seq_max: default().n_seq_max,
            n_ubatch: ubatch_size as usize,
            type_k,
            type_v,
            swa_full: swa_full || context_shift || prompt_cache.is_some(),
        }
    }
}
