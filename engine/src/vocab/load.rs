//! A vocabulary from the keys of a GGUF file.

use gguf::{Array, Metadata, StringArray, Value, key};

use super::bpe::Bpe;
use super::pre_tokenizer::{self, PreTokenizer};
use super::special::{SpecialTokens, TokenAttr};
use super::special_ids::{Finder, SpecialIds};
use super::spm::Spm;
use super::token_table::TokenTable;
use super::{Algorithm, Vocab, VocabError};

const MODEL: &str = key::TOKENIZER_MODEL;
const PRE: &str = key::TOKENIZER_PRE;
const TOKENS: &str = key::TOKENIZER_TOKENS;
const SCORES: &str = key::TOKENIZER_SCORES;
const TOKEN_TYPE: &str = key::TOKENIZER_TOKEN_TYPE;
const MERGES: &str = key::TOKENIZER_MERGES;
const BOS_ID: &str = key::TOKENIZER_BOS_TOKEN_ID;
const EOS_ID: &str = key::TOKENIZER_EOS_TOKEN_ID;
const ADD_BOS: &str = key::TOKENIZER_ADD_BOS_TOKEN;
const ADD_EOS: &str = key::TOKENIZER_ADD_EOS_TOKEN;
const ADD_SPACE_PREFIX: &str = key::TOKENIZER_ADD_SPACE_PREFIX;

/// BitNet b1.58 2B4T has the tokenizer of Llama 3 with this many tokens, and files of it lack the pre-tokenizer.
const N_TOKENS_LLAMA3: usize = 128_256;

impl Vocab {
    /// Reads the vocabulary of a model.
    ///
    /// # Errors
    /// If a key has the wrong type, an array the wrong length, a token occurs twice, or the tokenizer is not supported.
    pub fn from_metadata(metadata: &Metadata) -> Result<Vocab, VocabError> {
        let mut warnings = Vec::new();
        let model = metadata.require_str(MODEL)?;
        let mut tokens = read_tokens(metadata, &mut warnings)?;
        let mut attrs = read_attrs(metadata, tokens.len())?;
        let defaults = match model {
            "llama" => spm(metadata, &tokens)?,
            "gpt2" => bpe(metadata, &mut tokens, &mut warnings)?,
            got => return Err(unknown_model(got)),
        };
        tokens.shrink_to_fit();

        let mut finder = Finder { tokens: &tokens, attrs: &mut attrs, warnings: &mut warnings };
        let mut ids = finder.read(metadata, defaults.ids)?;
        let eog = finder.find(&mut ids);
        let special_tokens = SpecialTokens::new(&tokens, &attrs);
        set_strips(metadata, &tokens, special_tokens.ids(), &mut attrs)?;
        let flag = |key, default| Ok::<_, VocabError>(metadata.bool(key)?.unwrap_or(default));
        let mut vocab = Vocab {
            add_bos: flag(ADD_BOS, defaults.add_bos)?,
            add_eos: flag(ADD_EOS, false)?,
            add_space_prefix: flag(ADD_SPACE_PREFIX, defaults.add_space_prefix)?,
            clean_spaces: defaults.clean_spaces,
            algorithm: defaults.algorithm,
            special: ids,
            tokens,
            attrs,
            special_tokens,
            eog,
            warnings,
        };
        check_special(vocab.add_bos, ADD_BOS, ids.bos, BOS_ID)?;
        check_special(vocab.add_eos, ADD_EOS, ids.eos, EOS_ID)?;
        vocab.special.nl = vocab.find_nl();
        Ok(vocab)
    }

    fn find_nl(&self) -> Option<u32> {
        let nl = match &self.algorithm {
            Algorithm::Spm(spm) => spm.byte_token(b'\n'),
            Algorithm::Bpe(_) => self.tokenize("\n", false, false).ok().and_then(|ids| ids.first().copied()),
        };
        nl.or(self.special.pad)
    }
}

/// What a tokenizer model has unless the file says otherwise.
struct Defaults {
    algorithm: Algorithm,
    ids: SpecialIds,
    add_bos: bool,
    add_space_prefix: bool,
    clean_spaces: bool,
}

fn spm(metadata: &Metadata, tokens: &TokenTable) -> Result<Defaults, VocabError> {
    let scores = read_scores(metadata, tokens.len())?;
    Ok(Defaults {
        algorithm: Algorithm::Spm(Box::new(Spm::new(tokens, scores))),
        ids: SpecialIds { bos: Some(1), eos: Some(2), unk: Some(0), ..SpecialIds::default() },
        add_bos: true,
        add_space_prefix: true,
        clean_spaces: false,
    })
}

fn bpe(metadata: &Metadata, tokens: &mut TokenTable, warnings: &mut Vec<String>) -> Result<Defaults, VocabError> {
    // Not used, but wrong ones are an error all the same.
    read_scores(metadata, tokens.len())?;
    let pre = pre_tokenizer_name(metadata, tokens.len(), warnings)?;
    let row = pre_tokenizer::row(pre).ok_or_else(|| unknown_pre(pre))?;
    let splitter = PreTokenizer::new(row).map_err(|_| unknown_pre(pre))?;
    let merges = metadata.require_strings(MERGES)?;
    let (bpe, n_missing) = Bpe::new(tokens, merges, MERGES, splitter, row.ignore_merges)?;
    if n_missing > 0 {
        warnings.push(format!("key {MERGES}: the results of {n_missing} merges are no tokens"));
    }
    Ok(Defaults {
        algorithm: Algorithm::Bpe(Box::new(bpe)),
        ids: SpecialIds { bos: if row.no_bos { None } else { Some(11) }, eos: Some(11), ..SpecialIds::default() },
        add_bos: row.add_bos,
        add_space_prefix: false,
        clean_spaces: row.clean_spaces,
    })
}

/// A token that is added to each text must exist.
fn check_special(add: bool, flag: &'static str, id: Option<u32>, id_key: &'static str) -> Result<(), VocabError> {
    if add && id.is_none() {
        return Err(VocabError::NoSuchSpecialToken { flag, id: id_key });
    }
    Ok(())
}

fn unknown_model(model: &str) -> VocabError {
    VocabError::UnknownModel { key: MODEL, got: model.chars().take(64).collect() }
}

fn unknown_pre(pre: &str) -> VocabError {
    VocabError::UnknownPreTokenizer { key: PRE, got: pre.chars().take(64).collect() }
}

/// The name of the pre-tokenizer, with what to take where a file has none.
fn pre_tokenizer_name<'a>(
    metadata: &'a Metadata,
    n_tokens: usize,
    warnings: &mut Vec<String>,
) -> Result<&'a str, VocabError> {
    if let Some(pre) = metadata.str(PRE)?.filter(|pre| !pre.is_empty()) {
        return Ok(pre);
    }
    let pre = match metadata.str("general.architecture")? {
        Some("bitnet-b1.58") => "llama-bpe",
        Some("bitnet") if n_tokens == N_TOKENS_LLAMA3 => "llama-bpe",
        _ => "default",
    };
    let degraded = if pre == "default" { ", which may degrade what is generated" } else { "" };
    warnings.push(format!("key {PRE} is missing: {pre:?} is used{degraded}"));
    Ok(pre)
}

fn read_tokens(metadata: &Metadata, warnings: &mut Vec<String>) -> Result<TokenTable, VocabError> {
    let texts: &StringArray = metadata.require_strings(TOKENS)?;
    if texts.is_empty() {
        return Err(VocabError::NoTokens { key: TOKENS });
    }
    let n_bytes = texts.iter().map(<[u8]>::len).sum();
    let mut tokens = TokenTable::with_capacity(texts.len(), n_bytes);
    let mut n_empty = 0;
    for (id, text) in texts.iter().enumerate() {
        let (first, new) = if text.is_empty() {
            n_empty += 1;
            tokens.insert(format!("[EMPTY_{id}]").as_bytes())?
        } else {
            tokens.insert(text)?
        };
        if !new {
            let text = tokens.get(first).unwrap_or_default().to_vec();
            return Err(VocabError::DuplicateToken { key: TOKENS, text, first, second: id });
        }
    }
    if n_empty > 0 {
        warnings.push(format!("key {TOKENS}: {n_empty} tokens are empty"));
    }
    Ok(tokens)
}

/// The score of each token, 0 if the file has none.
fn read_scores(metadata: &Metadata, n_tokens: usize) -> Result<Vec<f32>, VocabError> {
    let mut scores = match metadata.get(SCORES) {
        None => vec![0.0; n_tokens],
        Some(Value::Array(Array::I32(scores))) => scores.iter().map(|&score| score as f32).collect(),
        // Any other type is an error of the getter.
        Some(_) => metadata.f32s(SCORES)?.unwrap_or_default().to_vec(),
    };
    check_len(SCORES, n_tokens, scores.len())?;
    scores.truncate(n_tokens);
    match scores.iter().position(|score| score.is_nan()) {
        Some(id) => Err(VocabError::NanScore { key: SCORES, id }),
        None => Ok(scores),
    }
}

fn read_attrs(metadata: &Metadata, n_tokens: usize) -> Result<Vec<TokenAttr>, VocabError> {
    let Some(types) = metadata.i32s(TOKEN_TYPE)? else {
        return Ok(vec![TokenAttr::NORMAL; n_tokens]);
    };
    check_len(TOKEN_TYPE, n_tokens, types.len())?;
    let attr = |&token_type: &i32| match token_type {
        1 => TokenAttr::NORMAL,
        2 => TokenAttr::UNKNOWN,
        3 => TokenAttr::CONTROL,
        4 => TokenAttr::USER_DEFINED,
        5 => TokenAttr::UNUSED,
        6 => TokenAttr::BYTE,
        _ => TokenAttr::UNDEFINED,
    };
    Ok(types[..n_tokens].iter().map(attr).collect())
}

fn check_len(key: &'static str, expected: usize, got: usize) -> Result<(), VocabError> {
    if got < expected { Err(VocabError::ArrayTooShort { key, expected, got }) } else { Ok(()) }
}

/// Which tokens swallow white space is not in the file: llama.cpp goes by the names of models.
fn set_strips(
    metadata: &Metadata,
    tokens: &TokenTable,
    special: &[u32],
    attrs: &mut [TokenAttr],
) -> Result<(), VocabError> {
    let set = |attrs: &mut [TokenAttr], text: &str, change: fn(TokenAttr) -> TokenAttr| {
        if let Some(attr) = tokens.find(text.as_bytes()).and_then(|id| attrs.get_mut(id as usize)) {
            *attr = change(*attr);
        }
    };
    let pre = metadata.str(PRE)?.unwrap_or_default();
    let name = metadata.str("general.name")?.unwrap_or_default().to_ascii_lowercase();
    if ["jina-v2-de", "jina-v2-es", "jina-v2-code"].iter().any(|part| pre.contains(part)) {
        set(attrs, "<mask>", |attr| attr.with(TokenAttr::LSTRIP));
    } else if name.contains("phi-3") || name.contains("phi3") {
        for &id in special {
            attrs[id as usize] = attrs[id as usize].with(TokenAttr::RSTRIP);
        }
        set(attrs, "</s>", |attr| attr.with(TokenAttr::RSTRIP));
        for text in ["<unk>", "<s>", "<|endoftext|>"] {
            set(attrs, text, |attr| attr.without(TokenAttr::RSTRIP));
        }
    }
    Ok(())
}
