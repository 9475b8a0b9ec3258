//! The tokens with a meaning of their own: begin, end, turns, and fill-in-the-middle.

use gguf::Metadata;

use super::VocabError;
use super::special::TokenAttr;
use super::token_table::TokenTable;

/// Ids of the tokens with a meaning, as far as the vocabulary has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begin of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// End of message.
    pub eom: Option<u32>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<u32>,
    /// Separates sentences.
    pub sep: Option<u32>,
    /// Fills up batches.
    pub pad: Option<u32>,
    /// A masked token.
    pub mask: Option<u32>,
    /// Line feed.
    pub nl: Option<u32>,
    /// Fill-in-the-middle: what follows comes before the middle.
    pub fim_pre: Option<u32>,
    /// Fill-in-the-middle: what follows comes after the middle.
    pub fim_suf: Option<u32>,
    /// Fill-in-the-middle: the middle follows.
    pub fim_mid: Option<u32>,
    /// Fill-in-the-middle: padding.
    pub fim_pad: Option<u32>,
    /// Fill-in-the-middle: name of the repository.
    pub fim_rep: Option<u32>,
    /// Fill-in-the-middle: separates files.
    pub fim_sep: Option<u32>,
}

/// How texts name the end of a turn.
const EOT: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];

const EOM: &[&str] = &["<|eom_id|>"];

const FIM_PRE: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];

const FIM_SUF: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];

const FIM_MID: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];

const FIM_PAD: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];

const FIM_REP: &[&str] = &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];

const FIM_SEP: &[&str] = &["<|file_sep|>"];

/// Texts that end generation, beside those of `EOT` and `EOM`.
const EOG: &[&str] = &[
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "</s>",
    "[EOS]",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "[e~[",
];

/// Shown even where control tokens are not.
const ALWAYS_SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Reads, finds and marks the special tokens of one vocabulary.
pub(super) struct Finder<'a> {
    pub tokens: &'a TokenTable,
    pub attrs: &'a mut [TokenAttr],
    pub warnings: &'a mut Vec<String>,
}

impl Finder<'_> {
    /// The ids that the file names, over the defaults of the tokenizer model.
    pub fn read(&mut self, metadata: &Metadata, mut ids: SpecialIds) -> Result<SpecialIds, VocabError> {
        let keys = [
            ("tokenizer.ggml.bos_token_id", &mut ids.bos),
            ("tokenizer.ggml.eos_token_id", &mut ids.eos),
            ("tokenizer.ggml.eot_token_id", &mut ids.eot),
            ("tokenizer.ggml.eom_token_id", &mut ids.eom),
            ("tokenizer.ggml.unknown_token_id", &mut ids.unk),
            // The misspelling is the format's.
            ("tokenizer.ggml.seperator_token_id", &mut ids.sep),
            ("tokenizer.ggml.padding_token_id", &mut ids.pad),
            ("tokenizer.ggml.mask_token_id", &mut ids.mask),
            ("tokenizer.ggml.fim_pad_token_id", &mut ids.fim_pad),
            ("tokenizer.ggml.fim_rep_token_id", &mut ids.fim_rep),
            ("tokenizer.ggml.fim_sep_token_id", &mut ids.fim_sep),
        ];
        for (key, id) in keys {
            self.read_one(metadata, key, id)?;
        }
        // The old names come last, and so win.
        for part in ["fim_pre", "prefix"] {
            self.read_one(metadata, &format!("tokenizer.ggml.{part}_token_id"), &mut ids.fim_pre)?;
        }
        for part in ["fim_suf", "suffix"] {
            self.read_one(metadata, &format!("tokenizer.ggml.{part}_token_id"), &mut ids.fim_suf)?;
        }
        for part in ["fim_mid", "middle"] {
            self.read_one(metadata, &format!("tokenizer.ggml.{part}_token_id"), &mut ids.fim_mid)?;
        }
        Ok(ids)
    }

    fn read_one(&mut self, metadata: &Metadata, key: &str, id: &mut Option<u32>) -> Result<(), VocabError> {
        let n = self.attrs.len();
        if let Some(default) = id.filter(|&id| id as usize >= n) {
            self.warnings.push(format!("{key} defaults to {default}, but there are only {n} tokens: it is not set"));
            *id = None;
        }
        match metadata.u32(key)? {
            Some(new) if new as usize >= n => {
                let kept = id.map_or("is not set".to_string(), |id| format!("stays {id}"));
                self.warnings.push(format!("{key} is {new}, but there are only {n} tokens: it {kept}"));
            }
            Some(new) => *id = Some(new),
            None => {}
        }
        Ok(())
    }

    /// Finds by their texts the tokens that the file does not name, and marks what else is known by its text. Gives the
    /// tokens that end generation, in ascending order.
    pub fn find(&mut self, ids: &mut SpecialIds) -> Vec<u32> {
        for (id, texts) in [
            (&mut ids.eot, EOT),
            (&mut ids.eom, EOM),
            (&mut ids.fim_pre, FIM_PRE),
            (&mut ids.fim_suf, FIM_SUF),
            (&mut ids.fim_mid, FIM_MID),
            (&mut ids.fim_pad, FIM_PAD),
            (&mut ids.fim_rep, FIM_REP),
            (&mut ids.fim_sep, FIM_SEP),
        ] {
            if id.is_none() {
                *id = texts.iter().find_map(|text| self.tokens.find(text.as_bytes()));
                id.iter().for_each(|&id| self.mark_control(id));
            }
        }
        for (id, attr) in (0u32..).zip(self.attrs.iter_mut()) {
            let text = self.tokens.get(id).unwrap_or_default();
            if attr.any(TokenAttr::CONTROL) && memchr::memmem::find(text, b"unused").is_some() {
                *attr = attr.with(TokenAttr::UNUSED);
            }
        }
        let mut eog = Vec::new();
        for text in EOT.iter().chain(EOM).chain(EOG) {
            if let Some(id) = self.tokens.find(text.as_bytes()) {
                self.mark_control(id);
                eog.push(id);
            }
        }
        for text in ALWAYS_SHOWN {
            if let Some(id) = self.tokens.find(text.as_bytes()) {
                self.attrs[id as usize] = TokenAttr::USER_DEFINED;
            }
        }
        eog.extend([ids.fim_pad, ids.fim_rep, ids.fim_sep, ids.eos, ids.eot, ids.eom].into_iter().flatten());
        eog.sort_unstable();
        eog.dedup();
        self.except(&mut eog);
        eog
    }

    /// Texts that end generation in most vocabularies, but not beside certain others.
    fn except(&mut self, eog: &mut Vec<u32>) {
        let has = |text: &str| self.tokens.find(text.as_bytes()).filter(|id| eog.contains(id));
        let call = has("<|call|>").or(has("<|calls|>"));
        let mut drop = Vec::new();
        if let (Some(end), Some(_), Some(_)) = (has("<|end|>"), call, has("<|return|>").or(has("<|flush|>"))) {
            drop.push((end, TokenAttr::USER_DEFINED));
        }
        if let (Some(end), Some(_)) = (has("</s>"), has("<|tool_response>")) {
            drop.push((end, TokenAttr::NORMAL));
        }
        for (id, attr) in drop {
            eog.retain(|&other| other != id);
            self.attrs[id as usize] = attr;
        }
    }

    fn mark_control(&mut self, id: u32) {
        let attr = &mut self.attrs[id as usize];
        if !attr.any(TokenAttr::CONTROL) {
            let text = String::from_utf8_lossy(self.tokens.get(id).unwrap_or_default());
            self.warnings
                .push(format!("token {id} {text:?} looks like a control token but has another type: it is made one"));
            *attr = attr.with(TokenAttr::CONTROL);
        }
    }
}
