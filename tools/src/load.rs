//! From the flags to a model on a device.

use crate::Error;
use crate::args::device::DeviceArgs;
use crate::args::model::{ModelArgs, RopeScaling};
use crate::device::{self, Chosen};
use crate::log::{Level, Log};
use fabric_engine::device::VulkanBackend;
use fabric_engine::{ContextOptions, Device, Model, ModelOptions};
use gguf::{Gguf, Value};
use std::sync::Arc;

/// The model that is used where none is named.
pub static BUILT_IN: &[u8] = include_bytes!("../../models/tiny-bitnet-TQ2_0.gguf");

/// A model, and the GPU that it runs on, if it does.
pub struct Loaded {
    /// The model.
    pub model: Arc<Model>,
    /// Its device, unless that is the CPU.
    pub gpu: Option<Arc<VulkanBackend>>,
}

/// Loads the model. `context`: what will be cached; `None`: nothing.
///
/// # Errors
/// What is wrong with the file, or with the device that is asked for.
pub fn load(args: &ModelArgs, flags: &DeviceArgs, context: Option<ContextOptions>, log: &Log) -> Result<Loaded, Error> {
    if args.rope_scaling == Some(RopeScaling::Yarn) {
        let message = "--rope-scaling yarn is not supported: positions are scaled linearly or not at all";
        return Err(Error::Unsupported(message));
    }
    if args.model.is_none() {
        log.info(
            "no model given (-m): using the small one that is built in, 6M parameters, trained on the King James Bible",
        );
    }
    let gguf = open(args, log)?;
    describe_file(&gguf, log);
    let (overrides, warnings) = args.overrides(gguf.metadata());
    warnings.iter().for_each(|w| log.warning(w));
    for (key, value) in &overrides {
        log.info(format_args!("override: {key} = {value}"));
    }
    let load = |gguf: Gguf, device| bind(args, gguf, device, overrides.clone());
    let file = device::File { gguf: &gguf, overrides: &overrides, context };
    let Chosen { device, mut gpu } = device::choose(flags, &file, log)?;
    let model = match load(gguf, device) {
        Err(e) if gpu.is_some() && flags.gpu.fallback && e.is_of_device() => {
            log.warning(format_args!("{e}: the model runs on the CPU"));
            gpu = None;
            load(open(args, log)?, Chosen::cpu(flags.options())?.device)?
        }
        result => result?,
    };
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
    Ok(Loaded { model: Arc::new(model), gpu })
}

/// Loads the model once more, for the CPU; everything there is to tell was told the first time.
///
/// # Errors
/// What is wrong with the file by now.
pub fn on_cpu(args: &ModelArgs, flags: &DeviceArgs) -> Result<Arc<Model>, Error> {
    let (mmap, _) = args.mmap_mlock();
    let gguf = read(args, mmap)?;
    let (overrides, _) = args.overrides(gguf.metadata());
    Ok(Arc::new(bind(args, gguf, Chosen::cpu(flags.options())?.device, overrides)?))
}

fn bind(args: &ModelArgs, gguf: Gguf, device: Device, overrides: Vec<(String, Value)>) -> Result<Model, Error> {
    // What is not mapped, or is to stay in memory, would be there twice.
    let repack = args.repack && args.mmap_mlock() == (true, false);
    Model::load(gguf, device, ModelOptions { overrides, repack }).map_err(|source| match &args.model {
        Some(path) => Error::Model { path: path.clone(), source },
        None => source.into(),
    })
}

fn read(args: &ModelArgs, mmap: bool) -> Result<Gguf, gguf::Error> {
    match &args.model {
        Some(path) if mmap => Gguf::open(path),
        Some(path) => Gguf::read(path),
        None => Gguf::from_bytes(BUILT_IN),
    }
}

fn open(args: &ModelArgs, log: &Log) -> Result<Gguf, Error> {
    let (mmap, mlock) = args.mmap_mlock();
    let gguf = read(args, mmap)?;
    if mlock && let Err(e) = gguf.lock() {
        log.warning(format_args!("cannot keep the model in memory: {e}"));
    }
    Ok(gguf)
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
