//! The loop that generates text.

use crate::Error;
use crate::session::{Progress, Session};
use fabric_engine::grammar::Sampler;

/// Why generation stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// As many tokens as asked for.
    Limit,
    /// The model ended the text.
    EndOfGeneration,
    /// A stop text.
    ReversePrompt,
    /// No room for more.
    ContextFull,
    /// Ctrl-C.
    Interrupted,
}

/// Looks for stop texts at the end of a text.
#[derive(Clone, Debug)]
pub struct StopTexts {
    texts: Vec<Vec<u8>>,
    tail: Vec<u8>,
}

impl StopTexts {
    /// Looks for these; empty ones are left out.
    pub fn new(texts: impl IntoIterator<Item = Vec<u8>>) -> StopTexts {
        StopTexts { texts: texts.into_iter().filter(|t| !t.is_empty()).collect(), tail: Vec::new() }
    }

    /// The first stop text.
    pub fn first(&self) -> Option<&[u8]> {
        self.texts.first().map(Vec::as_slice)
    }

    /// Forgets the text.
    pub fn clear(&mut self) {
        self.tail.clear();
    }

    /// Appends to the text. Whether a stop text ends within the new piece.
    pub fn push(&mut self, piece: &[u8]) -> bool {
        let longest = self.texts.iter().map(Vec::len).max().unwrap_or(0);
        if longest == 0 || piece.is_empty() {
            return false;
        }
        self.tail.extend_from_slice(piece);
        let found = self.texts.iter().any(|text| {
            let start = self.tail.len().saturating_sub(piece.len() + text.len() - 1);
            self.tail[start..].windows(text.len()).any(|w| w == text)
        });
        let surplus = self.tail.len().saturating_sub(longest);
        self.tail.drain(..surplus);
        found
    }
}

/// Generates up to `left` tokens (`None`: no limit), and hands each with its text to `on_token`. `left` is counted down.
///
/// # Errors
/// Those of the engine, the samplers and `on_token`.
pub fn generate(
    session: &mut Session,
    sampler: &mut Sampler,
    stops: &mut StopTexts,
    left: &mut Option<usize>,
    special: bool,
    mut on_token: impl FnMut(u32, &[u8]) -> Result<(), Error>,
) -> Result<Stop, Error> {
    let vocab = session.vocab();
    loop {
        if *left == Some(0) {
            return Ok(Stop::Limit);
        }
        // The last token of the context would have no room for its successor.
        if !session.make_room(0)? {
            return Ok(Stop::ContextFull);
        }
        if session.run()? == Progress::Interrupted || crate::interrupt::requested() {
            return Ok(Stop::Interrupted);
        }
        let token = match session.sample(sampler) {
            // All that may follow would end the text, and the flags or the vocabulary leave no such token.
            Err(Error::Sample(_)) if sampler.is_at_end() => return Ok(Stop::EndOfGeneration),
            token => token?,
        };
        if let Some(n) = left {
            *n -= 1;
        }
        let piece = vocab.token_to_piece(token, special);
        on_token(token, &piece)?;
        if vocab.is_eog(token) {
            return Ok(Stop::EndOfGeneration);
        }
        if stops.push(&piece) {
            return Ok(Stop::ReversePrompt);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::StopTexts;

    #[test]
    fn stop_texts_are_found_across_pieces() {
        let mut stops = StopTexts::new([b"User:".to_vec(), b"\n\n".to_vec(), Vec::new()]);
        let found: Vec<_> =
            ["a", " Us", "er", ":", " b", "\n", "", "\nc", "Us"].iter().map(|p| stops.push(p.as_bytes())).collect();
        assert_eq!(found, [false, false, false, true, false, false, false, true, false]);
        stops.clear();
        assert!(!stops.push(b"er:"));
        assert!(stops.push(b"xUser:yyyyyyyyyyyyyyyyyyy"));
        assert!(!stops.push(b"z"), "an old one is not found again");
        assert!(!StopTexts::new([]).push(b"x"));
    }
}
