//! `fabric-gguf split` and `merge`, as llama-gguf-split.

use super::refuse_to_replace_input;
use super::write::write;
use crate::args::gguf::SplitArgs;
use crate::{Error, interrupt};
use gguf::{Gguf, Metadata, TensorInfo, Writer, key, split_file_name};
use std::ffi::OsString;
use std::fmt::Arguments;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Tensors in a file where nothing is said.
const MAX_TENSORS: u32 = 128;
/// What tensors are padded to where sizes are counted.
const ALIGNMENT: u64 = 32;

/// Runs the command.
///
/// # Errors
/// If the model cannot be read or the output not be written.
pub(super) fn run(args: &SplitArgs, merge_command: bool) -> Result<ExitCode, Error> {
    let [input, output] = args.words.as_slice() else {
        return Err(Error::Usage("expected a model and an output".into()));
    };
    if merge_command && args.split {
        return Err(Error::Usage("merge and --split exclude each other".into()));
    }
    let done = if merge_command || args.merge { merge(args, input, output)? } else { split(args, input, output)? };
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::from(interrupt::INTERRUPTED) })
}

fn print(text: Arguments) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_fmt(text).and_then(|()| out.flush()).map_err(Error::Output)
}

/// Progress, on stderr; that it may be closed is no reason to stop.
fn tell(message: Arguments) {
    let _ = std::io::stderr().write_fmt(message);
}

fn split(args: &SplitArgs, input: &Path, output: &Path) -> Result<bool, Error> {
    let model = Gguf::open(input)?;
    let parts = parts(args, model.tensors())?;
    let count = u16::try_from(parts.len());
    let count =
        count.map_err(|_| Error::Usage(format!("that would be {} files: expected at most 65535", parts.len())))?;
    let metadata: Vec<_> = (0..count).map(|no| split_metadata(&model, no, count)).collect::<Result<_, _>>()?;
    print(format_args!("n_split: {count}\n"))?;
    for (no, (part, metadata)) in parts.iter().zip(&metadata).enumerate() {
        let tensors = &model.tensors()[part.clone()];
        let bytes = header_bytes(metadata, tensors)? + tensors.iter().map(|t| t.n_bytes).sum::<u64>();
        let mega = bytes / 1_000_000;
        print(format_args!("split {:05}: n_tensors = {}, total_size = {mega}M\n", no + 1, tensors.len()))?;
    }
    if !args.dry_run {
        let paths: Vec<PathBuf> = (0..count).map(|no| split_path(output, no, count)).collect();
        for path in &paths {
            refuse_to_replace_input(&model, input, path)?;
        }
        for ((part, metadata), path) in parts.iter().zip(metadata).zip(&paths) {
            print(format_args!("Writing file {} ... ", path.display()))?;
            if !write(&model, metadata, &model.tensors()[part.clone()], path)? {
                return Ok(false);
            }
            print(format_args!("done\n"))?;
        }
    }
    tell(format_args!("gguf_split: {count} gguf split written with a total of {} tensors.\n", model.tensors().len()));
    Ok(true)
}

/// The tensors of each file.
fn parts(args: &SplitArgs, tensors: &[TensorInfo]) -> Result<Vec<Range<usize>>, Error> {
    let max_tensors = args.split_max_tensors.unwrap_or(MAX_TENSORS) as usize;
    let mut parts = Vec::new();
    if args.no_tensor_first_split {
        parts.push(0..0);
    }
    let (mut start, mut size) = (0, 0u64);
    for (i, t) in tensors.iter().enumerate() {
        let padded = t.n_bytes.next_multiple_of(ALIGNMENT);
        size = size.saturating_add(padded);
        let full = match args.split_max_size {
            Some(max) => size > max,
            None => i > 0 && i % max_tensors == 0,
        };
        if full {
            if start == i {
                return Err(Error::Usage(format!(
                    "tensor '{}' has {} bytes, which is more than --split-max-size allows",
                    t.name, t.n_bytes
                )));
            }
            parts.push(start..i);
            (start, size) = (i, padded);
        }
    }
    parts.push(start..tensors.len());
    Ok(parts)
}

fn split_metadata(model: &Gguf, no: u16, count: u16) -> Result<Metadata, Error> {
    let n_tensors = i32::try_from(model.tensors().len());
    let n_tensors = n_tensors.map_err(|_| Error::Usage("the model has too many tensors".into()))?;
    // All that is known of the model is in the first file.
    let mut metadata = if no == 0 { model.metadata().clone() } else { Metadata::new() };
    metadata.insert(key::SPLIT_NO, no);
    metadata.insert(key::SPLIT_COUNT, count);
    metadata.insert(key::SPLIT_TENSORS_COUNT, n_tensors);
    Ok(metadata)
}

/// Bytes before the data.
fn header_bytes(metadata: &Metadata, tensors: &[TensorInfo]) -> Result<u64, Error> {
    let mut writer = Writer::new(metadata.clone())?;
    for t in tensors {
        writer.add_tensor(&t.name, t.ty, &t.ne)?;
    }
    struct Count(u64);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    let _ = writer.start(&mut count)?;
    Ok(count.0)
}

/// `prefix-00001-of-00003.gguf`, beside the prefix.
fn split_path(prefix: &Path, no: u16, count: u16) -> PathBuf {
    let mut path = OsString::from(prefix);
    path.push(split_file_name("", no, count));
    path.into()
}

fn merge(args: &SplitArgs, input: &Path, output: &Path) -> Result<bool, Error> {
    tell(format_args!("gguf_merge: {} -> {}\n", input.display(), output.display()));
    if std::fs::symlink_metadata(output).is_ok() {
        return Err(Error::Usage(format!("the output file {} already exists", output.display())));
    }
    let model = Gguf::open(input)?;
    let mut metadata = model.metadata().clone();
    if metadata.u16(key::SPLIT_COUNT)?.is_none_or(|count| count == 0) {
        return Err(Error::Usage(format!("{} is not the first file of a split model", input.display())));
    }
    // As llama.cpp writes it: no longer split, and not to be merged again.
    metadata.insert(key::SPLIT_COUNT, 0u16);
    if !args.dry_run && !write(&model, metadata, model.tensors(), output)? {
        return Ok(false);
    }
    let (files, tensors) = (model.n_files(), model.tensors().len());
    tell(format_args!("gguf_merge: {} merged from {files} split with {tensors} tensors.\n", output.display()));
    Ok(true)
}
