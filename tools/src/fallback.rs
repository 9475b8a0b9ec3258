//! `--fallback` in the middle of a run: what a GPU has computed is computed again on the CPU, with the same bits.

use crate::args::adapter::AdapterArgs;
use crate::args::device::DeviceArgs;
use crate::args::model::ModelArgs;
use crate::load::Loaded;
use crate::log::Log;
use crate::{Error, adapters, load};
use fabric_engine::{Context, ContextOptions, Model};
use std::fmt::Display;
use std::sync::Arc;

/// How to go on where a GPU fails.
#[derive(Clone, Copy)]
pub struct Fallback<'a> {
    model: &'a ModelArgs,
    device: &'a DeviceArgs,
    log: &'a Log,
}

impl<'a> Fallback<'a> {
    /// If it is asked for, and there is something to fall back from.
    pub fn new(loaded: &Loaded, model: &'a ModelArgs, device: &'a DeviceArgs, log: &'a Log) -> Option<Fallback<'a>> {
        (device.gpu.fallback && loaded.gpu.is_some()).then_some(Fallback { model, device, log })
    }

    /// Says what happened, and loads the model for the CPU.
    ///
    /// # Errors
    /// Where the file or the memory is gone.
    pub fn load(&self, why: impl Display) -> Result<Arc<Model>, Error> {
        self.log.warning(format_args!("{why}: the run goes on on the CPU"));
        load::on_cpu(self.model, self.device)
    }
}

/// A context that moves to the CPU where the GPU fails.
pub struct Resilient<'a> {
    /// The context.
    pub ctx: Context,
    options: ContextOptions,
    adapters: &'a AdapterArgs,
    fallback: Option<Fallback<'a>>,
}

impl<'a> Resilient<'a> {
    /// An empty context, with the adapters of the flags.
    ///
    /// # Errors
    /// What is wrong with an adapter, or where the memory cannot be had: on the CPU neither, if it may be used.
    pub fn new(
        model: &Arc<Model>,
        options: ContextOptions,
        adapters: &'a AdapterArgs,
        fallback: Option<Fallback<'a>>,
        log: &Log,
    ) -> Result<Resilient<'a>, Error> {
        match (make(model.clone(), options, adapters, log), fallback) {
            (Err(e), Some(fallback)) if e.is_of_device() => {
                let ctx = on_cpu(&fallback, e, options, adapters)?;
                Ok(Resilient { ctx, options, adapters, fallback: None })
            }
            (ctx, _) => Ok(Resilient { ctx: ctx?, options, adapters, fallback }),
        }
    }

    /// After an error: a context on the CPU with an empty past, if the GPU was at fault and that is wanted.
    ///
    /// # Errors
    /// The error itself otherwise.
    pub fn recover(&mut self, error: fabric_engine::Error) -> Result<(), Error> {
        match self.fallback.take() {
            Some(fallback) if error.is_of_device() => {
                self.ctx = on_cpu(&fallback, error, self.options, self.adapters)?;
                Ok(())
            }
            _ => Err(error.into()),
        }
    }
}

fn on_cpu(
    fallback: &Fallback,
    why: impl Display,
    options: ContextOptions,
    adapters: &AdapterArgs,
) -> Result<Context, Error> {
    make(fallback.load(why)?, options, adapters, &fallback.log.only_errors())
}

fn make(model: Arc<Model>, options: ContextOptions, adapters: &AdapterArgs, log: &Log) -> Result<Context, Error> {
    let n_ctx = if options.n_ctx == 0 { model.hparams().n_ctx_train } else { options.n_ctx };
    let loaded = adapters::load(adapters, &model, log)?;
    let mut ctx = Context::new(model, options).map_err(|source| Error::context(n_ctx, source))?;
    ctx.set_adapters(loaded);
    Ok(ctx)
}
