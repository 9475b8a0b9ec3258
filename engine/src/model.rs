//! A model: hyperparameters, weights on a device, vocabulary.

use crate::adapter::LoadedAdapter;
use crate::arch::{self, Architecture, HParams, Parts, TensorSpec, Weight};
use crate::device::Device;
use crate::rope::RopeAngles;
use crate::vocab::Vocab;
use crate::{Error, i2_s};
use ggml_ops::backend::SharedBytes;
use ggml_ops::{TensorDesc, quants};
use gguf::{GgmlType, Gguf, Metadata, TensorInfo, TensorName, TensorRole, Value, key};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How to load a model.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// Metadata to use instead of the file's.
    pub overrides: Vec<(String, Value)>,
    /// Let devices copy weights that are only multiplied to an order of their own, and forget the file's. Results stay the same. Not for
    /// models that are trained: their gradients need the weights as they are.
    pub repack: bool,
}

/// A model on a device.
pub struct Model {
    gguf: Gguf,
    metadata: Option<Metadata>,
    arch: &'static dyn Architecture,
    hp: HParams,
    weights: HashMap<TensorName, Weight>,
    /// In contexts of up to `n_ctx_orig` tokens, and in longer ones.
    rope: [RopeAngles; 2],
    /// Of local layers with a base of their own.
    local_rope: Option<RopeAngles>,
    vocab: Option<Vocab>,
    device: Device,
    notices: Vec<String>,
}

impl Model {
    /// Checks everything about a file, and binds its tensors to the device. Weights stay in the file where the device
    /// can read them there and has no better order for them ([`ModelOptions::repack`]).
    ///
    /// # Errors
    /// What is wrong with the file; the message names the key or the tensor.
    pub fn load(gguf: Gguf, device: Device, options: ModelOptions) -> Result<Model, Error> {
        let metadata = (!options.overrides.is_empty()).then(|| {
            let mut m = gguf.metadata().clone();
            for (key, value) in options.overrides {
                m.insert(key, value);
            }
            m
        });
        let m = metadata.as_ref().unwrap_or(gguf.metadata());
        let arch = Model::architecture(m)?;
        let vocab = match m.str(key::TOKENIZER_MODEL)? {
            None | Some("none" | "no_vocab") => None,
            Some(_) => Some(Vocab::from_metadata(m)?),
        };
        let n_vocab = vocab_size(m, arch, vocab.as_ref(), &gguf)?;
        let hp = HParams::read(m, arch, n_vocab)?;
        let specs = arch.tensors(&hp);
        let weights = bind(&gguf, arch, &specs, &device, options.repack)?;
        let mut notices = hp.notices(m, arch);
        if gguf.tensors().iter().any(|t| t.ty == GgmlType::I2_S) {
            notices.push(
                "I2_S tensors are read in the layout of x86: files made on ARM look the same, and give nonsense".into(),
            );
        }
        let rope = [TensorRole::RopeFactorsShort, TensorRole::RopeFactorsLong].map(|role| {
            let factors = [TensorRole::RopeFreqs, role].into_iter().filter(|r| weights.contains_key(&r.weight(0)));
            RopeAngles::new(&hp, factors.filter_map(|r| rope_factors(&gguf, r)).next().as_deref())
        });
        let local_base = hp.sliding_window.as_ref().and_then(|w| w.rope_freq_base);
        let local_rope = local_base.map(|base| RopeAngles::local(&hp, base));
        Ok(Model { metadata, arch, hp, weights, rope, local_rope, vocab, device, notices, gguf })
    }

    /// The architecture that the metadata names.
    pub(crate) fn architecture(m: &Metadata) -> Result<&'static dyn Architecture, Error> {
        if let Some(kind) = m.str(key::GENERAL_TYPE)?.filter(|&t| t != "model") {
            return Err(Error::NotAModel(kind.into()));
        }
        let name = m.require_str(key::GENERAL_ARCHITECTURE)?;
        arch::find(name).ok_or_else(|| Error::UnknownArchitecture {
            name: name.into(),
            known: arch::ARCHITECTURES.iter().map(|a| a.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// What users should know about how the file was read, a line each.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The file's metadata, with the overrides.
    pub fn metadata(&self) -> &Metadata {
        self.metadata.as_ref().unwrap_or(self.gguf.metadata())
    }

    /// The architecture.
    pub fn arch(&self) -> &'static dyn Architecture {
        self.arch
    }

    /// Sizes and constants.
    pub fn hparams(&self) -> &HParams {
        &self.hp
    }

    /// The weights on the device.
    pub fn weights(&self) -> &HashMap<TensorName, Weight> {
        &self.weights
    }

    /// The tokenizer, if the file has one.
    pub fn vocab(&self) -> Option<&Vocab> {
        self.vocab.as_ref()
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What its graphs are built from, with these adapters.
    pub fn parts<'m>(&'m self, adapters: &'m [Arc<LoadedAdapter>]) -> Parts<'m> {
        Parts { hp: &self.hp, weights: &self.weights, adapters, dropout: 0.0, observe: None }
    }

    /// RoPE's angles in a context of `n_ctx` positions.
    pub(crate) fn rope(&self, n_ctx: usize) -> &RopeAngles {
        &self.rope[usize::from(n_ctx > self.hp.n_ctx_orig)]
    }

    /// As [`rope`](Self::rope), for local layers.
    pub(crate) fn local_rope(&self, n_ctx: usize) -> &RopeAngles {
        self.local_rope.as_ref().unwrap_or_else(|| self.rope(n_ctx))
    }
}

/// The factors that the model divides its frequencies by, if it has some of this role.
fn rope_factors(gguf: &Gguf, role: TensorRole) -> Option<Vec<f32>> {
    let data = gguf.data(gguf.tensor(&role.weight(0).to_string())?);
    Some(data.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
}

fn vocab_size(m: &Metadata, arch: &dyn Architecture, vocab: Option<&Vocab>, gguf: &Gguf) -> Result<usize, Error> {
    let rows = gguf.tensor(&TensorRole::TokenEmbd.weight(0).to_string()).map(|t| t.ne[1]);
    match (vocab, rows) {
        (Some(vocab), Some(embd)) if vocab.len() != embd => Err(Error::VocabSize { embd, vocab: vocab.len() }),
        (Some(vocab), _) => Ok(vocab.len()),
        (None, _) => Ok(m.require_u32(&key::of_arch(arch.name(), key::VOCAB_SIZE))? as usize),
    }
}

/// Finds each tensor of the architecture in the file, checks it, and gives it to the device.
fn bind(
    gguf: &Gguf,
    arch: &'static dyn Architecture,
    specs: &[TensorSpec],
    device: &Device,
    repack: bool,
) -> Result<HashMap<TensorName, Weight>, Error> {
    let mut found = Vec::new();
    for spec in specs {
        let name = spec.name.to_string();
        match gguf.tensor(&name) {
            Some(info) => found.push((spec, info)),
            None if spec.required => return Err(Error::MissingTensor { name, arch: arch.name() }),
            None => {}
        }
    }
    let known: HashSet<&str> = found.iter().map(|(_, info)| info.name.as_str()).collect();
    if let Some(other) = gguf.tensors().iter().find(|t| !known.contains(t.name.as_str())) {
        return Err(Error::UnknownTensor { name: other.name.clone(), arch: arch.name() });
    }
    // One after the other: of several errors, always the first is told.
    found.iter().try_for_each(|(spec, info)| check_tensor(spec, info))?;
    let loaded = found.into_par_iter().map(|(spec, info)| {
        let load = |desc: &TensorDesc, uniform_scale, data: SharedBytes| {
            let device = device.of_layer(spec.name.il);
            // Rows of this matrix are looked up as well.
            let multiplied = spec.ne.len() == 2 && spec.name.role != TensorRole::TokenEmbd;
            match repack && multiplied {
                true => device.load_multiplied(desc, uniform_scale, data),
                false => device.load(desc, data),
            }
        };
        if info.ty == GgmlType::I2_S {
            let (blocks, scale) = i2_s::to_tq2_0(info, gguf.data(info))?;
            let desc = TensorDesc::new(GgmlType::TQ2_0, &spec.ne).map_err(ggml_ops::OpError::from)?;
            let buffer = load(&desc, Some(scale), Arc::new(blocks))?;
            gguf.tensor_bytes(info).forget();
            return Ok((spec.name, Weight { desc, uniform_scale: Some(scale), buffer }, Some(info)));
        }
        let desc = TensorDesc::new(info.ty, &spec.ne).map_err(ggml_ops::OpError::from)?;
        let bytes = gguf
            .tensor_bytes(info)
            .aligned(4)
            .map_err(|source| Error::Io { what: format!("tensor '{}'", info.name), source })?;
        let uniform_scale = quants::uniform_ternary_scale(info.ty, &bytes);
        let bytes = Arc::new(bytes);
        let buffer = load(&desc, uniform_scale, bytes.clone())?;
        // Nobody holds it: the device has a copy.
        let copied = Arc::into_inner(bytes).map(|bytes| {
            bytes.forget();
            info
        });
        Ok((spec.name, Weight { desc, uniform_scale, buffer }, copied))
    });
    let loaded: Vec<_> = loaded.collect::<Result<_, Error>>()?;
    // Once more: where a tensor was read, the system mapped what lies around it.
    loaded.iter().filter_map(|(.., copied)| *copied).for_each(|info| gguf.tensor_bytes(info).forget());
    Ok(loaded.into_iter().map(|(name, weight, _)| (name, weight)).collect())
}

/// Whether a tensor of the file has the shape and a type that the architecture asks for.
fn check_tensor(spec: &TensorSpec, info: &TensorInfo) -> Result<(), Error> {
    let name = || info.name.clone();
    let mut ne = [1; 4];
    ne[..spec.ne.len()].copy_from_slice(&spec.ne);
    if info.ne != ne {
        let got = info.ne[..info.n_dims.clamp(1, 4) as usize].to_vec();
        return Err(Error::TensorShape { name: name(), expected: spec.ne.clone(), got });
    }
    let is_vector = spec.ne.len() == 1;
    if is_vector && info.ty != GgmlType::F32 {
        return Err(Error::TensorType { name: name(), expected: "F32", got: info.ty });
    }
    if info.ty != GgmlType::I2_S && !quants::supported(info.ty) {
        let expected = "one of those that Fabric computes with";
        return Err(Error::TensorType { name: name(), expected, got: info.ty });
    }
    Ok(())
}
