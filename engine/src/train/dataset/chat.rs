//! Which tokens of a conversation are the assistant's, with any template.
//!
//! No marker of any template is searched for. What a template prints around a message is found by rendering the conversation
//! again with one message changed, and what the model is given before it answers by rendering what came before it.

use serde_json::{Map, Value as Json};

use super::LineProblem;
use crate::chat_template::{ChatMessage, ChatTemplate, ChatTemplateError};
use crate::vocab::{TokenType, Tokenized, Vocab};

const ASSISTANT: &str = "assistant";

/// A conversation and the template that prints it.
pub(super) struct Conversation<'a> {
    pub template: &'a ChatTemplate,
    pub messages: &'a [ChatMessage],
    pub kwargs: &'a Map<String, Json>,
    /// The text of EOS, which templates may print.
    pub eos: &'a str,
}

/// Where a message of the assistant stands in the rendered text, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Where the assistant's text begins: behind the generation prompt.
    pub start: usize,
    /// Where the message's content ends.
    content_end: usize,
    /// Where the next message begins at the latest.
    limit: usize,
    /// Whether it begins exactly there.
    exact: bool,
}

impl Conversation<'_> {
    /// The whole conversation as text.
    pub fn render(&self) -> Result<String, ChatTemplateError> {
        self.apply(self.messages, false)
    }

    /// Where the assistant's messages stand in `text`, which [`render`](Self::render) gave. Messages that the template does
    /// not print are left out.
    ///
    /// # Errors
    /// If the template fails, or prints the content of a message more than once.
    pub fn turns(&self, text: &str) -> Result<Vec<Turn>, LineProblem> {
        let mark = unused_char(text);
        let mut turns: Vec<Turn> = Vec::new();
        for (i, message) in self.messages.iter().enumerate().filter(|(_, message)| message.role == ASSISTANT) {
            let turn = match self.content(text, i, mark)? {
                Some((start, content_end)) => {
                    let start = self.start(text, i, start, content_end);
                    let (limit, exact) = self.limit(text, i, content_end, mark)?;
                    Turn { start, content_end, limit, exact }
                }
                None => match self.without_content(text, i) {
                    Some(turn) => turn,
                    None if message.content.trim().is_empty() => continue,
                    None => return Err(LineProblem::ContentCount { index: i, count: 0 }),
                },
            };
            // A template that prints messages in another order than they come in has no turns.
            if turns.last().is_some_and(|last| turn.start < last.content_end) {
                return Err(LineProblem::Order { index: i });
            }
            turns.push(turn);
        }
        Ok(turns)
    }

    fn apply(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String, ChatTemplateError> {
        self.template.apply(messages, add_generation_prompt, self.kwargs)
    }

    /// The first `n` messages, with `mark` for the content of message `i`.
    fn marked(&self, n: usize, i: usize, mark: char) -> Result<String, ChatTemplateError> {
        let mut messages = self.messages[..n].to_vec();
        if let Some(message) = messages.get_mut(i) {
            message.content = mark.to_string();
        }
        self.apply(&messages, false)
    }

    /// Where the content of message `i` stands: what changes when the content is replaced by `mark`, which occurs nowhere
    /// else. It may differ from the message's content (trimmed, without its thoughts). `None` if it is not printed.
    fn content(&self, text: &str, i: usize, mark: char) -> Result<Option<(usize, usize)>, LineProblem> {
        let marked = self.marked(self.messages.len(), i, mark)?;
        match marked.matches(mark).count() {
            0 => return Ok(None),
            1 => {}
            count => return Err(LineProblem::ContentCount { index: i, count }),
        }
        let start = equal_at_start(text, &marked);
        let end = text.len() - equal_at_end(&text[start..], &marked);
        Ok(Some((start, end)))
    }

    /// The turn of message `i` if its content is not printed, but something else is, e.g. the tools that it calls.
    fn without_content(&self, text: &str, i: usize) -> Option<Turn> {
        let prompt = self.apply(&self.messages[..i], true).ok()?;
        let until = self.apply(&self.messages[..=i], false).ok()?;
        let (start, limit) = (prompt.len(), until.len());
        let nested = until.starts_with(&prompt) && text.starts_with(&until) && start < limit;
        nested.then_some(Turn { start, content_end: start, limit, exact: true })
    }

    /// Where the model takes over from the generation prompt.
    fn start(&self, text: &str, i: usize, content_start: usize, content_end: usize) -> usize {
        // Some templates refuse conversations that end so, or are empty.
        let Ok(prompt) = self.apply(&self.messages[..i], true) else {
            return content_start;
        };
        if prompt.len() <= content_end && text.starts_with(&prompt) {
            return prompt.len();
        }
        // The prompt begins otherwise than the conversation, e.g. because the template repeats the system message before the
        // last question. What it ends with still shows whether the white space before the content belongs to it.
        let header = text[..content_start].trim_end().len();
        let ends = (header..=content_start).filter(|&end| text.is_char_boundary(end));
        let best = ends.max_by_key(|&end| (equal_at_end(&text[..end], &prompt), end));
        best.unwrap_or(content_start)
    }

    /// How far what the template prints after the content of message `i` may reach, and whether just so far.
    fn limit(&self, text: &str, i: usize, content_end: usize, mark: char) -> Result<(usize, bool), LineProblem> {
        if i + 1 == self.messages.len() {
            return Ok((text.len(), true));
        }
        // What follows the content when nothing follows the message, without the EOS that some templates end with.
        let marked = self.marked(i + 1, i, mark).unwrap_or_default();
        if let Some((_, tail)) = marked.split_once(mark) {
            let stripped = tail.trim_end().strip_suffix(self.eos).filter(|tail| !tail.is_empty());
            for tail in [Some(tail), stripped].into_iter().flatten() {
                if text[content_end..].starts_with(tail) {
                    return Ok((content_end + tail.len(), true));
                }
            }
        }
        // The template treats the last message in a special way. The next content is too far, but all that is between them
        // is the template's.
        let next = self.content(text, i + 1, mark)?.map_or(content_end, |(start, _)| start.max(content_end));
        Ok((next, false))
    }
}

/// For each token whether it is the assistant's: from the end of the generation prompt through the end of turn. A token
/// belongs to where its first byte is.
pub(super) fn assistant_tokens(vocab: &Vocab, text: &str, tokens: &Tokenized, turns: &[Turn]) -> Vec<bool> {
    let mut mask = vec![false; tokens.ids.len()];
    for turn in turns {
        let first = tokens.starts.partition_point(|&start| (start as usize) < turn.start);
        let end = end_of_turn(vocab, text, tokens, turn);
        if let Some(mask) = mask.get_mut(first..end) {
            mask.fill(true);
        }
    }
    mask
}

/// The token after the last one of a turn: behind the token that ends generation. Without such a token, behind the last text
/// that the template prints after the content, or behind the white space if there is nothing else.
fn end_of_turn(vocab: &Vocab, text: &str, tokens: &Tokenized, turn: &Turn) -> usize {
    let index_of = |byte: usize| tokens.starts.partition_point(|&start| (start as usize) < byte);
    let is_eog = |index: usize| tokens.ids.get(index).is_some_and(|&id| vocab.is_eog(id));
    let (content, limit) = (index_of(turn.content_end), index_of(turn.limit));
    if let Some(index) = (content..limit).find(|&index| is_eog(index)) {
        return index + 1;
    }
    let tail = &text[turn.content_end..turn.limit];
    let end = if turn.exact {
        match tail.trim_end().len() {
            0 => limit,
            len => index_of(turn.content_end + len),
        }
    } else {
        // A control token right after the content ends the turn, e.g. `<|end|>` where the last one has `<|return|>`.
        let index = index_of(turn.content_end + tail.len() - tail.trim_start().len());
        let control = index < limit && tokens.ids.get(index).is_some_and(|&id| is_marker(vocab, id));
        if control { index + 1 } else { content }
    };
    // Some templates print no end: the token that begins the next question ends generation.
    end + usize::from(is_eog(end))
}

fn is_marker(vocab: &Vocab, id: u32) -> bool {
    matches!(vocab.token_type(id), Some(TokenType::Control | TokenType::UserDefined))
}

/// A character for private use that `text` lacks. Templates have no reason to treat it in a special way.
fn unused_char(text: &str) -> char {
    let private = ('\u{E000}'..='\u{F8FF}').chain('\u{F0000}'..='\u{FFFFD}').chain('\u{100000}'..='\u{10FFFD}');
    let used: std::collections::HashSet<char> = text.chars().filter(|&c| c >= '\u{E000}').collect();
    let mut private = private.filter(|c| !used.contains(c));
    private.next().unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Bytes of whole characters with which both begin.
fn equal_at_start(a: &str, b: &str) -> usize {
    let n = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    a.floor_char_boundary(n)
}

/// Bytes of whole characters with which both end.
fn equal_at_end(a: &str, b: &str) -> usize {
    let n = a.bytes().rev().zip(b.bytes().rev()).take_while(|(a, b)| a == b).count();
    a.len() - a.ceil_char_boundary(a.len() - n)
}
