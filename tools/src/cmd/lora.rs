//! `fabric-lora`: shows adapters, and converts them between GGUF and PEFT.

use super::gguf::{printable, refuse_to_replace_input};
use crate::args::lora::{ABSENT, Command, LoraArgs};
use crate::{Error, adapters};
use fabric_engine::adapter::{Adapter, inspect_peft, read_peft, write_peft};
use gguf::{Gguf, key};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Runs the tool with this command line, program name first.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = match crate::args::parse::<LoraArgs>(argv, ABSENT) {
        Ok(parsed) => parsed,
        Err(status) => return status,
    };
    let result = parsed.args.command().and_then(|command| match command {
        Command::Show(path) => show(&path),
        Command::Convert { input, output, base } => convert(&input, &output, &base),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.is_closed_output() => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: {}", printable(&e.to_string()));
            ExitCode::from(e.exit_status())
        }
    }
}

fn show(path: &Path) -> Result<(), Error> {
    let folder = adapters::peft_folder(path);
    let (adapter, kind, name) = match folder {
        Some(folder) => (inspect_peft(folder).map_err(|e| adapters::in_file(path, e))?, "PEFT folder", None),
        None => {
            let file = Gguf::open(path)?;
            let adapter = Adapter::inspect(&file).map_err(|e| adapters::in_file(path, e))?;
            (adapter, "GGUF file", file.metadata().str(key::GENERAL_NAME)?.map(str::to_owned))
        }
    };
    let text = describe(&adapter, kind, name.as_deref());
    std::io::stdout().write_all(printable(&text).as_bytes()).map_err(Error::Output)
}

fn describe(adapter: &Adapter, kind: &str, name: Option<&str>) -> String {
    let mut out = String::new();
    let mut line = |what: &str, value: &str| {
        let _ = writeln!(out, "{what:<16}{value}");
    };
    line("LoRA adapter", kind);
    if let Some(name) = name {
        line("name", name);
    }
    if !adapter.architecture.is_empty() {
        line("architecture", &adapter.architecture);
    }
    line("adapted", &adapters::about(adapter));
    line("parameters", &adapter.n_parameters().to_string());
    match &adapter.base {
        Some(base) => {
            line("base model", base.name.as_deref().unwrap_or("(without a name)"));
            line("  SHA-256", base.sha256.as_deref().unwrap_or("(not told)"));
        }
        None => line("base model", "(not told)"),
    }
    if !adapter.unused.is_empty() {
        line("without effect", &adapter.unused.join(" "));
    }
    out.push_str("\ntensor                                  n_in   n_out  rank  largest in B\n");
    for (name, pair) in &adapter.pairs {
        let largest = pair.b.iter().fold(0f32, |max, b| max.max(b.abs()));
        let (name, zero) = (name.to_string(), if largest == 0.0 { "  (changes nothing)" } else { "" });
        let _ = writeln!(out, "{name:<36}{:>8}{:>8}{:>6}  {largest:.4}{zero}", pair.n_in, pair.n_out, pair.rank);
    }
    out
}

fn convert(input: &Path, output: &Path, base: &Path) -> Result<(), Error> {
    let model = adapters::base_model(base)?;
    refuse_to_replace_input(model.gguf(), base, output)?;
    let (adapter, made) = match adapters::peft_folder(input) {
        Some(folder) => {
            let adapter = read_peft(folder, &model).map_err(|e| adapters::in_file(input, e))?;
            adapter.write(output)?;
            (adapter, "GGUF file")
        }
        None => {
            let adapter = Adapter::read(&Gguf::open(input)?, &model).map_err(|e| adapters::in_file(input, e))?;
            write_peft(&adapter, &model, output)?;
            (adapter, "PEFT folder")
        }
    };
    let mut text = String::new();
    for warning in adapters::warnings(&adapter, model.gguf()) {
        let _ = writeln!(text, "warning: {}: {warning}", input.display());
    }
    let _ = writeln!(text, "wrote {made} {}: {}", output.display(), adapters::about(&adapter));
    let _ = std::io::stderr().write_all(printable(&text).as_bytes());
    Ok(())
}
