//! From the flags to a model on a device.

use crate::Error;
use crate::args::device::DeviceArgs;
use crate::args::model::{ModelArgs, RopeScaling};
use crate::log::{Level, Log};
use fabric_engine::{Model, ModelOptions, device};
use gguf::Gguf;
use std::sync::Arc;

/// The model that is used where none is named.
pub static BUILT_IN: &[u8] = include_bytes!("../../models/tiny-bitnet-TQ2_0.gguf");

/// Loads the model.
///
/// # Errors
/// What is wrong with the file, or with the device that is asked for.
pub fn load(args: &ModelArgs, device: &DeviceArgs, log: &Log) -> Result<Arc<Model>, Error> {
    if args.rope_scaling == Some(RopeScaling::Yarn) {
        let message = "--rope-scaling yarn is not supported: positions are scaled linearly or not at all";
        return Err(Error::Unsupported(message));
    }
    let device = device::cpu(device.options()).map_err(fabric_engine::Error::from)?;
    let (mmap, mlock) = args.mmap_mlock();
    let gguf = match &args.model {
        Some(path) if mmap => Gguf::open(path)?,
        Some(path) => Gguf::read(path)?,
        None => {
            log.info("no model given (-m): using the small one that is built in, 6M parameters, trained on the King James Bible");
            Gguf::from_bytes(BUILT_IN)?
        }
    };
    if mlock && let Err(e) = gguf.lock() {
        log.warning(format_args!("cannot keep the model in memory: {e}"));
    }
    describe_file(&gguf, log);
    let (overrides, warnings) = args.overrides(gguf.metadata());
    warnings.iter().for_each(|w| log.warning(w));
    for (key, value) in &overrides {
        log.info(format_args!("override: {key} = {value}"));
    }
    let model = Model::load(gguf, device, ModelOptions { overrides }).map_err(|source| match &args.model {
        Some(path) => Error::Model { path: path.clone(), source },
        None => source.into(),
    })?;
    model.notices().iter().for_each(|n| log.warning(n));
    let hp = model.hparams();
    log.info(format_args!(
        "model: {}, {} layers, n_embd = {}, n_vocab = {}, trained for {} tokens",
        model.arch().name(),
        hp.n_layer,
        hp.n_embd,
        hp.n_vocab,
        hp.n_ctx_train
    ));
    log.info(format_args!("device: {} ({})", model.device().name(), model.device().describe()));
    if let Some(vocab) = model.vocab() {
        vocab.warnings().iter().for_each(|w| log.warning(w));
    }
    Ok(Arc::new(model))
}

fn describe_file(gguf: &Gguf, log: &Log) {
    if !log.tells(Level::Trace) {
        return;
    }
    let (keys, tensors) = (gguf.metadata().len(), gguf.tensors().len());
    log.trace(format_args!("file: GGUF version {}, {keys} keys, {tensors} tensors", gguf.version()));
    for (key, value) in gguf.metadata().iter() {
        let text: String = format!("{key} {} = {value}", value.type_name()).escape_debug().take(200).collect();
        log.trace(format_args!("- {text}"));
    }
}
