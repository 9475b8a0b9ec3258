//! Flags, grouped by concern. A tool flattens the groups that it needs into its own `Parser` and calls [`run`] or [`parse`].

pub mod absent;
pub mod adapter;
pub mod argv;
pub mod bench;
pub mod cache;
pub mod chat;
pub mod context;
pub mod device;
pub mod export_lora;
pub mod finetune;
pub mod generation;
pub mod gguf;
pub mod grammar;
pub mod help;
pub mod imatrix;
pub mod logging;
pub mod lora;
pub mod model;
pub mod perplexity;
pub mod quantize;
pub mod sampling;
pub mod text;
pub mod tokenize;
pub mod value;

use crate::Error;
use crate::log::Log;
use absent::Absent;
use argv::ArgvError;
use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use logging::LoggingArgs;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// Exit status for a command line that is wrong.
pub const USAGE: u8 = 2;

/// A command line that was understood.
pub struct Parsed<T> {
    /// The flags.
    pub args: T,
    /// Where each came from.
    pub matches: ArgMatches,
    /// About flags without effect.
    pub warnings: Vec<String>,
}

/// A tool: reads the command line, opens the log, does the work, and tells what went wrong. A reader of standard output that goes
/// away is no error.
pub fn run<T: CommandFactory + FromArgMatches>(
    argv: impl IntoIterator<Item = OsString>,
    absent: &'static [Absent],
    logging: impl FnOnce(&T) -> &LoggingArgs,
    work: impl FnOnce(&T, &ArgMatches, &Log) -> Result<ExitCode, Error>,
) -> ExitCode {
    let Parsed { args, matches, warnings } = match parse::<T>(argv, absent) {
        Ok(parsed) => parsed,
        Err(status) => return status,
    };
    let log = match Log::new(logging(&args)) {
        Ok(log) => log,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: {e}");
            return ExitCode::from(e.exit_status());
        }
    };
    warnings.iter().for_each(|w| log.warning(w));
    match work(&args, &matches, &log) {
        Ok(status) => status,
        Err(e) if e.is_closed_output() => ExitCode::SUCCESS,
        Err(e) => {
            log.error(&e);
            ExitCode::from(e.exit_status())
        }
    }
}

/// Reads a command line. `absent` has the flags of llama.cpp's tool of the same kind that have no field here.
///
/// # Errors
/// The exit status, after help, version or the error has been printed.
pub fn parse<T: CommandFactory + FromArgMatches>(
    argv: impl IntoIterator<Item = OsString>,
    absent: &'static [Absent],
) -> Result<Parsed<T>, ExitCode> {
    // As in llama.cpp, a flag that is given twice counts the last time.
    let mut command = T::command().args_override_self(true).max_term_width(80);
    command.build();
    let argv = argv::normalize(&command, absent, argv, |name| std::env::var_os(name)).map_err(|e| {
        let (message, status) = match e {
            ArgvError::Usage(m) => (format!("{m}\n\nFor more information, try '--help'."), USAGE),
            ArgvError::Unsupported(m) => (m, 1),
        };
        let _ = writeln!(std::io::stderr(), "error: {message}");
        ExitCode::from(status)
    })?;
    let matches = command.try_get_matches_from_mut(argv.args);
    let parsed = matches.and_then(|matches| {
        let args = T::from_arg_matches(&matches)?;
        Ok(Parsed { args, matches, warnings: argv.warnings })
    });
    parsed.map_err(|e| match e.kind() {
        ErrorKind::DisplayHelp => {
            let _ = std::io::stdout().write_all(help::render(&command, absent).as_bytes());
            ExitCode::SUCCESS
        }
        // On stderr, as llama.cpp does.
        ErrorKind::DisplayVersion => {
            let version = command.get_version().unwrap_or_default();
            let _ = writeln!(
                std::io::stderr(),
                "version: {version}\nbuilt for {}-{}",
                std::env::consts::ARCH,
                std::env::consts::OS
            );
            ExitCode::SUCCESS
        }
        _ => {
            let _ = write!(std::io::stderr(), "{}", e.render());
            ExitCode::from(USAGE)
        }
    })
}
