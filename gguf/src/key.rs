//! The names of metadata keys. Those of an architecture's hyperparameters have its name in front: [`of_arch`].

/// The name of the architecture: `str`.
pub const GENERAL_ARCHITECTURE: &str = "general.architecture";
/// Alignment of tensor data in bytes: `u32`, a power of two, 32 if absent.
pub const GENERAL_ALIGNMENT: &str = "general.alignment";
/// `model`, `adapter`, `imatrix` or `optimizer`: `str`.
pub const GENERAL_TYPE: &str = "general.type";
/// The name of the model: `str`.
pub const GENERAL_NAME: &str = "general.name";
/// What most of the tensors are stored as: `u32`, an id of `llama_ftype`.
pub const GENERAL_FILE_TYPE: &str = "general.file_type";
/// 2 for all quantized files of today: `u32`.
pub const GENERAL_QUANTIZATION_VERSION: &str = "general.quantization_version";

/// Index of a split, from 0: `u16`.
pub const SPLIT_NO: &str = "split.no";
/// Number of splits: `u16`.
pub const SPLIT_COUNT: &str = "split.count";
/// Number of tensors in all splits: `i32`.
pub const SPLIT_TENSORS_COUNT: &str = "split.tensors.count";

/// `{arch}.` + [`CONTEXT_LENGTH`] and so on.
pub fn of_arch(arch: &str, suffix: &str) -> String {
    format!("{arch}.{suffix}")
}

/// Tokens of context in training: `u32`.
pub const CONTEXT_LENGTH: &str = "context_length";
/// n_embd: `u32`.
pub const EMBEDDING_LENGTH: &str = "embedding_length";
/// n_layer: `u32`.
pub const BLOCK_COUNT: &str = "block_count";
/// n_ff: `u32`, or an array with one for each layer.
pub const FEED_FORWARD_LENGTH: &str = "feed_forward_length";
/// n_vocab: `u32`.
pub const VOCAB_SIZE: &str = "vocab_size";
/// n_head: `u32`, or an array with one for each layer.
pub const ATTENTION_HEAD_COUNT: &str = "attention.head_count";
/// n_head_kv: `u32`, or an array with one for each layer.
pub const ATTENTION_HEAD_COUNT_KV: &str = "attention.head_count_kv";
/// Elements in a head of K: `u32`.
pub const ATTENTION_KEY_LENGTH: &str = "attention.key_length";
/// Elements in a head of V: `u32`.
pub const ATTENTION_VALUE_LENGTH: &str = "attention.value_length";
/// Epsilon of the RMS norms: `f32`.
pub const ATTENTION_LAYER_NORM_RMS_EPSILON: &str = "attention.layer_norm_rms_epsilon";
/// The feed-forward activation, `silu`, `relu2` or `gelu_pytorch_tanh`: `str`. llama.cpp does not know it.
pub const HIDDEN_ACTIVATION: &str = "hidden_activation";
/// Tokens that a local layer sees: `u32`.
pub const ATTENTION_SLIDING_WINDOW: &str = "attention.sliding_window";
/// Of how many layers the last sees all tokens, and the others [`ATTENTION_SLIDING_WINDOW`]: `u32`; or which layers are local:
/// `bool[]` or `u32[]`, one for each layer.
pub const ATTENTION_SLIDING_WINDOW_PATTERN: &str = "attention.sliding_window_pattern";
/// Factor of the attention scores: `f32`.
pub const ATTENTION_SCALE: &str = "attention.scale";
/// n_rot: `u32`.
pub const ROPE_DIMENSION_COUNT: &str = "rope.dimension_count";
/// Base of the rotation frequencies: `f32`.
pub const ROPE_FREQ_BASE: &str = "rope.freq_base";
/// Base of the rotation frequencies of local layers: `f32`.
pub const ROPE_FREQ_BASE_SWA: &str = "rope.freq_base_swa";
/// `none`, `linear`, `yarn` or `longrope`: `str`.
pub const ROPE_SCALING_TYPE: &str = "rope.scaling.type";
/// The context that the model saw before its RoPE was stretched: `u32`.
pub const ROPE_SCALING_ORIGINAL_CONTEXT_LENGTH: &str = "rope.scaling.original_context_length";
/// cos and sin of RoPE are multiplied by this: `f32`.
pub const ROPE_SCALING_ATTN_FACTOR: &str = "rope.scaling.attn_factor";
/// Positions are divided by this: `f32`.
pub const ROPE_SCALING_FACTOR: &str = "rope.scaling.factor";

/// `llama` (SentencePiece), `gpt2` (BPE) and others: `str`.
pub const TOKENIZER_MODEL: &str = "tokenizer.ggml.model";
/// The name of the pre-tokenizer: `str`.
pub const TOKENIZER_PRE: &str = "tokenizer.ggml.pre";
/// The text of each token: `str[]`.
pub const TOKENIZER_TOKENS: &str = "tokenizer.ggml.tokens";
/// The score of each token: `f32[]`.
pub const TOKENIZER_SCORES: &str = "tokenizer.ggml.scores";
/// The type of each token: `i32[]`.
pub const TOKENIZER_TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
/// The merges of a BPE vocabulary, best first: `str[]`.
pub const TOKENIZER_MERGES: &str = "tokenizer.ggml.merges";
/// The token that begins a text: `u32`.
pub const TOKENIZER_BOS_TOKEN_ID: &str = "tokenizer.ggml.bos_token_id";
/// The token that ends a text: `u32`.
pub const TOKENIZER_EOS_TOKEN_ID: &str = "tokenizer.ggml.eos_token_id";
/// The token that stands for what the vocabulary lacks: `u32`.
pub const TOKENIZER_UNKNOWN_TOKEN_ID: &str = "tokenizer.ggml.unknown_token_id";
/// The token that fills up batches: `u32`.
pub const TOKENIZER_PADDING_TOKEN_ID: &str = "tokenizer.ggml.padding_token_id";
/// Whether texts begin with BOS: `bool`.
pub const TOKENIZER_ADD_BOS_TOKEN: &str = "tokenizer.ggml.add_bos_token";
/// Whether texts end with EOS: `bool`.
pub const TOKENIZER_ADD_EOS_TOKEN: &str = "tokenizer.ggml.add_eos_token";
/// Whether texts begin with a space: `bool`.
pub const TOKENIZER_ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
/// The Jinja template of a chat: `str`.
pub const TOKENIZER_CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// `lora`: `str`.
pub const ADAPTER_TYPE: &str = "adapter.type";
/// Alpha of a LoRA adapter: `f32`.
pub const ADAPTER_LORA_ALPHA: &str = "adapter.lora.alpha";
