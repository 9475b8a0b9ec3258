//! Conversations: messages through a chat template, answers, and the commands between them.

use crate::generate::{Stop, StopTexts, generate};
use crate::line_editor::{Input, LineEditor};
use crate::log::Log;
use crate::output::{Output, Style};
use crate::prompt_cache::PromptCache;
use crate::session::{Progress, Session};
use crate::{Error, interrupt, prompt};
use fabric_engine::chat_template::{ChatMessage, ChatTemplate};
use fabric_engine::grammar::{Matcher, Sampler};
use fabric_engine::sampler::{SamplerChain, SamplerParams, SamplerVocab};
use serde_json::{Map, Value as Json};
use std::io::Write;
use std::path::Path;

const HELP: &str = "\
/regen       answer the last message again
/clear       forget the conversation (the system prompt stays)
/read FILE   put the text of a file before the next message
/exit        leave (also Ctrl-C or Ctrl-D)
/help        this text
A line that ends with \\ goes on in the next one. Ctrl-C stops an answer.
";

/// What a conversation is set up with.
pub struct ChatOptions {
    /// From messages to text.
    pub template: ChatTemplate,
    /// More variables for the template.
    pub kwargs: Map<String, Json>,
    /// The system prompt.
    pub system: Option<String>,
    /// How to choose tokens. Its seed is fixed; answering again adds one to it.
    pub sampler: (SamplerParams, SamplerVocab),
    /// What each answer must be like.
    pub grammar: Option<Matcher>,
    /// Most tokens of an answer.
    pub n_predict: Option<usize>,
    /// Texts that end an answer.
    pub stops: StopTexts,
    /// Show control tokens.
    pub special: bool,
    /// Tell tokens per second.
    pub show_timings: bool,
    /// How many tokens of the conversation stay where a full context is shifted, as `--keep`; `None`: it is not shifted.
    pub keep: Option<i32>,
}

/// A conversation.
pub struct Chat<'a, 'm, W: Write> {
    session: &'a mut Session<'m>,
    out: &'a mut Output<W>,
    log: &'a Log,
    options: ChatOptions,
    prompt_cache: Option<&'a mut PromptCache>,
    messages: Vec<ChatMessage>,
    /// Text of files for the next message.
    attached: String,
    /// How often the last message has been answered before.
    n_regen: u32,
}

enum Command<'t> {
    Say(&'t str),
    Regen,
    Clear,
    Read(&'t str),
    Exit,
    Help,
    Unknown(&'t str),
}

fn command(text: &str) -> Command<'_> {
    let trimmed = text.trim();
    let (word, rest) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
    match (word, rest.trim()) {
        ("/exit" | "/quit", "") => Command::Exit,
        ("/regen", "") => Command::Regen,
        ("/clear", "") => Command::Clear,
        ("/help" | "/?", "") => Command::Help,
        ("/read", path) => Command::Read(path),
        // A message may begin with a path or a comment: only single words are taken for mistyped commands.
        (word, "") if word.len() > 1 && word.starts_with('/') && word[1..].chars().all(char::is_alphabetic) => {
            Command::Unknown(word)
        }
        _ => Command::Say(text),
    }
}

impl<'a, 'm, W: Write> Chat<'a, 'm, W> {
    /// Begins a conversation.
    pub fn new(
        session: &'a mut Session<'m>,
        out: &'a mut Output<W>,
        log: &'a Log,
        options: ChatOptions,
        prompt_cache: Option<&'a mut PromptCache>,
    ) -> Self {
        let (messages, attached) = (Vec::new(), String::new());
        let mut chat = Chat { session, out, log, options, prompt_cache, messages, attached, n_regen: 0 };
        chat.clear();
        chat
    }

    fn clear(&mut self) {
        self.messages.clear();
        self.messages.extend(self.options.system.iter().map(|s| ChatMessage::new("system", s.as_str())));
        self.attached.clear();
        self.n_regen = 0;
    }

    /// Answers one message, which is shown first.
    ///
    /// # Errors
    /// Those of [`answer`](Self::answer).
    pub fn first(&mut self, message: &str) -> Result<Stop, Error> {
        self.out.style(Style::Typed)?;
        self.out.text(&format!("> {message}\n"))?;
        self.out.style(Style::Plain)?;
        self.say(message)
    }

    /// Takes messages and commands until the end.
    ///
    /// # Errors
    /// Where the output cannot be written, or the model cannot be run. A message that does not fit is told and left out.
    pub fn talk(&mut self, editor: &mut LineEditor) -> Result<(), Error> {
        if editor.echoes() {
            self.log.info("Type a message, or /help. Ctrl-C stops an answer, and leaves here.");
        }
        loop {
            let Input::Text(text) = editor.read("> ")? else {
                return if editor.echoes() { self.out.text("\n") } else { Ok(()) };
            };
            let answered = match command(&text) {
                Command::Say(text) if text.trim().is_empty() && self.attached.is_empty() => Ok(()),
                Command::Say(text) => self.say(text).map(drop),
                Command::Regen => self.regen(),
                Command::Clear => {
                    self.clear();
                    self.note("The conversation begins anew.\n")
                }
                Command::Read(path) => self.read(path),
                Command::Exit => return Ok(()),
                Command::Help => self.note(HELP),
                Command::Unknown(word) => {
                    self.note(&format!("There is no command {word}; /help lists those that there are.\n"))
                }
            };
            match answered {
                Err(
                    e @ (Error::PromptTooLong { .. }
                    | Error::ChatTemplate(_)
                    | Error::File { .. }
                    | Error::NotText { .. }
                    | Error::FileTooLarge { .. }),
                ) => {
                    self.log.error(e);
                }
                other => other?,
            }
        }
    }

    /// Takes one message from the user and answers it. `None` if there is none.
    ///
    /// # Errors
    /// Those of the answer.
    pub fn one(&mut self, editor: &mut LineEditor) -> Result<Option<Stop>, Error> {
        match editor.read("> ")? {
            Input::Text(text) => self.say(&text).map(Some),
            Input::End => Ok(None),
        }
    }

    fn note(&mut self, text: &str) -> Result<(), Error> {
        self.out.text(text)
    }

    fn read(&mut self, path: &str) -> Result<(), Error> {
        if path.is_empty() {
            return self.note("Which file? /read FILE\n");
        }
        let text = prompt::read_text(Path::new(path))?;
        let n = text.chars().count();
        self.attached.push_str(&text);
        if !self.attached.ends_with('\n') {
            self.attached.push('\n');
        }
        self.note(&format!("{n} characters of {path} will go before the next message.\n"))
    }

    fn regen(&mut self) -> Result<(), Error> {
        let Some(last) = self.messages.pop_if(|m| m.role == "assistant") else {
            return self.note("There is no answer yet.\n");
        };
        self.n_regen = self.n_regen.wrapping_add(1);
        let answered = self.answer();
        if answered.is_err() {
            self.messages.push(last);
        }
        answered.map(drop)
    }

    fn say(&mut self, text: &str) -> Result<Stop, Error> {
        self.messages.push(ChatMessage::new("user", format!("{}{text}", self.attached)));
        self.n_regen = 0;
        let answered = self.answer();
        match answered {
            Ok(_) => self.attached.clear(),
            Err(_) => drop(self.messages.pop()),
        }
        answered
    }

    /// The conversation so far as tokens.
    fn tokens(&self) -> Result<Vec<u32>, Error> {
        let vocab = self.session.vocab();
        let text = self.options.template.apply(&self.messages, true, &self.options.kwargs)?;
        // Templates write BOS where the tokenizer adds it too.
        let bos = vocab.bos().filter(|_| vocab.add_bos()).map(|id| vocab.token_to_piece(id, true)).unwrap_or_default();
        let text = text.as_bytes().strip_prefix(&*bos).unwrap_or(text.as_bytes());
        prompt::tokenize(vocab, text)
    }

    /// Generates the assistant's message.
    ///
    /// # Errors
    /// If the conversation does not fit the context, or the model cannot be run.
    fn answer(&mut self) -> Result<Stop, Error> {
        let tokens = self.tokens()?;
        let (n_prompt, n_ctx) = (tokens.len(), self.session.n_ctx());
        // As many positions stay free as llama.cpp wants.
        let max = n_ctx.saturating_sub(4);
        if n_prompt > max {
            return Err(Error::PromptTooLong { n_prompt, n_ctx, max });
        }
        self.session.shift_keeps(self.options.keep.map(|keep| self.session.n_keep(keep, n_prompt)));
        match &mut self.prompt_cache {
            Some(cache) => cache.begin(self.session, &tokens, self.log)?,
            None => self.session.replace(&tokens),
        }
        let (params, vocab) = &self.options.sampler;
        let seed = params.seed.wrapping_add(self.n_regen);
        let chain = SamplerChain::new(&SamplerParams { seed, ..params.clone() }, vocab)?;
        let mut sampler = Sampler::new(chain, self.options.grammar.clone());
        self.session.accept_all(&mut sampler);
        let before = self.session.perf.clone();
        self.options.stops.clear();
        let mut left = self.options.n_predict;
        let (out, stops, special) = (&mut *self.out, &mut self.options.stops, self.options.special);
        let is_eog = {
            let vocab = self.session.vocab();
            move |token| vocab.is_eog(token)
        };
        let mut bytes = Vec::new();
        let busy = interrupt::busy();
        if let Some(cache) = &mut self.prompt_cache
            && self.session.run()? == Progress::Done
        {
            cache.prompt_done(self.session)?;
        }
        let stop = generate(self.session, &mut sampler, stops, &mut left, special, |token, piece| {
            if !is_eog(token) {
                bytes.extend_from_slice(piece);
            }
            out.piece(piece)
        })?;
        drop(busy);
        self.out.text("\n\n")?;
        self.messages.push(ChatMessage::new("assistant", String::from_utf8_lossy(&bytes)));
        match stop {
            Stop::ContextFull => self
                .log
                .warning(format_args!(
                    "the context of {n_ctx} tokens is full: /clear begins anew, -c makes it larger, --context-shift forgets old text"
                )),
            Stop::Interrupted => self.log.info("(stopped)"),
            _ => {}
        }
        if self.options.show_timings {
            self.log.info(format_args!("{}\n", self.session.perf.minus(&before).rates()));
        }
        Ok(stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_messages() {
        assert!(matches!(command("/exit "), Command::Exit));
        assert!(matches!(command(" /clear"), Command::Clear));
        assert!(matches!(command("/regen"), Command::Regen));
        assert!(matches!(command("/read a b.txt"), Command::Read("a b.txt")));
        assert!(matches!(command("/read"), Command::Read("")));
        assert!(matches!(command("/hlep"), Command::Unknown("/hlep")));
        for message in ["hello", "", "/usr/bin is what?", "/ is a slash", "/exit now, please", "/* c */"] {
            assert!(matches!(command(message), Command::Say(m) if m == message), "{message}");
        }
    }
}
