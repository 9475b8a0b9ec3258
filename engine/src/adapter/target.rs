//! The words that choose which matrices an adapter changes: by role, never by a part of a tensor's name.

use super::AdapterError;
use gguf::TensorRole;

/// Word, other spellings, role.
const TARGETS: &[(&str, &[&str], TensorRole)] = &[
    ("attn_q", &["q", "q_proj"], TensorRole::AttnQ),
    ("attn_k", &["k", "k_proj"], TensorRole::AttnK),
    ("attn_v", &["v", "v_proj"], TensorRole::AttnV),
    ("attn_qkv", &["qkv", "qkv_proj"], TensorRole::AttnQkv),
    ("attn_o", &["o", "attn_output", "o_proj"], TensorRole::AttnOutput),
    ("ffn_gate", &["gate", "gate_proj"], TensorRole::FfnGate),
    ("ffn_up", &["up", "up_proj", "gate_up_proj"], TensorRole::FfnUp),
    ("ffn_down", &["down", "down_proj"], TensorRole::FfnDown),
    ("output", &["lm_head"], TensorRole::Output),
    ("token_embd", &["embed_tokens"], TensorRole::TokenEmbd),
];

/// The role that a target word stands for: QVAC Fabric's words (`attn_q`), the same without what they begin with (`q`), or
/// PEFT's (`q_proj`).
///
/// # Errors
/// [`AdapterError::UnknownTarget`].
pub fn target_role(word: &str) -> Result<TensorRole, AdapterError> {
    let row = TARGETS.iter().find(|(name, others, _)| *name == word || others.contains(&word));
    row.map(|row| row.2).ok_or_else(|| AdapterError::UnknownTarget { got: word.into() })
}

/// The word for a role that takes adapters.
pub fn target_name(role: TensorRole) -> Option<&'static str> {
    TARGETS.iter().find(|row| row.2 == role).map(|row| row.0)
}

/// The role of the matrix that has this one in it, where a model has Q, K and V in one or gate and up in one, and not this
/// one alone; otherwise the role itself.
pub fn fused_role(role: TensorRole, has: impl Fn(TensorRole) -> bool) -> TensorRole {
    let whole = match role {
        TensorRole::AttnQ | TensorRole::AttnK | TensorRole::AttnV => TensorRole::AttnQkv,
        TensorRole::FfnGate => TensorRole::FfnUp,
        _ => return role,
    };
    if !has(role) && has(whole) { whole } else { role }
}

/// Every word, for messages.
pub(super) fn known() -> String {
    TARGETS.iter().map(|row| row.0).collect::<Vec<_>>().join(" ")
}
