//! `fabric-export-lora`: a model with adapters merged into it.

use super::gguf::{printable, refuse_same_file, refuse_to_replace_input};
use crate::args::export_lora::{ABSENT, ExportLoraArgs};
use crate::{Error, adapters, interrupt};
use fabric_engine::adapter::{Adapter, MergeOptions, Merger, PlannedMerge, read_peft};
use fabric_engine::quantize::ggml_type_name;
use gguf::{GgmlType, Gguf};
use std::ffi::OsString;
use std::fmt::Arguments;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs the tool with this command line, program name first.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = match crate::args::parse::<ExportLoraArgs>(argv, ABSENT) {
        Ok(parsed) => parsed,
        Err(status) => return status,
    };
    match export(&parsed.args) {
        Ok(status) => status,
        Err(e) if e.is_closed_output() => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: {}", printable(&e.to_string()));
            ExitCode::from(e.exit_status())
        }
    }
}

/// Progress, on standard output as llama-export-lora does; that it may be closed is no reason to stop.
fn tell(message: Arguments) {
    let _ = std::io::stdout().write_fmt(message);
}

fn warn(message: Arguments) {
    let _ = writeln!(std::io::stderr(), "warning: {}", printable(&message.to_string()));
}

fn export(args: &ExportLoraArgs) -> Result<ExitCode, Error> {
    let ExportLoraArgs { model: input, adapter, output, ftype, threads } = args;
    let files = adapter.all();
    if files.is_empty() {
        return Err(Error::Usage("no adapter given: name one with --lora FILE".into()));
    }
    let model = Gguf::open(input)?;
    refuse_to_replace_input(&model, input, output)?;
    files.iter().try_for_each(|(file, _)| refuse_same_file(file, output))?;
    tell(format_args!("file_input: loaded gguf from {}\n", input.display()));
    let read = |(path, scale): &(PathBuf, f32)| read(path, input, &model).map(|adapter| (adapter, *scale));
    let adapters: Vec<(Adapter, f32)> = files.iter().map(read).collect::<Result<_, _>>()?;
    if let Some(ftype) = ftype.filter(|f| matches!(f.base(), GgmlType::TQ1_0 | GgmlType::TQ2_0)) {
        warn(format_args!(
            "--type {ftype}: rounding to ternary loses what the adapter adds, which is smaller than a step from one value \
             to the next; leave --type out, or use the adapter beside the model with --lora"
        ));
    }
    let options = MergeOptions { ftype: *ftype, n_threads: usize::try_from(*threads).unwrap_or(0) };
    // So that what is written so far is removed.
    interrupt::listen();
    let _busy = interrupt::busy();
    let mut merger = Merger::create(&model, &adapters, output, options)?;
    let mut n_merged = 0;
    while let Some(t) = merger.due() {
        n_merged += usize::from(!t.added.is_empty());
        tell_tensor(t, &adapters);
        merger.write_next()?;
        if interrupt::requested() {
            return Ok(ExitCode::from(interrupt::INTERRUPTED));
        }
    }
    let n = merger.tensors().len();
    merger.finish()?;
    tell(format_args!("run_merge : merged {n_merged} tensors with lora adapters\n"));
    tell(format_args!("run_merge : wrote {n} tensors to output file\n"));
    tell(format_args!("done, output file is {}\n", output.display()));
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path, base: &Path, model: &Gguf) -> Result<Adapter, Error> {
    let adapter = match adapters::peft_folder(path) {
        Some(folder) => read_peft(folder, &adapters::base_model(base)?),
        None => Adapter::read_for(&Gguf::open(path)?, model),
    };
    let adapter = adapter.map_err(|e| adapters::in_file(path, e))?;
    tell(format_args!("file_input: loaded adapter from {} ({})\n", path.display(), adapters::about(&adapter)));
    adapters::warnings(&adapter, model).iter().for_each(|w| warn(format_args!("{}: {w}", path.display())));
    Ok(adapter)
}

fn tell_tensor(t: &PlannedMerge, adapters: &[(Adapter, f32)]) {
    let name = printable(&t.source.name);
    let [a, b, c, d] = t.source.ne;
    if t.added.is_empty() {
        return tell(format_args!("copy_tensor :  {name} [{a}, {b}, {c}, {d}]\n"));
    }
    tell(format_args!("merge_tensor : {name} [{a}, {b}, {c}, {d}]\n"));
    if t.source.ty != GgmlType::F32 {
        tell(format_args!("merge_tensor :   + dequantize base tensor from {} to F32\n", ggml_type_name(t.source.ty)));
    }
    for &(i, scale, rank) in &t.added {
        tell(format_args!("merge_tensor :   + merging from adapter[{i}]\n"));
        let input = adapters[i].1;
        tell(format_args!("merge_tensor :     input_scale={input:.6} calculated_scale={scale:.6} rank={rank}\n"));
    }
    tell(format_args!("merge_tensor :   + output type is {}\n", ggml_type_name(t.ty)));
}
