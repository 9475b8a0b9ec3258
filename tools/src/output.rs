//! Standard output: text as it comes, in whole characters.

use crate::Error;
use fabric_engine::vocab::Utf8Stream;
use std::io::Write;

/// What a piece of text is, for its color.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Generated.
    Plain,
    /// From a flag or file.
    Prompt,
    /// Typed.
    Typed,
}

/// Where text goes.
pub struct Output<W: Write> {
    sink: W,
    colors: bool,
    style: Style,
    utf8: Utf8Stream,
}

impl<W: Write> Output<W> {
    /// Text for `sink`.
    pub fn new(sink: W, colors: bool) -> Output<W> {
        Output { sink, colors, style: Style::Plain, utf8: Utf8Stream::new() }
    }

    /// Changes what the text from here on is.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn style(&mut self, style: Style) -> Result<(), Error> {
        if !self.colors || self.style == style {
            return Ok(());
        }
        self.style = style;
        let code = match style {
            Style::Plain => "\x1b[0m",
            Style::Prompt => "\x1b[33m",
            Style::Typed => "\x1b[1m\x1b[32m",
        };
        self.raw(code)
    }

    /// The bytes of a token; those of a character that is not complete wait for the next token.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn piece(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let text = self.utf8.push(bytes);
        self.raw(&text)
    }

    /// Text that comes from no token. An incomplete character before it is given up.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn text(&mut self, text: &str) -> Result<(), Error> {
        let held = std::mem::take(&mut self.utf8).finish();
        self.raw(&held)?;
        self.raw(text)
    }

    fn raw(&mut self, text: &str) -> Result<(), Error> {
        if text.is_empty() {
            return Ok(());
        }
        self.sink.write_all(text.as_bytes()).and_then(|()| self.sink.flush()).map_err(Error::Output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_written_whole() {
        let mut written = Vec::new();
        let mut out = Output::new(&mut written, false);
        for byte in "a€😀".as_bytes() {
            out.piece(&[*byte]).unwrap();
        }
        out.piece(b"\xE2\x82").unwrap();
        out.text(" [end]").unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), "a€😀\u{FFFD} [end]");
    }

    #[test]
    fn colors_change_only_where_the_style_does() {
        let mut written = Vec::new();
        let mut out = Output::new(&mut written, true);
        for (style, text) in [(Style::Prompt, "p"), (Style::Prompt, "q"), (Style::Plain, "x")] {
            out.style(style).unwrap();
            out.text(text).unwrap();
        }
        assert_eq!(String::from_utf8(written).unwrap(), "\x1b[33mpq\x1b[0mx");
    }
}
