//! `fabric-bench`: how fast models run.

mod cost;
mod model_name;
mod printer;
mod record;

use crate::args::bench::{ABSENT, BenchArgs, values};
use crate::args::device::{DeviceArgs, DeviceList, GpuArgs, GpuLayers};
use crate::args::logging::{LoggingArgs, When};
use crate::args::model::{LoadMode, ModelArgs};
use crate::args::{self, Parsed};
use crate::device::tell_profile;
use crate::log::Log;
use crate::{Error, load};
use cost::{Cost, Limits};
use fabric_engine::device::{self, SimdLevel, VulkanBackend};
use fabric_engine::{Batch, Context, ContextOptions, Model};
use gguf::GgmlType;
use printer::{Columns, Printer};
use record::Record;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs the tool with this command line, program name first.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Parsed { args, warnings, .. } = match args::parse::<BenchArgs>(argv, ABSENT) {
        Ok(parsed) => parsed,
        Err(status) => return status,
    };
    let log = match Log::new(&logging(args.verbose)) {
        Ok(log) => log,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: {e}");
            return ExitCode::from(e.exit_status());
        }
    };
    warnings.iter().for_each(|w| log.warning(w));
    match bench(&args, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.is_closed_output() => ExitCode::SUCCESS,
        Err(e) => {
            log.error(&e);
            ExitCode::from(e.exit_status())
        }
    }
}

fn logging(verbose: bool) -> LoggingArgs {
    let verbosity = crate::log::Level::Warning as i32;
    LoggingArgs { verbosity, verbose, log_disable: false, log_file: None, log_colors: When::Auto, perf: false }
}

fn bench(args: &BenchArgs, log: &Log) -> Result<(), Error> {
    if args.list_devices {
        return crate::device::list();
    }
    if cfg!(debug_assertions) {
        log.warning("debug build: slower than a release build");
    }
    let plan = Plan::new(args);
    let columns = plan.columns(args);
    let out = [
        Printer::new(args.output, Box::new(std::io::stdout()), columns.clone()),
        Printer::new(args.output_err, Box::new(std::io::stderr()), columns),
    ];
    let mut bench = Bench { args, log, out, n_tests: plan.n_tests(), test: 0, context: plan.context() };
    let result = bench.all(&plan);
    // Whatever has been measured before an error is a whole document.
    let closed = bench.out.iter_mut().try_for_each(Printer::footer);
    result.and(closed)
}

/// The values whose combinations are run.
struct Plan {
    models: Vec<Option<PathBuf>>,
    load_modes: Vec<LoadMode>,
    repack: Vec<bool>,
    batches: Vec<usize>,
    ubatches: Vec<usize>,
    /// Types of K and V.
    cache_types: Vec<[GgmlType; 2]>,
    threads: Vec<usize>,
    /// `None`: the best.
    simd: Vec<Option<SimdLevel>>,
    /// `None`: as the number of layers says.
    devices: Vec<Option<DeviceList>>,
    gpu_layers: Vec<Option<GpuLayers>>,
    depths: Vec<usize>,
    /// Tokens of prompt and of generation.
    texts: Vec<(usize, usize)>,
}

impl Plan {
    fn new(args: &BenchArgs) -> Plan {
        fn some_or_none<T>(all: Vec<T>) -> Vec<Option<T>> {
            if all.is_empty() { vec![None] } else { all.into_iter().map(Some).collect() }
        }
        let threads = values(&args.threads);
        let prompts = values(&args.n_prompt).into_iter().map(|pp| (pp, 0));
        let gens = values(&args.n_gen).into_iter().map(|tg| (0, tg));
        let texts = prompts.chain(gens).chain(args.prompt_gen.iter().copied()).filter(|&text| text != (0, 0));
        Plan {
            models: some_or_none(values(&args.model)),
            load_modes: values(&args.load_mode),
            repack: values(&args.repack),
            batches: values(&args.batch_size),
            ubatches: values(&args.ubatch_size),
            cache_types: {
                let (k, v) = (values(&args.cache_type_k), values(&args.cache_type_v));
                k.iter().flat_map(|&k| v.iter().map(move |&v| [k, v])).collect()
            },
            threads: if threads.is_empty() { vec![device::default_threads()] } else { threads },
            simd: some_or_none(values(&args.simd)),
            devices: some_or_none(values(&args.device)),
            gpu_layers: some_or_none(values(&args.n_gpu_layers)),
            depths: values(&args.n_depth),
            texts: texts.collect(),
        }
    }

    /// What the table shows besides: what differs from the default, or has several values.
    fn columns(&self, args: &BenchArgs) -> Columns {
        Columns {
            n_batch: self.batches != [2048],
            n_ubatch: self.ubatches != [512],
            cache_types: [0, 1].map(|i| self.cache_types.iter().any(|types| types[i] != GgmlType::F16)),
            load_mode: self.load_modes != [LoadMode::Auto],
            repack: self.repack != [true],
            simd: !args.simd.is_empty(),
            gpu_layers: !args.n_gpu_layers.is_empty() || self.devices.iter().flatten().any(DeviceList::has_gpu),
            floor: args.floor,
        }
    }

    /// Flags of all GPUs, and of none.
    fn gpus(&self, args: &BenchArgs) -> Vec<GpuArgs> {
        let one = |device: &Option<DeviceList>, gpu_layers: &Option<GpuLayers>| GpuArgs {
            device: device.clone(),
            gpu_layers: *gpu_layers,
            main_gpu: args.main_gpu,
            limits: args.limits.clone(),
            profile: args.profile,
            fallback: args.fallback,
        };
        self.devices.iter().flat_map(|device| self.gpu_layers.iter().map(move |layers| one(device, layers))).collect()
    }

    fn n_ctx(&self) -> usize {
        let longest = self.texts.iter().map(|&(prompt, gen_)| prompt.saturating_add(gen_)).max();
        longest.unwrap_or(0).saturating_add(self.depths.iter().copied().max().unwrap_or(0)).max(1)
    }

    /// As large as those of all tests.
    fn context(&self) -> ContextOptions {
        let widest = |which: usize| {
            let types = self.cache_types.iter().map(|types| types[which]);
            types.max_by_key(|ty| ty.row_size(32)).unwrap_or(ContextOptions::default().type_k)
        };
        let (type_k, type_v) = (widest(0), widest(1));
        ContextOptions { n_ctx: self.n_ctx(), type_k, type_v, swa_full: true, ..ContextOptions::default() }
    }

    fn n_tests(&self) -> usize {
        let Plan {
            models,
            load_modes,
            repack,
            batches,
            ubatches,
            cache_types,
            threads,
            simd,
            devices,
            gpu_layers,
            depths,
            texts,
        } = self;
        let lens = [models.len(), load_modes.len(), batches.len(), ubatches.len(), threads.len(), simd.len()];
        lens.into_iter()
            .chain([repack.len(), cache_types.len(), devices.len(), gpu_layers.len(), depths.len(), texts.len()])
            .fold(1, usize::saturating_mul)
    }
}

/// A model on its threads.
struct Loaded<'a> {
    model: Arc<Model>,
    model_type: String,
    path: Option<&'a PathBuf>,
    load_mode: LoadMode,
    repack: bool,
    threads: usize,
    gpu: GpuArgs,
    runs_on: Option<Arc<VulkanBackend>>,
    cost: Cost,
    limits: Option<Limits>,
}

/// One test of a model.
#[derive(Clone, Copy, Debug)]
struct Test {
    n_batch: usize,
    n_ubatch: usize,
    /// Of K and V.
    cache_types: [GgmlType; 2],
    n_depth: usize,
    n_prompt: usize,
    n_gen: usize,
}

struct Bench<'a> {
    args: &'a BenchArgs,
    log: &'a Log,
    out: [Printer; 2],
    n_tests: usize,
    test: usize,
    /// The largest context of all tests.
    context: ContextOptions,
}

impl Bench<'_> {
    fn all(&mut self, plan: &Plan) -> Result<(), Error> {
        if plan.n_tests() == 0 {
            return self.out.iter_mut().try_for_each(|out| out.header(""));
        }
        for path in &plan.models {
            for (&load_mode, &repack) in
                plan.load_modes.iter().flat_map(|mode| plan.repack.iter().map(move |r| (mode, r)))
            {
                for &threads in &plan.threads {
                    for &simd in &plan.simd {
                        for gpu in plan.gpus(self.args) {
                            let loaded = self.load(path.as_ref(), (load_mode, repack), threads, simd, gpu)?;
                            self.tests(plan, &loaded)?;
                            tell_profile(&loaded.gpu, loaded.runs_on.as_ref());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn tests(&mut self, plan: &Plan, loaded: &Loaded) -> Result<(), Error> {
        for &n_batch in &plan.batches {
            for &n_ubatch in &plan.ubatches {
                for &cache_types in &plan.cache_types {
                    for &n_depth in &plan.depths {
                        for &(n_prompt, n_gen) in &plan.texts {
                            self.test += 1;
                            let test = Test { n_batch, n_ubatch, cache_types, n_depth, n_prompt, n_gen };
                            let record = self.measure(loaded, test)?;
                            self.out.iter_mut().try_for_each(|out| out.record(&record))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn progress(&self, what: std::fmt::Arguments) {
        if self.args.progress {
            let _ = writeln!(std::io::stderr(), "fabric-bench: benchmark {}/{}: {what}", self.test, self.n_tests);
        }
    }

    fn load<'p>(
        &mut self,
        path: Option<&'p PathBuf>,
        (load_mode, repack): (LoadMode, bool),
        threads: usize,
        simd: Option<SimdLevel>,
        gpu: GpuArgs,
    ) -> Result<Loaded<'p>, Error> {
        let model_args = ModelArgs {
            model: path.cloned(),
            mmap: true,
            mlock: false,
            load_mode: Some(load_mode),
            repack,
            override_kv: Vec::new(),
            rope_scaling: None,
            rope_scale: None,
            rope_freq_base: None,
            rope_freq_scale: None,
        };
        let n_threads = i32::try_from(threads).unwrap_or(i32::MAX);
        let gpu_args = gpu.clone();
        let device_args =
            DeviceArgs { threads: n_threads, simd, gpu: gpu_args, list_devices: false, bf16_gradients: false };
        let load::Loaded { model, gpu: runs_on } = load::load(&model_args, &device_args, Some(self.context), self.log)?;
        let model_type = model_name::model_type(&model);
        self.out.iter_mut().try_for_each(|out| out.header(&model_type))?;
        let limits = if self.args.floor {
            if self.args.progress {
                let _ = writeln!(std::io::stderr(), "fabric-bench: measuring the limits of {threads} threads");
            }
            let limits = Limits::measure(device_args.options(), model.gguf())?;
            self.out.iter_mut().for_each(|out| out.limits(&limits));
            Some(limits)
        } else {
            None
        };
        Ok(Loaded { cost: Cost::of(&model), model, model_type, path, load_mode, repack, threads, gpu, runs_on, limits })
    }

    fn measure(&self, loaded: &Loaded, test: Test) -> Result<Record, Error> {
        self.progress(format_args!("starting"));
        let Test { n_batch, n_ubatch, cache_types: [type_k, type_v], n_depth, n_prompt, n_gen } = test;
        let n_ctx = n_prompt.saturating_add(n_gen).saturating_add(n_depth);
        let n_ubatch = n_ubatch.min(n_batch);
        let options = ContextOptions { n_ctx, n_ubatch, type_k, type_v, swa_full: true, ..ContextOptions::default() };
        let ctx = Context::new(loaded.model.clone(), options).map_err(|source| Error::bench_context(n_ctx, source))?;
        let mut text = Text { ctx, random: 0x9e37_79b9_7f4a_7c15 };
        let mut record = Record::new(loaded, test);
        std::thread::sleep(Duration::from_secs(self.args.delay));
        if !self.args.no_warmup {
            if n_prompt > 0 {
                self.progress(format_args!("warmup prompt run"));
                text.prompt(n_prompt, n_batch)?;
            }
            if n_gen > 0 {
                self.progress(format_args!("warmup generation run"));
                text.generate(1)?;
            }
            text.forget(0);
        }
        if n_depth > 0 {
            self.progress(format_args!("depth run"));
            text.prompt(n_depth, n_batch)?;
        }
        for i in 1..=self.args.repetitions {
            text.forget(n_depth);
            let start = Instant::now();
            if n_prompt > 0 {
                self.progress(format_args!("prompt run {i}/{}", self.args.repetitions));
                text.prompt(n_prompt, n_batch)?;
            }
            if n_gen > 0 {
                self.progress(format_args!("generation run {i}/{}", self.args.repetitions));
                text.generate(n_gen)?;
            }
            let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            record.samples_ns.push(ns.max(1));
        }
        Ok(record)
    }
}

/// Random tokens in a context.
struct Text {
    ctx: Context,
    random: u64,
}

impl Text {
    fn prompt(&mut self, n: usize, n_batch: usize) -> Result<(), Error> {
        let mut left = n;
        while left > 0 {
            let len = left.min(n_batch);
            self.run(len)?;
            left -= len;
        }
        Ok(())
    }

    fn generate(&mut self, n: usize) -> Result<(), Error> {
        (0..n).try_for_each(|_| self.run(1))
    }

    /// Runs tokens at the end of the text, with logits for the last.
    fn run(&mut self, n: usize) -> Result<(), Error> {
        let pos = self.ctx.cache().len(0);
        let tokens: Vec<u32> = (pos..pos + n).map(|pos| self.token(pos)).collect();
        self.ctx.decode(&Batch::of(&tokens, 0, pos), |_, _| {})?;
        Ok(())
    }

    fn token(&mut self, pos: usize) -> u32 {
        let model = self.ctx.model();
        let bos = model.vocab().filter(|v| v.add_bos()).and_then(|v| v.bos());
        if let Some(bos) = bos.filter(|_| pos == 0) {
            return bos;
        }
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        // Below n_vocab, which has 32 bits in the file.
        (self.random % model.hparams().n_vocab.max(1) as u64) as u32
    }

    /// Forgets what comes after the first `len` tokens.
    fn forget(&mut self, len: usize) {
        self.ctx.cache_mut().truncate(0, len);
    }
}
