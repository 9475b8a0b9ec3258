//! The names of tensors: one table of the roles that a tensor can have in a model.

use std::fmt;

use TensorRole as R;

/// Where the tensors of a role are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// One in the model.
    Model,
    /// One in each block: the name begins with `blk.{il}.`.
    Block,
}

macro_rules! tensor_roles {
    ($($(#[$doc:meta])* $role:ident = $stem:literal, $scope:ident, lora: $lora:literal;)*) => {
        /// What a tensor is for, whatever the architecture.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum TensorRole { $($(#[$doc])* $role,)* }

        impl TensorRole {
            /// Every role.
            pub const ALL: &[TensorRole] = &[$(R::$role,)*];

            /// The name without block and suffix, for example `attn_q`.
            pub const fn stem(self) -> &'static str {
                match self { $(R::$role => $stem,)* }
            }

            const fn scope(self) -> Scope {
                match self { $(R::$role => Scope::$scope,)* }
            }

            /// Whether a LoRA adapter can be trained for the `.weight`: it is a matrix that `mul_mat` multiplies by.
            pub const fn takes_lora(self) -> bool {
                match self { $(R::$role => $lora,)* }
            }
        }
    };
}

tensor_roles! {
    /// Embedding of the tokens, `[n_embd, n_vocab]`. No LoRA: its pairs have other shapes than those of a matrix that is multiplied
    /// by, and where the output is tied to it the same pair would be applied in both ways.
    TokenEmbd = "token_embd", Model, lora: false;
    /// Norm before the output, `[n_embd]`.
    OutputNorm = "output_norm", Model, lora: false;
    /// To the logits, `[n_embd, n_vocab]`; absent where it is tied to the embedding.
    Output = "output", Model, lora: true;
    /// Divisors of the rope frequencies, `[n_rot / 2]`.
    RopeFreqs = "rope_freqs", Model, lora: false;
    /// Divisors of the rope frequencies in long contexts, `[n_rot / 2]`.
    RopeFactorsLong = "rope_factors_long", Model, lora: false;
    /// Divisors of the rope frequencies in short contexts, `[n_rot / 2]`.
    RopeFactorsShort = "rope_factors_short", Model, lora: false;
    /// Norm before the attention, `[n_embd]`.
    AttnNorm = "attn_norm", Block, lora: false;
    /// To Q, `[n_embd, n_head * head_dim]`.
    AttnQ = "attn_q", Block, lora: true;
    /// To K, `[n_embd, n_head_kv * head_dim]`.
    AttnK = "attn_k", Block, lora: true;
    /// To V, `[n_embd, n_head_kv * head_dim]`.
    AttnV = "attn_v", Block, lora: true;
    /// To Q, K and V in one, `[n_embd, (n_head + 2 * n_head_kv) * head_dim]`.
    AttnQkv = "attn_qkv", Block, lora: true;
    /// Out of the attention, `[n_head * head_dim, n_embd]`.
    AttnOutput = "attn_output", Block, lora: true;
    /// Norm of each head of Q, `[head_dim]`.
    AttnQNorm = "attn_q_norm", Block, lora: false;
    /// Norm of each head of K, `[head_dim]`.
    AttnKNorm = "attn_k_norm", Block, lora: false;
    /// Norm between the attention and `attn_output`, `[n_embd]`: BitNet.
    AttnSubNorm = "attn_sub_norm", Block, lora: false;
    /// Norm of what the attention adds, `[n_embd]`: Gemma.
    PostAttentionNorm = "post_attention_norm", Block, lora: false;
    /// Norm before the feed-forward part, `[n_embd]`.
    FfnNorm = "ffn_norm", Block, lora: false;
    /// `[n_embd, n_ff]`.
    FfnGate = "ffn_gate", Block, lora: true;
    /// `[n_embd, n_ff]`, or `[n_embd, 2 * n_ff]` with the gate in it.
    FfnUp = "ffn_up", Block, lora: true;
    /// `[n_ff, n_embd]`.
    FfnDown = "ffn_down", Block, lora: true;
    /// Norm before `ffn_down`, `[n_ff]`: BitNet.
    FfnSubNorm = "ffn_sub_norm", Block, lora: false;
    /// Norm of what the feed-forward part adds, `[n_embd]`: Gemma.
    PostFfwNorm = "post_ffw_norm", Block, lora: false;
    /// Chooses the experts, `[n_embd, n_expert]`.
    FfnGateInp = "ffn_gate_inp", Block, lora: false;
    /// `[n_embd, n_ff, n_expert]`.
    FfnGateExps = "ffn_gate_exps", Block, lora: false;
    /// `[n_embd, n_ff, n_expert]`.
    FfnUpExps = "ffn_up_exps", Block, lora: false;
    /// `[n_ff, n_embd, n_expert]`.
    FfnDownExps = "ffn_down_exps", Block, lora: false;
}

impl TensorRole {
    /// The role with this [`stem`](Self::stem).
    pub fn from_stem(stem: &str) -> Option<TensorRole> {
        Self::ALL.iter().copied().find(|r| r.stem() == stem)
    }

    /// Whether each block has one.
    pub fn is_per_block(self) -> bool {
        self.scope() == Scope::Block
    }

    /// The name of the weight in block `il`; roles outside the blocks have one name for all `il`.
    pub fn weight(self, il: u32) -> TensorName {
        self.name(il, Suffix::Weight)
    }

    /// The name of the bias in block `il`.
    pub fn bias(self, il: u32) -> TensorName {
        self.name(il, Suffix::Bias)
    }

    /// The name of the scale in block `il`: one number by which the product with the weight is multiplied.
    pub fn scale(self, il: u32) -> TensorName {
        self.name(il, Suffix::Scale)
    }

    /// The name in block `il`, with this suffix.
    pub fn name(self, il: u32, suffix: Suffix) -> TensorName {
        TensorName { role: self, il: self.is_per_block().then_some(il), suffix }
    }
}

/// The last part of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Suffix {
    /// `.weight`
    Weight,
    /// `.bias`
    Bias,
    /// `.scale`
    Scale,
    /// `.input_scale`
    InputScale,
}

impl Suffix {
    /// Every suffix.
    pub const ALL: &[Suffix] = &[Suffix::Weight, Suffix::Bias, Suffix::Scale, Suffix::InputScale];

    /// Without the dot.
    pub const fn as_str(self) -> &'static str {
        match self {
            Suffix::Weight => "weight",
            Suffix::Bias => "bias",
            Suffix::Scale => "scale",
            Suffix::InputScale => "input_scale",
        }
    }
}

/// The name of a tensor, taken apart: `blk.3.attn_q.weight` is the weight of [`AttnQ`](TensorRole::AttnQ) in block 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorName {
    /// What it is for.
    pub role: TensorRole,
    /// The block, for roles that each block has.
    pub il: Option<u32>,
    /// Weight, bias or scale.
    pub suffix: Suffix,
}

impl TensorName {
    /// Takes a name apart; `None` if it is not exactly one that [`Display`](fmt::Display) would write.
    pub fn parse(name: &str) -> Option<TensorName> {
        let (rest, suffix) = name.rsplit_once('.')?;
        let suffix = Suffix::ALL.iter().copied().find(|s| s.as_str() == suffix)?;
        let (il, stem) = match rest.strip_prefix("blk.") {
            Some(rest) => {
                let (il, stem) = rest.split_once('.')?;
                let canonical = il.bytes().all(|b| b.is_ascii_digit()) && (il == "0" || !il.starts_with('0'));
                (Some(il.parse().ok().filter(|_| canonical)?), stem)
            }
            None => (None, rest),
        };
        let role = TensorRole::from_stem(stem).filter(|r| r.is_per_block() == il.is_some())?;
        Some(TensorName { role, il, suffix })
    }
}

impl fmt::Display for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(il) = self.il {
            write!(f, "blk.{il}.")?;
        }
        write!(f, "{}.{}", self.role.stem(), self.suffix.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_table_come_back() {
        for &role in TensorRole::ALL {
            for &suffix in Suffix::ALL {
                let name = role.name(17, suffix);
                assert_eq!(TensorName::parse(&name.to_string()), Some(name));
                assert_eq!(name.il.is_some(), name.to_string().starts_with("blk.17."));
            }
        }
        assert_eq!(TensorRole::AttnQ.weight(3).to_string(), "blk.3.attn_q.weight");
        assert_eq!(TensorRole::Output.weight(3).to_string(), "output.weight");
        assert_eq!(TensorRole::FfnDown.scale(0).to_string(), "blk.0.ffn_down.scale");
    }

    #[test]
    fn stems_are_unique() {
        for &role in TensorRole::ALL {
            assert_eq!(TensorRole::from_stem(role.stem()), Some(role));
        }
    }

    #[test]
    fn other_names_do_not_parse() {
        for name in [
            "",
            ".",
            "output",
            "output.weights",
            "attn_q.weight",
            "blk.0.output.weight",
            "blk.attn_q.weight",
            "blk.00.attn_q.weight",
            "blk.+1.attn_q.weight",
            "blk.-1.attn_q.weight",
            "blk.4294967296.attn_q.weight",
            "blk.0.attn_q.weight.lora_a",
            "blk.0.attn_q2.weight",
            "blk.0..weight",
            "blk..attn_q.weight",
        ] {
            assert_eq!(TensorName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn only_matrices_take_lora() {
        let takes: Vec<_> = TensorRole::ALL.iter().filter(|r| r.takes_lora()).map(|r| r.stem()).collect();
        let expected =
            ["output", "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
        assert_eq!(takes, expected);
    }
}
