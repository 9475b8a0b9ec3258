//! `fabric-finetune`: trains a LoRA adapter.

mod plot;
mod report;

use super::gguf::{refuse_same_file, refuse_to_replace_input};
use crate::args;
use crate::args::finetune::{ABSENT, AdapterArgs, BackwardType, CheckpointArgs, FinetuneArgs};
use crate::fallback::Fallback;
use crate::load::{Loaded, load};
use crate::log::Log;
use crate::{Error, adapters, device, interrupt, memory};
use fabric_engine::Model;
use fabric_engine::adapter::{Adapter, BaseModel, read_peft};
use fabric_engine::device::VulkanBackend;
use fabric_engine::train::checkpoint::{self, Settings, Summary};
use fabric_engine::train::dataset::Dataset;
use fabric_engine::train::{self, Trainer};
use gguf::{AtomicFile, Gguf, TensorRole, key};
use report::Report;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs the tool; the first of `argv` is the program's name.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    args::run(
        argv,
        ABSENT,
        |args: &FinetuneArgs| &args.logging,
        |args, _, log| {
            let mut args = args.clone();
            // Gradients go through the weights as they are in the file.
            args.model.repack = false;
            args.device.bf16_gradients = args.training.backward_type == BackwardType::Bf16;
            if args.adapter.lora_seed == 0 {
                args.adapter.lora_seed = random_seed(&args)?;
                log.info(format_args!("seed: {}", args.adapter.lora_seed));
            }
            Finetune::new(&args, log)?.map_or(Ok(ExitCode::SUCCESS), Finetune::train)
        },
    )
}

struct Finetune<'a> {
    args: &'a FinetuneArgs,
    log: &'a Log,
    data: Dataset,
    trainer: Trainer,
    settings: Settings,
    summary: Summary,
    output: PathBuf,
    /// The checkpoint that this run wrote last, or was resumed from, and its steps.
    last_checkpoint: Option<(u64, PathBuf)>,
    gpu: Option<Arc<VulkanBackend>>,
    fallback: Option<Fallback<'a>>,
}

impl<'a> Finetune<'a> {
    /// Everything before the first step; `None` if that was all that was asked for.
    fn new(args: &'a FinetuneArgs, log: &'a Log) -> Result<Option<Finetune<'a>>, Error> {
        if args.device.list_devices {
            device::list()?;
            return Ok(None);
        }
        args.check()?;
        let loaded = load(&args.model, &args.device, None, log)?;
        let fallback = Fallback::new(&loaded, &args.model, &args.device, log);
        let Loaded { model, gpu } = loaded;
        let output = args.adapter.output_adapter.clone().unwrap_or_else(|| {
            let continued = args.continued().is_some();
            PathBuf::from(if continued { "finetuned-lora-adapter.gguf" } else { "trained-lora-adapter.gguf" })
        });
        check_outputs(args, &model, &output)?;
        let data = load_data(args, &model, log)?;
        let (adapter, roles) = make_adapter(args, &model, log)?;
        let total_steps = args.total_steps(data.train.len());
        let fingerprint: String = data.fingerprint().iter().map(|b| format!("{b:02x}")).collect();
        let rank = adapter.pairs.values().map(|p| p.rank).max().unwrap_or_default();
        let summary = Summary { rank, alpha: adapter.alpha, target_modules: AdapterArgs::bits(&roles) };
        log.info(format_args!(
            "adapter: rank {rank}, alpha {}, {} matrices, {} parameters",
            adapter.alpha,
            adapter.pairs.len(),
            report::grouped(adapter.n_parameters() as u64)
        ));
        let longest = data.train.longest().max(data.val.longest());
        let make = |model, adapter| {
            Trainer::new(model, adapter, args.train_options(total_steps), longest).map_err(Error::from)
        };
        let mut trainer = match (make(model.clone(), adapter.clone()), fallback) {
            (Err(e), Some(gpu)) if e.is_of_device() => make(gpu.load(e)?, adapter)?,
            (trainer, _) => trainer?,
        };
        check_memory(&trainer, log)?;
        if args.report.dry_run {
            return Ok(None);
        }
        // Reads the whole file.
        let base = BaseModel::of(model.gguf());
        let settings = args.settings(&roles, total_steps, &fingerprint, model.gguf().metadata(), &base);
        trainer.set_base(base);
        let mut run =
            Finetune { args, log, data, trainer, settings, summary, output, last_checkpoint: None, gpu, fallback };
        run.resume()?;
        Ok(Some(run))
    }

    /// Goes on from a checkpoint, if that is asked for and there is one.
    fn resume(&mut self) -> Result<(), Error> {
        let args = &self.args.checkpoint;
        let Some(dir) = resumed_from(args)? else {
            let root = &args.checkpoint_save_dir;
            if args.auto_resume {
                self.log.info(format_args!("no checkpoint in {} yet: starting from the beginning", root.display()));
            } else if let Some(dir) = checkpoint::latest(root)? {
                self.log.warning(format_args!(
                    "{} is of an earlier run: this one starts from the beginning, and --auto-resume would go on from there",
                    dir.display()
                ));
            }
            return Ok(());
        };
        let checkpoint = checkpoint::load(&dir)?;
        if checkpoint.settings.is_none() {
            self.log.warning(format_args!(
                "{}: made by another program, so settings and data cannot be compared, and the order of samples may differ",
                dir.display()
            ));
        }
        self.trainer.resume(checkpoint, &self.settings)?;
        let step = self.trainer.progress().iteration;
        self.log.info(format_args!("resuming from {} after step {step}", dir.display()));
        self.last_checkpoint = Some((step, dir));
        Ok(())
    }

    fn train(mut self) -> Result<ExitCode, Error> {
        let stop = listen()?;
        let mut report =
            Report::new(self.args, &self.output, self.trainer.total_steps(), self.trainer.progress(), self.log)?;
        let result = self.steps(&stop, &mut report);
        report.close();
        let interrupted = match result {
            Ok(interrupted) => interrupted,
            Err(e) => {
                self.tell_last_checkpoint();
                return Err(e);
            }
        };
        if interrupted {
            self.tell_last_checkpoint();
            let (steps, how) = (self.trainer.progress().iteration, self.how_to_resume());
            self.log.info(format_args!("stopped after step {steps}; {how} goes on from there"));
            return Ok(ExitCode::from(interrupt::INTERRUPTED));
        }
        if let Err(e) = self.trainer.adapter().write(&self.output) {
            // What was learned is not lost with it, if the checkpoints have another disk.
            let done = self.trainer.progress().iteration;
            if self.last_checkpoint.as_ref().is_none_or(|(step, _)| *step != done) {
                self.save(&report, false)?;
            }
            self.tell_last_checkpoint();
            return Err(e.into());
        }
        if self.args.report.plot && !self.trainer.progress().losses.is_empty() {
            for path in pictures(&self.output) {
                if let Err(e) = plot::loss_curve(&path, self.trainer.progress()) {
                    let _ = std::fs::remove_file(&path); // half a picture
                    self.log.warning(format_args!("cannot draw {}: {e}", path.display()));
                }
            }
        }
        self.tell_summary(&report);
        device::tell_profile(&self.args.device.gpu, self.gpu.as_ref());
        Ok(ExitCode::SUCCESS)
    }

    /// All steps. Answers whether the run was interrupted; then a checkpoint has been written.
    fn steps(&mut self, stop: &AtomicBool, report: &mut Report) -> Result<bool, Error> {
        let save_every = u64::try_from(self.args.checkpoint.checkpoint_save_steps).unwrap_or(0);
        let _busy = interrupt::busy();
        let stopped = || stop.load(Ordering::Relaxed) || interrupt::requested();
        loop {
            let done = self.trainer.progress().iteration;
            // What a run that was interrupted here has left out is made up for when it is resumed.
            if self.validation_is_due() {
                let loss = self.on_device(report, |trainer, data| trainer.validate(&data.val, stopped))?;
                if let Some(loss) = loss {
                    report.validation(done, loss);
                }
            }
            if stopped() {
                self.save(report, true)?;
                return Ok(true);
            }
            let saved = self.last_checkpoint.as_ref().is_some_and(|(step, _)| *step == done);
            if save_every > 0 && done > 0 && done.is_multiple_of(save_every) && !saved {
                self.save(report, false)?;
            }
            let step = self.on_device(report, |trainer, data| trainer.step(&data.train))?;
            let Some(step) = step else { return Ok(false) };
            report.step(&step);
        }
    }

    /// Before the first step, after the last one, and as `--eval-steps` has it.
    fn validation_is_due(&self) -> bool {
        let (progress, every) = (self.trainer.progress(), self.args.report.eval_steps);
        let done = progress.iteration;
        let is_done = progress.val_losses.last().is_some_and(|&(step, _)| step == done);
        let at_ends = done == 0 || done >= self.trainer.total_steps();
        let due = at_ends || if every > 0 { done.is_multiple_of(every) } else { progress.position == 0 };
        due && !is_done && !self.data.val.is_empty()
    }

    /// Runs something on the device. If a GPU fails, a checkpoint is written from the host's memory, and with `--fallback` it runs
    /// again on the CPU.
    fn on_device<T>(
        &mut self,
        report: &Report,
        run: impl Fn(&mut Trainer, &Dataset) -> Result<T, train::Error>,
    ) -> Result<T, Error> {
        let error = match run(&mut self.trainer, &self.data) {
            Err(e) if e.is_of_device() && self.gpu.is_some() => e,
            result => return Ok(result?),
        };
        self.save(report, false)?;
        let Some(fallback) = self.fallback.take() else { return Err(error.into()) };
        let model = report.suspend(|| fallback.load(&error))?;
        self.trainer.move_to(model)?;
        Ok(run(&mut self.trainer, &self.data)?)
    }

    /// Writes a checkpoint. Unless it `must` be, training goes on if that fails: the last one is still there.
    fn save(&mut self, report: &Report, must: bool) -> Result<(), Error> {
        let args = &self.args.checkpoint;
        let keep = args.checkpoint_keep as usize;
        match self.trainer.save(&args.checkpoint_save_dir, keep, &self.settings, self.summary) {
            Ok(dir) => {
                self.last_checkpoint = Some((self.trainer.progress().iteration, dir));
                Ok(())
            }
            Err(e) if must => Err(e.into()),
            Err(e) => {
                report.suspend(|| self.log.warning(format_args!("no checkpoint: {e}")));
                Ok(())
            }
        }
    }

    fn tell_last_checkpoint(&self) {
        if let Some((_, dir)) = &self.last_checkpoint {
            self.log.info(format_args!("the last checkpoint is {}", dir.display()));
        }
    }

    /// The flag that goes on from the last checkpoint of this run.
    fn how_to_resume(&self) -> String {
        let latest = checkpoint::latest(&self.args.checkpoint.checkpoint_save_dir).ok().flatten();
        match &self.last_checkpoint {
            Some((_, dir)) if latest.as_ref() != Some(dir) => format!("--resume-from {}", quoted(dir)),
            _ => "--auto-resume".into(),
        }
    }

    fn tell_summary(&self, report: &Report) {
        let (progress, log) = (self.trainer.progress(), self.log);
        report.tell_summary(progress);
        let size = std::fs::metadata(&self.output).map_or(0, |m| m.len());
        log.info(format_args!("adapter: {} ({:.1} MiB)", self.output.display(), size as f64 / f64::from(1 << 20)));
        let model = match &self.args.model.model {
            Some(path) => format!(" -m {}", quoted(path)),
            None => String::new(),
        };
        log.info(format_args!("try it: fabric-main{model} --lora {} -p \"...\"", quoted(&self.output)));
    }
}

/// The checkpoint that the flags ask to go on from.
fn resumed_from(args: &CheckpointArgs) -> Result<Option<PathBuf>, Error> {
    Ok(match (&args.resume_from, args.auto_resume) {
        (Some(dir), _) => Some(dir.clone()),
        (None, true) => checkpoint::latest(&args.checkpoint_save_dir)?,
        (None, false) => None,
    })
}

/// Not 0; that of the run which is resumed, if there is one.
fn random_seed(args: &FinetuneArgs) -> Result<u32, Error> {
    let checkpoint = resumed_from(&args.checkpoint)?.map(|dir| checkpoint::load(&dir)).transpose()?;
    let settings = checkpoint.and_then(|c| c.settings).unwrap_or_default();
    let before = settings.iter().find(|(key, _)| key == "--lora-seed").and_then(|(_, seed)| seed.parse().ok());
    let random = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 0);
    Ok(before.unwrap_or((random as u32).max(1)))
}

/// That the adapter can be written, known before hours of work rather than after, and that nothing which is read is replaced.
fn check_outputs(args: &FinetuneArgs, model: &Model, output: &Path) -> Result<(), Error> {
    let mut outputs = vec![output.to_owned(), report::metrics_file(args, output)];
    if args.report.plot {
        outputs.extend(pictures(output));
    }
    let texts = [Some(&args.data.file), args.data.val_file.as_ref(), args.data.chat_template.as_ref()];
    for path in &outputs {
        if let Some(input) = &args.model.model {
            refuse_to_replace_input(model.gguf(), input, path)?;
        }
        texts.iter().flatten().try_for_each(|input| refuse_same_file(input, path))?;
    }
    // Dropped: nothing appears.
    let file = AtomicFile::create(output).map(drop);
    file.map_err(|source| Error::File { action: "write", path: output.to_owned(), source })
}

/// The loss curve, beside the adapter.
fn pictures(output: &Path) -> [PathBuf; 2] {
    ["svg", "png"].map(|extension| output.with_extension(extension))
}

/// As a shell reads it back.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn load_data(args: &FinetuneArgs, model: &Model, log: &Log) -> Result<Dataset, Error> {
    let vocab = model.vocab().ok_or(Error::NoVocab)?;
    let template = model.metadata().str(key::TOKENIZER_CHAT_TEMPLATE)?;
    let data = Dataset::load(&args.data.file, vocab, template, &args.dataset_options())?;
    for source in std::iter::once(&data.source).chain(&data.val_source) {
        for bad in &source.bad_lines {
            log.warning(format_args!("{}:{}: skipped: {}", source.path.display(), bad.line, bad.problem));
        }
        let more = source.n_bad.saturating_sub(source.bad_lines.len());
        if more > 0 {
            log.warning(format_args!("{}: {more} more lines skipped", source.path.display()));
        }
    }
    log.info(format_args!(
        "data: {} windows of up to {} tokens to train on, {} for validation ({} and {} tokens)",
        report::grouped(data.train.len().into()),
        args.data.ctx_size,
        report::grouped(data.val.len().into()),
        report::grouped(data.train.n_tokens() as u64),
        report::grouped(data.val.n_tokens() as u64),
    ));
    Ok(data)
}

/// The adapter to begin with, and the roles that it adapts.
fn make_adapter(args: &FinetuneArgs, model: &Model, log: &Log) -> Result<(Adapter, Vec<TensorRole>), Error> {
    let a = &args.adapter;
    if let Some(path) = args.continued() {
        let adapter = match adapters::peft_folder(path) {
            Some(folder) => read_peft(folder, model),
            None => Adapter::read(&Gguf::read(path)?, model),
        };
        let adapter = adapter.map_err(|e| adapters::in_file(path, e))?;
        for warning in adapters::warnings(&adapter, model.gguf()) {
            log.warning(format_args!("{}: {warning}", path.display()));
        }
        let mut roles: Vec<_> = adapter.pairs.keys().map(|name| name.role).collect();
        roles.dedup();
        return Ok((adapter, roles));
    }
    let roles = a.roles(|role| model.weights().keys().any(|name| name.role == role))?;
    let adapter = Adapter::new(model, &roles, a.lora_rank as usize, a.lora_alpha as f32, a.lora_seed.into())
        .map_err(fabric_engine::train::Error::from)?;
    Ok((adapter, roles))
}

/// Tells how much memory training will need, and refuses what does not fit.
fn check_memory(trainer: &Trainer, log: &Log) -> Result<(), Error> {
    let need = trainer.memory_need()?;
    // Vocabulary, dataset and graphs are there already.
    let program = memory::own().unwrap_or(0);
    let total = need.total() + program;
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let available = memory::available();
    let of = available.map_or(String::new(), |a| format!(" of {} MiB available", report::grouped(mib(a))));
    log.info(format_args!(
        "memory: {} MiB{of} (model {}, graph {}{}, adapter and optimizer {}, program {})",
        report::grouped(mib(total)),
        report::grouped(mib(need.weights)),
        report::grouped(mib(need.graph)),
        if need.recompute { " with gradient checkpointing" } else { "" },
        report::grouped(mib(need.adapter)),
        report::grouped(mib(program))
    ));
    match available {
        // What the program has is no longer available.
        Some(available) if need.total() > available => {
            let (need_mib, mib) = (mib(need.total()), mib(available));
            Err(Error::Memory { need_mib, mib, checkpointing: need.recompute })
        }
        _ => Ok(()),
    }
}

/// Ctrl-C and SIGTERM end the run at the next step, with a checkpoint; a second Ctrl-C ends it at once.
fn listen() -> Result<Arc<AtomicBool>, Error> {
    interrupt::listen();
    let stop = Arc::new(AtomicBool::new(false));
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGTERM, stop.clone()).map_err(Error::Signal)?;
    Ok(stop)
}

impl From<train::Error> for Error {
    fn from(e: train::Error) -> Error {
        Error::Train(Box::new(e))
    }
}
