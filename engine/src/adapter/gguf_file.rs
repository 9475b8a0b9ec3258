//! Adapters in GGUF files, as llama.cpp reads and writes them.

use super::{Adapter, AdapterError, BaseModel, LoraPair, is_lookup};
use crate::Model;
use ggml_ops::quants;
use gguf::{GgmlType, Gguf, Metadata, TensorInfo, TensorName, Writer, key};
use std::collections::BTreeMap;
use std::path::Path;

/// A or B.
const SUFFIXES: [&str; 2] = [".lora_a", ".lora_b"];

impl Adapter {
    /// Reads an adapter for a model from its file, and checks all that llama.cpp does.
    ///
    /// # Errors
    /// What is wrong with the file, or does not fit the model; the message names the key or tensor.
    pub fn read(file: &Gguf, model: &Model) -> Result<Adapter, AdapterError> {
        Adapter::read_for(file, model.gguf())
    }

    /// As [`read`](Self::read), for a model that is not loaded.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_for(file: &Gguf, model: &Gguf) -> Result<Adapter, AdapterError> {
        let adapter = header(file)?;
        let expected = model.metadata().require_str(key::GENERAL_ARCHITECTURE)?;
        if adapter.architecture != expected {
            return Err(AdapterError::Architecture { expected: expected.into(), got: adapter.architecture });
        }
        with_pairs(file, adapter, Some(model))
    }

    /// Reads an adapter without a model that it could be checked against: to show what it is.
    ///
    /// # Errors
    /// As [`read`](Self::read), but for what depends on the model.
    pub fn inspect(file: &Gguf) -> Result<Adapter, AdapterError> {
        with_pairs(file, header(file)?, None)
    }

    /// Writes the adapter in F32. The file appears at `path`, or replaces what is there, only when it is complete.
    ///
    /// # Errors
    /// If it cannot be written; or [`AdapterError::Alpha`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), AdapterError> {
        check_alpha("alpha", self.alpha)?;
        let mut m = Metadata::new();
        m.insert(key::GENERAL_ARCHITECTURE, self.architecture.as_str());
        m.insert(key::GENERAL_TYPE, "adapter");
        m.insert(key::GENERAL_NAME, "LoRA Adapter");
        m.insert(key::ADAPTER_TYPE, "lora");
        m.insert(key::ADAPTER_LORA_ALPHA, self.alpha);
        if let Some(base) = &self.base {
            base.write(&mut m);
        }
        let mut writer = Writer::new(m)?;
        let names = |name: &TensorName| SUFFIXES.map(|s| format!("{name}{s}"));
        for (name, pair) in &self.pairs {
            let [a, b] = names(name);
            writer.add_tensor(&a, GgmlType::F32, &pair.a_ne(name))?;
            writer.add_tensor(&b, GgmlType::F32, &pair.b_ne())?;
        }
        let mut out = writer.create(path)?;
        for (name, pair) in &self.pairs {
            let [a, b] = names(name);
            out.write_tensor(&a, &bytes(&pair.a))?;
            out.write_tensor(&b, &bytes(&pair.b))?;
        }
        Ok(out.finish()?)
    }
}

/// An adapter without pairs.
fn header(file: &Gguf) -> Result<Adapter, AdapterError> {
    let m = file.metadata();
    for (key, expected) in [(key::GENERAL_TYPE, "adapter"), (key::ADAPTER_TYPE, "lora")] {
        let got = m.str(key)?;
        if got != Some(expected) {
            return Err(AdapterError::NotAnAdapter { key, expected, got: got.map(str::to_owned) });
        }
    }
    let architecture = m.require_str(key::GENERAL_ARCHITECTURE)?.to_owned();
    let alpha = m.f32(key::ADAPTER_LORA_ALPHA)?.unwrap_or(0.0);
    check_alpha(key::ADAPTER_LORA_ALPHA, alpha)?;
    Ok(Adapter { architecture, alpha, pairs: BTreeMap::new(), base: BaseModel::read(m)?, unused: Vec::new() })
}

fn with_pairs(file: &Gguf, mut adapter: Adapter, model: Option<&Gguf>) -> Result<Adapter, AdapterError> {
    for (base, [a, b]) in halves(file)? {
        let (a, b) = match (a, b) {
            (Some(a), Some(b)) => (a, b),
            (a, _) => {
                let [name_a, name_b] = SUFFIXES.map(|s| format!("{base}{s}"));
                let (present, missing) = if a.is_some() { (name_a, name_b) } else { (name_b, name_a) };
                return Err(AdapterError::MissingHalf { present, missing });
            }
        };
        let name = TensorName::parse(base);
        let lookup = name.as_ref().is_some_and(is_lookup);
        check_rank(lookup, a, b)?;
        if let Some(model) = model {
            let tensor = model.tensor(base).ok_or_else(|| AdapterError::NoBaseTensor { tensor: base.into() })?;
            check_shapes(tensor, lookup, a, b)?;
        }
        match name.filter(applies) {
            Some(name) => drop(adapter.pairs.insert(name, pair(file, &name, a, b)?)),
            None => adapter.unused.push(base.into()),
        }
    }
    Ok(adapter)
}

pub(super) fn check_alpha(place: &'static str, alpha: f32) -> Result<(), AdapterError> {
    if alpha.is_finite() && alpha >= 0.0 { Ok(()) } else { Err(AdapterError::Alpha { place, got: alpha }) }
}

/// Whether the graph multiplies by the weight, or looks it up.
fn applies(name: &TensorName) -> bool {
    let is_weight = *name == name.role.weight(name.il.unwrap_or(0));
    is_weight && (name.role.takes_lora() || is_lookup(name))
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A and B by the name of the tensor that they change.
type Halves<'f> = BTreeMap<&'f str, [Option<&'f TensorInfo>; 2]>;

fn halves(file: &Gguf) -> Result<Halves<'_>, AdapterError> {
    let mut halves = Halves::new();
    for t in file.tensors() {
        let found = SUFFIXES.iter().enumerate().find_map(|(i, s)| Some((i, t.name.strip_suffix(s)?)));
        match found {
            Some((i, base)) => halves.entry(base).or_default()[i] = Some(t),
            // As llama.cpp: some converters put norms into adapters.
            None if t.name.ends_with("_norm.weight") => {}
            None => return Err(AdapterError::UnexpectedTensor { tensor: t.name.clone() }),
        }
    }
    Ok(halves)
}

/// As the file has it, without trailing dimensions of 1.
fn shape(t: &TensorInfo) -> Vec<usize> {
    t.ne[..t.n_dims.clamp(1, 4) as usize].to_vec()
}

fn wrong_shape(t: &TensorInfo, expected: String) -> AdapterError {
    AdapterError::Shape { tensor: t.name.clone(), expected, got: shape(t) }
}

/// What A and B must have in common, whatever the weight.
fn check_rank(lookup: bool, a: &TensorInfo, b: &TensorInfo) -> Result<(), AdapterError> {
    for t in [a, b] {
        if t.ne[2..] != [1, 1] || t.ne.contains(&0) {
            return Err(wrong_shape(t, "two dimensions, none of them 0".into()));
        }
    }
    let rank = b.ne[0];
    if a.ne[usize::from(!lookup)] != rank {
        let expected = if lookup { format!("[{rank}, n_vocab]") } else { format!("[n_in, {rank}]") };
        return Err(wrong_shape(a, format!("{expected}, as '{}' has rank {rank}", b.name)));
    }
    Ok(())
}

fn check_shapes(base: &TensorInfo, lookup: bool, a: &TensorInfo, b: &TensorInfo) -> Result<(), AdapterError> {
    let rank = b.ne[0];
    let beside = format!("beside '{}' of shape {:?}", base.name, shape(base));
    let (n_in, n_out) = if lookup { (base.ne[1], base.ne[0]) } else { (base.ne[0], base.ne[1]) };
    if base.ne[2..] != [1, 1] || b.ne[1] != n_out {
        return Err(wrong_shape(b, format!("[{rank}, {n_out}] {beside}")));
    }
    if a.ne[usize::from(lookup)] != n_in {
        let expected = if lookup { [rank, n_in] } else { [n_in, rank] };
        return Err(wrong_shape(a, format!("{expected:?} {beside}")));
    }
    Ok(())
}

fn pair(file: &Gguf, name: &TensorName, a: &TensorInfo, b: &TensorInfo) -> Result<LoraPair, AdapterError> {
    let n_in = if is_lookup(name) { a.ne[1] } else { a.ne[0] };
    Ok(LoraPair { a: values(file, a)?, b: values(file, b)?, rank: b.ne[0], n_in, n_out: b.ne[1] })
}

fn values(file: &Gguf, t: &TensorInfo) -> Result<Vec<f32>, AdapterError> {
    if !quants::supported(t.ty) {
        return Err(AdapterError::Type { tensor: t.name.clone(), got: t.ty });
    }
    let data = file.data(t);
    // As large as the model's own tensor in one dimension, and as the file's data in the other.
    let mut out = vec![0.0; t.n_elements()];
    let decoded = quants::validate(t.ty, data).and_then(|()| quants::dequantize(t.ty, data, &mut out));
    decoded.map_err(|error| AdapterError::Data { tensor: t.name.clone(), error })?;
    Ok(out)
}
