//! `fabric-quantize`: a model in another type.

use super::gguf::{printable, refuse_to_replace_input};
use crate::args::quantize::{ABSENT, QuantizeArgs, Words, target_name};
use crate::{Error, interrupt};
use fabric_engine::quantize::{Fallback, Options, Plan, PlannedTensor, Quantizer, ggml_type_name};
use gguf::{GgmlType, Gguf, Value};
use std::ffi::OsString;
use std::fmt::Arguments;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Runs the tool with this command line, program name first.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = match crate::args::parse::<QuantizeArgs>(argv, ABSENT) {
        Ok(parsed) => parsed,
        Err(status) => return status,
    };
    for warning in &parsed.warnings {
        tell(format_args!("warning: {warning}\n"));
    }
    let result = parsed.args.words().and_then(|words| quantize(&parsed.args, &words));
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => ExitCode::from(interrupt::INTERRUPTED),
        Err(e) if e.is_closed_output() => ExitCode::SUCCESS,
        Err(e) => {
            tell(format_args!("error: {}\n", printable(&e.to_string())));
            ExitCode::from(e.exit_status())
        }
    }
}

enum Outcome {
    Done,
    /// By Ctrl-C.
    Interrupted,
}

/// Progress, on stderr; that it may be closed is no reason to stop.
fn tell(message: Arguments) {
    let _ = std::io::stderr().write_fmt(message);
}

fn quantize(args: &QuantizeArgs, words: &Words) -> Result<Outcome, Error> {
    let start = Instant::now();
    let Words { input, output, target, n_threads } = words;
    let model = Gguf::open(input)?;
    let mut options = args.options(*target, model.metadata())?;
    if let Some(path) = &args.imatrix {
        weigh(args, path, &mut options)?;
    }
    let (from, to) = (input.display(), output.display());
    let threads = if *n_threads > 0 { format!(" using {n_threads} threads") } else { String::new() };
    if args.dry_run {
        tell(format_args!(
            "fabric-quantize: calculating quantization size for '{from}' as {}{threads}\n",
            target_name(*target)
        ));
    } else {
        refuse_to_replace_input(&model, input, output)?;
        tell(format_args!("fabric-quantize: quantizing '{from}' to '{to}' as {}{threads}\n", target_name(*target)));
    }
    let plan = Plan::new(&model, &options)?;
    if !args.dry_run && args.keep_split {
        plan.paths(output).iter().try_for_each(|path| refuse_to_replace_input(&model, input, path))?;
    }
    tell_warnings(&plan);
    let quantize_start = Instant::now();
    if args.dry_run {
        for (i, t) in plan.tensors().iter().enumerate() {
            tell_tensor(i, &plan, t);
            tell_size(t, if t.is_converted() { format!(" ({})", ggml_type_name(t.ty)) } else { String::new() });
        }
    } else if let Outcome::Interrupted = write(&model, &plan, output, *n_threads)? {
        return Ok(Outcome::Interrupted);
    }
    tell_summary(&plan);
    let ms = |start: Instant| start.elapsed().as_secs_f64() * 1000.0;
    let (quantize_ms, total_ms) = (ms(quantize_start), ms(start));
    writeln!(
        std::io::stdout(),
        "\nfabric-quantize: quantize time = {quantize_ms:8.2} ms\nfabric-quantize:    total time = {total_ms:8.2} ms"
    )
    .map_err(Error::Output)?;
    Ok(Outcome::Done)
}

/// Takes importances from a file, and notes it in the metadata as llama-quantize does.
fn weigh(args: &QuantizeArgs, path: &Path, options: &mut Options) -> Result<(), Error> {
    let imatrix = super::imatrix::read(path)?;
    tell(format_args!(
        "fabric-quantize: {} importance matrix entries from {}, computed on {} chunks\n",
        imatrix.entries.len(),
        path.display(),
        imatrix.chunk_count
    ));
    options.importances = imatrix.importances();
    options.importances.retain(|name, _| args.weighs(name));
    if options.importances.is_empty() {
        return Ok(());
    }
    // As long as llama.cpp lets them be.
    let text = |text: &str| {
        text.char_indices().take_while(|(at, c)| at + c.len_utf8() <= 127).map(|(_, c)| c).collect::<String>()
    };
    let mut note = |key: &str, value: Value| options.metadata.push((format!("quantize.imatrix.{key}"), value));
    note("file", text(&path.to_string_lossy()).into());
    if let Some(dataset) = imatrix.datasets.first() {
        note("dataset", text(dataset).into());
    }
    let entries = u32::try_from(options.importances.len()).unwrap_or(u32::MAX);
    note("entries_count", entries.into());
    if imatrix.chunk_count > 0 {
        note("chunks_count", imatrix.chunk_count.into());
    }
    Ok(())
}

fn write(model: &Gguf, plan: &Plan, output: &Path, n_threads: usize) -> Result<Outcome, Error> {
    // So that what is written so far is removed.
    interrupt::listen();
    let _busy = interrupt::busy();
    let mut out = Quantizer::create(model, plan, output, n_threads)?;
    let mut i = 0;
    while let Some(t) = out.due() {
        tell_tensor(i, plan, t);
        if t.is_converted() {
            tell(format_args!("converting to {} .. ", ggml_type_name(t.ty)));
        }
        if let Err(e) = out.write_next() {
            tell(format_args!("\n"));
            return Err(e.into());
        }
        tell_size(t, String::new());
        if interrupt::requested() {
            return Ok(Outcome::Interrupted);
        }
        i += 1;
    }
    out.finish()?;
    Ok(Outcome::Done)
}

fn tell_tensor(i: usize, plan: &Plan, t: &PlannedTensor) {
    let [a, b, c, d] = t.source.ne;
    let (name, ty) = (printable(&t.source.name), ggml_type_name(t.source.ty));
    let n = plan.tensors().len();
    tell(format_args!("[{:4}/{n:4}] {name:<36} - [{a:6}, {b:6}, {c:6}, {d:6}], type = {ty:>6}, ", i + 1));
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

fn tell_size(t: &PlannedTensor, suffix: String) {
    let (from, to) = (mib(t.source.n_bytes), mib(t.n_bytes));
    if t.is_converted() {
        tell(format_args!("size = {from:8.2} MiB -> {to:8.2} MiB{suffix}\n"));
    } else {
        tell(format_args!("size = {from:8.3} MiB\n"));
    }
}

fn tell_warnings(plan: &Plan) {
    for t in plan.tensors() {
        let name = printable(&t.source.name);
        if let Some(rule) = t.rule {
            let (from, to) = (ggml_type_name(rule.from), ggml_type_name(rule.to));
            tell(format_args!("fabric-quantize: {name:<36} - applying manual override: {from} -> {to}\n"));
        }
        if let Some(Fallback { wanted, ne0 }) = t.fallback {
            let (block, ty) = (wanted.block_size(), ggml_type_name(wanted));
            let unusual = if t.ty == GgmlType::F16 { "(WARNING: must use F16 due to unusual shape) " } else { "" };
            tell(format_args!(
                "warning: {name:<36} - ncols {ne0:6} not divisible by {block:3} (required for type {ty:>7}) \
                 {unusual}-> falling back to {:>7}\n",
                ggml_type_name(t.ty)
            ));
        }
    }
}

fn tell_summary(plan: &Plan) {
    let bpw = |bytes: u64| bytes as f64 * 8.0 / plan.n_elements().max(1) as f64;
    for (what, bytes) in [("model", plan.source_bytes()), ("quant", plan.n_bytes())] {
        tell(format_args!("fabric-quantize: {what} size  = {:8.2} MiB ({:.2} BPW)\n", mib(bytes), bpw(bytes)));
    }
    let n_fallback = plan.tensors().iter().filter(|t| t.fallback.is_some()).count();
    if n_fallback > 0 {
        let n = plan.tensors().len();
        tell(format_args!("fabric-quantize: WARNING: {n_fallback} of {n} tensor(s) required fallback quantization\n"));
    }
}
