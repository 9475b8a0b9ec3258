//! The context that a model works in.

use clap::Args;
use fabric_engine::ContextOptions;

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
    /// Prompt tokens to keep when the context is shifted, -1: all; there is no shifting yet, so this is only reported
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep: i32,
}

fn default() -> ContextOptions {
    ContextOptions::default()
}

impl ContextArgs {
    /// For the engine, for one sequence.
    pub fn options(&self) -> ContextOptions {
        let &ContextArgs { ctx_size, batch_size: _, ubatch_size, keep: _ } = self;
        ContextOptions { n_ctx: ctx_size as usize, n_seq_max: default().n_seq_max, n_ubatch: ubatch_size as usize }
    }
}
