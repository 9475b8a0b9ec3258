//! Tokens to run together.

/// A batch that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// No such token.
    #[error("token {token} is not below the vocabulary's {n_vocab}")]
    Token {
        /// As given.
        token: u32,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// No such sequence.
    #[error("sequence {seq} is not below the context's {n_seq_max}")]
    Sequence {
        /// As given.
        seq: usize,
        /// Sequences that the context was made for.
        n_seq_max: usize,
    },
    /// Positions of a sequence follow each other without gaps.
    #[error("position {got} of sequence {seq} does not follow the {expected} that are there")]
    Position {
        /// The sequence.
        seq: usize,
        /// The next free position.
        expected: usize,
        /// As given.
        got: usize,
    },
    /// Fewer positions than a context shift is to discard.
    #[error("cannot discard {discard} positions after the first {keep}: the sequence has {len}")]
    Shift {
        /// Positions before.
        keep: usize,
        /// Positions to discard.
        discard: usize,
        /// Positions of the sequence.
        len: usize,
    },
    /// Local layers have not what they would show after a shift.
    #[error(
        "local layers hold only what their window shows: the context can be shifted where they hold all (swa_full)"
    )]
    ShiftedWindow,
    /// The context is full.
    #[error("the context is full: position {pos} is not below its {n_ctx}")]
    ContextFull {
        /// As given.
        pos: usize,
        /// Positions that a sequence may have.
        n_ctx: usize,
    },
}

/// One token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchToken {
    /// Id in the vocabulary.
    pub token: u32,
    /// The sequence it belongs to.
    pub seq: usize,
    /// Its position there.
    pub pos: usize,
    /// Whether its logits are wanted.
    pub logits: bool,
}

/// Tokens to run together, of one sequence or of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The tokens; those of one sequence in order of position.
    pub tokens: Vec<BatchToken>,
}

impl Batch {
    /// Tokens of sequence `seq` from position `pos`, with logits for the last one.
    pub fn of(tokens: &[u32], seq: usize, pos: usize) -> Batch {
        let last = tokens.len().saturating_sub(1);
        let token = |(i, &token)| BatchToken { token, seq, pos: pos + i, logits: i == last };
        Batch { tokens: tokens.iter().enumerate().map(token).collect() }
    }

    /// The same with logits for every token.
    pub fn with_all_logits(mut self) -> Batch {
        self.tokens.iter_mut().for_each(|t| t.logits = true);
        self
    }
}
