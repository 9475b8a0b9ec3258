//! From the flags to adapters for a model.

use crate::Error;
use crate::args::adapter::AdapterArgs;
use crate::log::Log;
use fabric_engine::adapter::{Adapter, AdapterError, LoadedAdapter, read_peft};
use fabric_engine::{DeviceOptions, Model, ModelOptions, device};
use gguf::Gguf;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads the adapters of the flags, and loads them to the model's device.
///
/// # Errors
/// What is wrong with one of the files, or does not fit the model.
pub fn load(args: &AdapterArgs, model: &Model, log: &Log) -> Result<Vec<Arc<LoadedAdapter>>, Error> {
    let load = |(path, scale): (PathBuf, f32)| {
        log.info(format_args!("loading lora adapter from '{}' ...", path.display()));
        let adapter = match peft_folder(&path) {
            Some(folder) => read_peft(folder, model),
            None => Adapter::read(&Gguf::open(&path)?, model),
        };
        let adapter = adapter.map_err(|e| in_file(&path, e))?;
        log.info(format_args!("adapter: {}, scale {scale}", about(&adapter)));
        warnings(&adapter, model.gguf()).iter().for_each(|w| log.warning(format_args!("{}: {w}", path.display())));
        Ok(Arc::new(LoadedAdapter::new(&adapter, model.device(), scale)?))
    };
    args.all().into_iter().map(load).collect()
}

/// The folder, if this is one that PEFT wrote or the file in it.
pub fn peft_folder(path: &Path) -> Option<&Path> {
    if path.is_dir() {
        return Some(path);
    }
    let is_tensors = path.extension().is_some_and(|e| e == "safetensors");
    path.parent().filter(|_| is_tensors).map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p })
}

/// A model that adapters are checked against.
///
/// # Errors
/// What is wrong with the file.
pub fn base_model(path: &Path) -> Result<Model, Error> {
    let device = device::cpu(DeviceOptions::default()).map_err(fabric_engine::Error::from)?;
    let model = Model::load(Gguf::open(path)?, device, ModelOptions::default());
    model.map_err(|source| Error::Model { path: path.into(), source })
}

/// An error with the file that it is in.
pub fn in_file(path: &Path, error: AdapterError) -> Error {
    match error {
        // These name the file.
        AdapterError::Peft { .. } | AdapterError::Io { .. } | AdapterError::Gguf(gguf::Error::File { .. }) => {
            error.into()
        }
        source => Error::Adapter { path: path.into(), source },
    }
}

/// Number of tensors, rank and alpha.
pub fn about(adapter: &Adapter) -> String {
    let mut ranks: Vec<usize> = adapter.pairs.values().map(|p| p.rank).collect();
    ranks.sort_unstable();
    ranks.dedup();
    let rank = match ranks.as_slice() {
        [first, .., last] => format!("{first} to {last}"),
        one => one.first().copied().unwrap_or(0).to_string(),
    };
    let alpha = if adapter.alpha == 0.0 { "none".into() } else { adapter.alpha.to_string() };
    format!("{} matrices, rank {rank}, alpha {alpha}", adapter.pairs.len())
}

/// What may surprise about an adapter that is used with a model.
pub fn warnings(adapter: &Adapter, model: &Gguf) -> Vec<String> {
    let mut warnings = Vec::new();
    warnings.extend(adapter.base.as_ref().and_then(|base| base.differs_from(model)).map(|d| d.to_string()));
    if let Some(first) = adapter.unused.first() {
        let n = adapter.unused.len();
        warnings.push(format!(
            "{n} of its pairs have no effect, as nothing multiplies by their tensors ('{first}' for one)"
        ));
    }
    if adapter.pairs.is_empty() {
        warnings.push("the adapter changes nothing: it has no pairs of matrices".into());
    }
    warnings
}
