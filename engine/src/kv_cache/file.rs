//! A sequence of a KV cache in a file, to go on from it later: GGUF with the tokens, K and V of each layer, and what they
//! were computed with.

use super::{CacheTensor, KvCache};
use crate::Context;
use crate::adapter::BaseModel;
use ggml_ops::OpError;
use gguf::{Array, GgmlType, Gguf, Metadata, Value, Writer, key};
use sha2::{Digest, Sha256};
use std::path::Path;

/// `general.type`.
const TYPE: &str = "prompt_cache";
/// Version of what follows: `u32`.
const VERSION: &str = "fabric.prompt_cache.version";
const VERSION_NOW: u32 = 1;
/// Name of the model: `str`.
const NAME: &str = "fabric.prompt_cache.model.name";
/// [`BaseModel::fingerprint`] of the model: `str`.
const FINGERPRINT: &str = "fabric.prompt_cache.model.fingerprint";
/// SHA-256 of everything else that K and V depend on, in hexadecimal: `str`.
const SETTINGS: &str = "fabric.prompt_cache.settings";
/// SHA-256 of the adapters in use, in hexadecimal: `str`.
const ADAPTERS: &str = "fabric.prompt_cache.adapters";
/// The tokens: `u32[]`.
const TOKENS: &str = "fabric.prompt_cache.tokens";
/// SHA-256 of tokens and data, in hexadecimal: `str`.
const SHA256: &str = "fabric.prompt_cache.sha256";

/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;

/// Why a stored sequence cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum CacheFileError {
    /// The file is no good GGUF, or cannot be read or written.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// The device failed.
    #[error(transparent)]
    Op(#[from] OpError),
    /// Another kind of file.
    #[error("it is no prompt cache ({0})")]
    NotACache(String),
    /// Made with something else than what is used now.
    #[error("it was made with another {what}: {file}, and here it is {here}")]
    Differs {
        /// What differs.
        what: &'static str,
        /// In the file.
        file: String,
        /// Now.
        here: String,
    },
    /// Data that has changed since it was written.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Local layers have not all rows.
    #[error("local layers hold only what their window shows: the cache can be stored where they hold all (swa_full)")]
    Window,
    /// A sequence that has not all rows of its tokens.
    #[error("{n_tokens} tokens cannot be stored: the cache has K and V of {n_cached}")]
    Incomplete {
        /// To be stored.
        n_tokens: usize,
        /// In the cache.
        n_cached: usize,
    },
}

/// A stored sequence that fits a context: its model and adapters, and its types of K and V.
pub struct CacheFile {
    gguf: Gguf,
    tokens: Vec<u32>,
}

impl CacheFile {
    /// Opens and checks a file.
    ///
    /// # Errors
    /// What is wrong with it, or does not fit the context.
    pub fn open(path: impl AsRef<Path>, context: &Context) -> Result<CacheFile, CacheFileError> {
        CacheFile::check(Gguf::open(path)?, context)
    }

    /// As [`open`](Self::open), for a file in memory.
    ///
    /// # Errors
    /// As there.
    pub fn from_bytes(bytes: Vec<u8>, context: &Context) -> Result<CacheFile, CacheFileError> {
        CacheFile::check(Gguf::from_bytes(bytes)?, context)
    }

    /// The tokens whose K and V are stored.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    fn check(gguf: Gguf, context: &Context) -> Result<CacheFile, CacheFileError> {
        if context.cache().has_window() {
            return Err(CacheFileError::Window);
        }
        let m = gguf.metadata();
        let kind = m.str(key::GENERAL_TYPE)?.unwrap_or("model");
        if kind != TYPE {
            return Err(CacheFileError::NotACache(format!("a GGUF file of type '{kind}'")));
        }
        let differs = |what, file: &str, here: &str| {
            let (file, here) = (file.to_owned(), here.to_owned());
            if file == here { Ok(()) } else { Err(CacheFileError::Differs { what, file, here }) }
        };
        differs("version of its format", &m.require_u32(VERSION)?.to_string(), &VERSION_NOW.to_string())?;
        let base = BaseModel::named(context.model().gguf());
        if Some(m.require_str(FINGERPRINT)?) != base.fingerprint.as_deref() {
            let here = model_name(&base);
            let file = m.str(NAME)?.unwrap_or("one without a name").to_owned();
            let here = if file == here { "another file of that name".into() } else { here };
            return Err(CacheFileError::Differs { what: "model", file, here });
        }
        if m.require_str(SETTINGS)? != settings(context) {
            return Err(CacheFileError::NotACache(
                "one of this model with other settings: --override-kv, --rope-*, or -c where RoPE depends on it".into(),
            ));
        }
        if m.require_str(ADAPTERS)? != adapters(context)? {
            return Err(CacheFileError::NotACache("one of this model with other adapters: --lora".into()));
        }
        let tokens = match m.get(TOKENS) {
            Some(Value::Array(Array::U32(tokens))) => tokens.clone(),
            other => {
                let got = other.map_or("nothing", Value::type_name);
                return Err(CacheFileError::Damaged(format!("key {TOKENS} is {got}, expected u32[]")));
            }
        };
        let n_vocab = context.model().hparams().n_vocab;
        if let Some(token) = tokens.iter().find(|&&t| t as usize >= n_vocab) {
            return Err(CacheFileError::Damaged(format!("token {token} is not below the vocabulary's {n_vocab}")));
        }
        let expected = m.require_str(SHA256)?;
        let mut hash = Sha256::new();
        hash.update(bytemuck::cast_slice(&tokens));
        for (name, ty, width, _) in tensors(context.cache()) {
            let missing = || CacheFileError::Damaged(format!("tensor '{name}' is missing"));
            let info = gguf.tensor(&name).ok_or_else(missing)?;
            let names = |ty: GgmlType| ty.name().to_lowercase();
            let which = if name.starts_with("cache_k") { "type of K (-ctk)" } else { "type of V (-ctv)" };
            differs(which, &names(info.ty), &names(ty))?;
            if info.ne != [width, tokens.len(), 1, 1] {
                let what = format!("tensor '{name}' has shape {:?}, expected [{width}, {}]", info.ne, tokens.len());
                return Err(CacheFileError::Damaged(what));
            }
            hash.update(gguf.data(info));
        }
        if hex(hash) != expected {
            return Err(CacheFileError::Damaged("its data does not have the checksum that it should".into()));
        }
        Ok(CacheFile { gguf, tokens })
    }

    /// Makes the first `n` tokens of the file the past of sequence `seq`; at most as many as it has and the context takes.
    ///
    /// # Errors
    /// Where the device fails; then the sequence is forgotten.
    pub fn load(&self, context: &mut Context, seq: usize, n: usize) -> Result<(), CacheFileError> {
        let n = n.min(self.tokens.len()).min(context.n_ctx());
        let cache = context.cache_mut();
        cache.truncate(seq, 0);
        if cache.has_window() {
            return Err(CacheFileError::Window);
        }
        if seq >= cache.n_seq_max() {
            return Ok(());
        }
        for (name, _, _, t) in tensors(cache) {
            let row = t.row_bytes();
            let data = self.gguf.tensor(&name).map(|info| self.gguf.data(info)).unwrap_or_default();
            t.buffer.write(seq * cache.n_ctx * row, data.get(..n * row).unwrap_or_default())?;
        }
        cache.lengths[seq] = n;
        Ok(())
    }
}

impl Context {
    /// Stores `tokens`, which are the past of sequence `seq` or its beginning, with their K and V.
    ///
    /// # Errors
    /// [`CacheFileError::Incomplete`]; or where the device fails, or the file cannot be written, and then what was there under
    /// its name is still there.
    pub fn save_cache(&self, path: impl AsRef<Path>, seq: usize, tokens: &[u32]) -> Result<(), CacheFileError> {
        let cache = self.cache();
        let (n_tokens, n_cached) = (tokens.len(), cache.len(seq));
        if n_tokens > n_cached || n_tokens == 0 {
            return Err(CacheFileError::Incomplete { n_tokens, n_cached });
        }
        if cache.has_window() {
            return Err(CacheFileError::Window);
        }
        let base = BaseModel::named(self.model().gguf());
        let mut hash = Sha256::new();
        hash.update(bytemuck::cast_slice(tokens));
        cache.for_each_piece(seq, n_tokens, |_, bytes| {
            hash.update(bytes);
            Ok(())
        })?;
        let mut m = Metadata::new();
        m.insert(key::GENERAL_TYPE, TYPE);
        m.insert(VERSION, VERSION_NOW);
        m.insert(NAME, model_name(&base).as_str());
        m.insert(FINGERPRINT, base.fingerprint.unwrap_or_default().as_str());
        m.insert(SETTINGS, settings(self).as_str());
        m.insert(ADAPTERS, adapters(self)?.as_str());
        m.insert(TOKENS, Value::Array(Array::U32(tokens.to_vec())));
        m.insert(SHA256, hex(hash).as_str());
        let mut writer = Writer::new(m)?;
        for (name, ty, width, _) in tensors(cache) {
            writer.add_tensor(&name, ty, &[width, n_tokens])?;
        }
        let mut out = writer.create(path)?;
        cache.for_each_piece(seq, n_tokens, |name, bytes| Ok(out.write_part(name, bytes)?))?;
        Ok(out.finish()?)
    }
}

impl KvCache {
    /// Hands over the first `n` rows of a sequence in all tensors, in order.
    fn for_each_piece(
        &self,
        seq: usize,
        n: usize,
        mut f: impl FnMut(&str, &[u8]) -> Result<(), CacheFileError>,
    ) -> Result<(), CacheFileError> {
        let mut piece = vec![0; PIECE];
        for (name, _, _, t) in tensors(self) {
            let row = t.row_bytes();
            let (start, len) = (seq * self.n_ctx * row, n * row);
            for at in (0..len).step_by(PIECE) {
                let piece = &mut piece[..PIECE.min(len - at)];
                t.buffer.read(start + at, piece)?;
                f(&name, piece)?;
            }
        }
        Ok(())
    }
}

/// Name, type, width and data of K and V of every layer.
fn tensors(cache: &KvCache) -> impl Iterator<Item = (String, GgmlType, usize, &CacheTensor)> {
    cache.layers.iter().enumerate().flat_map(|(il, kv)| {
        kv.iter().zip(["k", "v"]).map(move |(t, which)| (format!("cache_{which}.{il}"), t.desc.ty, t.desc.ne[0], t))
    })
}

fn model_name(base: &BaseModel) -> String {
    base.name.clone().unwrap_or_else(|| "one without a name".into())
}

/// Of the hyperparameters, with overrides, and of RoPE's angles, which may depend on the size of the context.
fn settings(context: &Context) -> String {
    let model = context.model();
    let angles = model.rope(context.n_ctx()).turn(1);
    hex(Sha256::new_with_prefix(format!("{:?} {angles:?}", model.hparams())))
}

/// SHA-256 of all matrices of the adapters and their scales.
fn adapters(context: &Context) -> Result<String, OpError> {
    let mut hash = Sha256::new();
    for adapter in context.adapters() {
        for (name, pair) in adapter.pairs() {
            hash.update(name.to_string());
            hash.update(adapter.scale(pair).to_le_bytes());
            for buffer in [&pair.a_buffer, &pair.b_buffer] {
                let mut bytes = vec![0; buffer.len()];
                buffer.read(0, &mut bytes)?;
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(&bytes);
            }
        }
    }
    Ok(hex(hash))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}
