//! `fabric-gguf`: what is in a GGUF file, and files with the same tensors.

mod hash;
mod json;
mod set;
mod split;
mod text;
mod write;

use crate::Error;
use crate::args;
use crate::args::gguf::{ABSENT, GgufArgs, HASH_ABSENT, HashArgs, SPLIT_ABSENT, SetArgs, SplitArgs};
use fabric_engine::quantize::check_tensor;
use gguf::{Gguf, TensorInfo, Value};
use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{BufWriter, IsTerminal, Write};
use std::process::ExitCode;

/// Runs the tool with this command line, program name first.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut argv: Vec<OsString> = argv.into_iter().collect();
    let command = argv.get(1).and_then(|word| word.to_str()).unwrap_or_default().to_owned();
    match command.as_str() {
        "split" | "merge" | "hash" | "set" => {
            argv.remove(1);
        }
        _ => {}
    }
    let result = match command.as_str() {
        "split" | "merge" => {
            args::parse::<SplitArgs>(argv, SPLIT_ABSENT).map(|p| split::run(&p.args, command == "merge"))
        }
        "hash" => args::parse::<HashArgs>(argv, HASH_ABSENT).map(|p| hash::run(&p.args)),
        "set" => args::parse::<SetArgs>(argv, &[]).map(|p| set::run(&p.args)),
        _ => args::parse::<GgufArgs>(argv, ABSENT).map(|p| dump(&p.args)),
    };
    match result {
        Ok(Ok(status)) => status,
        Ok(Err(e)) if e.is_closed_output() => ExitCode::SUCCESS,
        Ok(Err(e)) => {
            let _ = writeln!(std::io::stderr(), "error: {}", printable(&e.to_string()));
            ExitCode::from(e.exit_status())
        }
        Err(status) => status,
    }
}

fn dump(args: &GgufArgs) -> Result<ExitCode, Error> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let good = show(args, &mut out)?;
    out.flush().map_err(Error::Output)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) use write::{refuse_same_file, refuse_to_replace_input};

/// Text from a file, fit for a terminal: control characters escaped, but for line ends.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| c.is_control() && c != '\n';
    if !text.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().map(|c| if is_bad(c) { c.escape_debug().to_string() } else { c.to_string() });
    Cow::Owned(escaped.collect())
}

/// False if a check found something.
fn show(args: &GgufArgs, out: &mut impl Write) -> Result<bool, Error> {
    let path = args.file()?;
    let GgufArgs { json, no_tensors, key, full, check, words: _ } = args;
    let model = Gguf::open(path)?;
    if *check {
        let checked = Checked::new(&model);
        let written = if *json { json::checked(out, &checked) } else { text::checked(out, &model, &checked) };
        written.map_err(Error::Output)?;
        return Ok(checked.bad.is_empty());
    }
    let written = match key {
        Some(key) => {
            let missing = || gguf::Error::MissingKey { key: key.clone() };
            let value = model.metadata().get(key).ok_or_else(missing)?;
            if *json { json::pair(out, key, value).and_then(|()| writeln!(out)) } else { value_alone(out, value) }
        }
        None if *json => json::dump(out, &model, !no_tensors),
        None => {
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
            text::dump(out, &name, &model, !no_tensors, *full)
        }
    };
    written.map_err(Error::Output)?;
    Ok(true)
}

/// A value and nothing else: a string as it is, the elements of an array line by line.
fn value_alone(out: &mut impl Write, value: &Value) -> std::io::Result<()> {
    match value {
        // To a file or program, the bytes exactly.
        Value::String(s) if !std::io::stdout().is_terminal() => {
            out.write_all(s.as_bytes())?;
            writeln!(out)
        }
        Value::String(s) => writeln!(out, "{}", printable(&s.to_string().replace('\t', "    "))),
        Value::Array(array) => {
            text::elements(array, usize::MAX, false).try_for_each(|element| writeln!(out, "{element}"))
        }
        number => writeln!(out, "{}", text::scalar(number)),
    }
}

/// What a check of all tensor data found.
struct Checked<'a> {
    good: usize,
    /// Those without codec.
    unchecked: Vec<&'a TensorInfo>,
    bad: Vec<(&'a TensorInfo, String)>,
}

impl Checked<'_> {
    fn new(model: &Gguf) -> Checked<'_> {
        let mut checked = Checked { good: 0, unchecked: Vec::new(), bad: Vec::new() };
        for tensor in model.tensors() {
            match check_tensor(model, tensor) {
                Ok(true) => checked.good += 1,
                Ok(false) => checked.unchecked.push(tensor),
                Err(e) => checked.bad.push((tensor, e.to_string())),
            }
        }
        checked
    }
}
