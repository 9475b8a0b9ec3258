//! Messages: to stderr, and to a file if asked for. A stderr that is closed is no reason to fail.

use crate::Error;
use crate::args::logging::LoggingArgs;
use std::cell::RefCell;
use std::fmt::Display;
use std::fs::File;
use std::io::{IsTerminal, Write};

/// How important a message is; llama.cpp's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What ends the program.
    Error = 1,
    /// What may surprise.
    Warning = 2,
    /// What goes on.
    Info = 3,
    /// Details.
    Trace = 4,
}

/// Where messages go.
pub struct Log {
    threshold: i32,
    colors: bool,
    file: Option<RefCell<File>>,
}

impl Log {
    /// As the flags say.
    ///
    /// # Errors
    /// If the log file cannot be created.
    pub fn new(args: &LoggingArgs) -> Result<Log, Error> {
        let LoggingArgs { verbosity, verbose, log_disable, log_file, log_colors, perf: _ } = args;
        let threshold = match (log_disable, verbose) {
            (true, _) => Level::Error as i32,
            (_, true) => i32::MAX,
            _ => *verbosity,
        };
        let create = |path: &std::path::PathBuf| match File::create(path) {
            Ok(file) => Ok(RefCell::new(file)),
            Err(source) => Err(Error::File { action: "write", path: path.clone(), source }),
        };
        let file = log_file.as_ref().map(create).transpose()?;
        Ok(Log { threshold, colors: log_colors.applies(std::io::stderr().is_terminal()), file })
    }

    /// A log that tells what ends the program, and nothing that was told before.
    pub fn only_errors(&self) -> Log {
        Log { threshold: Level::Error as i32, colors: self.colors, file: None }
    }

    /// Whether messages of this level are told.
    pub fn tells(&self, level: Level) -> bool {
        level as i32 <= self.threshold
    }

    /// A message of one or more lines.
    pub fn write(&self, level: Level, message: impl Display) {
        if !self.tells(level) {
            return;
        }
        // Once, for both places: times go on.
        let message = message.to_string();
        let (color, reset) = match level {
            Level::Error if self.colors => ("\x1b[31m", "\x1b[0m"),
            Level::Warning if self.colors => ("\x1b[35m", "\x1b[0m"),
            _ => ("", ""),
        };
        let _ = writeln!(std::io::stderr(), "{color}{message}{reset}");
        if let Some(file) = &self.file {
            let _ = writeln!(file.borrow_mut(), "{message}");
        }
    }

    /// The beginning of a line that goes on elsewhere; information.
    pub fn part(&self, message: impl Display) {
        if self.tells(Level::Info) {
            let message = message.to_string();
            let _ = write!(std::io::stderr(), "{message}");
            if let Some(file) = &self.file {
                let _ = write!(file.borrow_mut(), "{message}");
            }
        }
    }

    /// What ends the program.
    pub fn error(&self, message: impl Display) {
        self.write(Level::Error, format_args!("error: {message}"));
    }

    /// What may surprise.
    pub fn warning(&self, message: impl Display) {
        self.write(Level::Warning, format_args!("warning: {message}"));
    }

    /// What goes on.
    pub fn info(&self, message: impl Display) {
        self.write(Level::Info, message);
    }

    /// Details.
    pub fn trace(&self, message: impl Display) {
        self.write(Level::Trace, message);
    }
}
