//! The types of the KV cache.

use clap::Args;
use gguf::GgmlType;

/// Flags of the types of K and V.
#[derive(Args, Clone, Debug)]
pub struct CacheArgs {
    /// Type of the keys in the KV cache: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1 or iq4_nl
    #[arg(long, visible_alias = "ctk", value_name = "TYPE", default_value = "f16", env = "LLAMA_ARG_CACHE_TYPE_K",
          value_parser = super::value::cache_type)]
    pub cache_type_k: GgmlType,
    /// Type of the values in the KV cache: the same
    #[arg(long, visible_alias = "ctv", value_name = "TYPE", default_value = "f16", env = "LLAMA_ARG_CACHE_TYPE_V",
          value_parser = super::value::cache_type)]
    pub cache_type_v: GgmlType,
}
