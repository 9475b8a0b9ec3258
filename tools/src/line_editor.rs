//! What the user types: with line editing and history on a terminal, else line by line.

use crate::Error;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::{self, BufRead, IsTerminal, Write};

/// Longest text that is taken from one input, in bytes.
const MAX_INPUT: u64 = 64 << 20;

/// Reads lines.
pub struct LineEditor {
    editor: Option<DefaultEditor>,
    /// Every line goes on unless it ends with a backslash or slash; else only those do that end with a backslash.
    multiline: bool,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A text, without the last line feed.
    Text(String),
    /// The end: Ctrl-D, Ctrl-C, or the end of a pipe.
    End,
}

impl LineEditor {
    /// Uses line editing if stdin and stdout are terminals and `simple` is not set.
    pub fn new(simple: bool, multiline: bool) -> LineEditor {
        let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        // Without an editor for this kind of terminal, plain lines do.
        let editor = if terminal && !simple { DefaultEditor::new().ok() } else { None };
        LineEditor { editor, multiline }
    }

    /// Whether this shows prompts and what is typed.
    pub fn echoes(&self) -> bool {
        self.editor.is_some() || io::stdin().is_terminal()
    }

    /// Reads a text of one or more lines.
    ///
    /// # Errors
    /// Where stdin cannot be read.
    pub fn read(&mut self, prompt: &str) -> Result<Input, Error> {
        let mut text = String::new();
        let mut prompt = prompt;
        loop {
            let Some(line) = self.line(prompt)? else {
                return Ok(if text.is_empty() { Input::End } else { Input::Text(text) });
            };
            prompt = "";
            let more = match (self.multiline, line.strip_suffix('\\'), line.strip_suffix('/')) {
                (false, Some(line), _) => {
                    text.push_str(line);
                    text.push('\n');
                    true
                }
                (true, Some(line), _) => {
                    text.push_str(line);
                    text.push('\n');
                    false
                }
                (true, None, Some(line)) => {
                    text.push_str(line);
                    false
                }
                (true, None, None) => {
                    text.push_str(&line);
                    text.push('\n');
                    true
                }
                (false, None, _) => {
                    text.push_str(&line);
                    false
                }
            };
            // A command is one line in any case.
            let command = self.multiline && text.starts_with('/') && text.lines().count() == 1;
            if command {
                text.truncate(text.trim_end().len());
            }
            if !more || command {
                if let Some(editor) = &mut self.editor {
                    let _ = editor.add_history_entry(&text);
                }
                return Ok(Input::Text(text));
            }
        }
    }

    /// One line without its line feed, or `None` at the end.
    fn line(&mut self, prompt: &str) -> Result<Option<String>, Error> {
        if let Some(editor) = &mut self.editor {
            return match editor.readline(prompt) {
                Ok(line) => Ok(Some(line)),
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
                Err(ReadlineError::Io(e)) => Err(Error::Input(e)),
                Err(e) => Err(Error::Input(io::Error::other(e))),
            };
        }
        if io::stdin().is_terminal() {
            let mut out = io::stdout();
            out.write_all(prompt.as_bytes()).and_then(|()| out.flush()).map_err(Error::Output)?;
        }
        let mut bytes = Vec::new();
        let n = io::Read::take(io::stdin().lock(), MAX_INPUT).read_until(b'\n', &mut bytes).map_err(Error::Input)?;
        if n == 0 {
            return Ok(None);
        }
        if bytes.pop_if(|&mut b| b == b'\n').is_some() {
            bytes.pop_if(|&mut b| b == b'\r');
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}
