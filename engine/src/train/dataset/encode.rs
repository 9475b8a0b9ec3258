//! From a line of JSONL to tokens.

use super::chat::{Conversation, Turn, assistant_tokens};
use super::record::{self, Record};
use super::{LineProblem, Sample};
use crate::chat_template::{ChatTemplate, ChatTemplateError};
use crate::vocab::{Tokenized, Vocab, VocabError};

/// What turns records into samples.
pub(super) struct Encoder<'a> {
    pub vocab: &'a Vocab,
    /// Only looked at for conversations: a model whose template is no good can still learn texts.
    pub template: Result<&'a ChatTemplate, &'a ChatTemplateError>,
    /// The text of EOS.
    pub eos: &'a str,
    pub assistant_loss_only: bool,
    pub append_eos: bool,
}

impl Encoder<'_> {
    /// The sample of a line.
    pub fn encode_line(&self, line: &[u8]) -> Result<Sample, LineProblem> {
        let mut sample = match record::parse(line)? {
            // There is no assistant in it.
            Record::Text(_) if self.assistant_loss_only => return Err(LineProblem::NoAssistant),
            Record::Text(text) => self.text(&text)?,
            Record::Completion { prompt, completion } => self.completion(&prompt, &completion)?,
            Record::Chat { messages, kwargs } => {
                let template = self.template.map_err(Clone::clone)?;
                let (messages, kwargs, eos) = (&messages, &kwargs, self.eos);
                self.chat(&Conversation { template, messages, kwargs, eos })?
            }
        };
        if let Some(first) = sample.loss.first_mut() {
            *first = false;
        }
        match sample.tokens.len() {
            got @ (0 | 1) => Err(LineProblem::TooShort { got }),
            _ if !sample.loss.contains(&true) => Err(LineProblem::NoAssistant),
            _ => Ok(sample),
        }
    }

    fn text(&self, text: &str) -> Result<Sample, VocabError> {
        let mut tokens = self.vocab.tokenize(text, true, false)?;
        if !text.is_empty() {
            self.end(&mut tokens);
        }
        let loss = vec![true; tokens.len()];
        Ok(Sample { tokens, loss })
    }

    /// The two parts are tokenized apart: that is what the model meets when it completes the prompt.
    fn completion(&self, prompt: &str, completion: &str) -> Result<Sample, VocabError> {
        let mut tokens = self.vocab.tokenize(prompt, true, false)?;
        if self.vocab.add_eos() && tokens.last().copied() == self.vocab.eos() {
            tokens.pop();
        }
        let n_prompt = tokens.len();
        tokens.extend(self.vocab.tokenize_continuation(completion, false)?.ids);
        if tokens.len() > n_prompt {
            self.end(&mut tokens);
        }
        let loss = (0..tokens.len()).map(|i| !self.assistant_loss_only || i >= n_prompt).collect();
        Ok(Sample { tokens, loss })
    }

    fn chat(&self, conversation: &Conversation) -> Result<Sample, LineProblem> {
        let text = conversation.render()?;
        let (mut tokens, mut loss);
        if self.assistant_loss_only {
            let turns = conversation.turns(&text)?;
            let tokenized = self.tokenize_turns(&text, &turns)?;
            loss = assistant_tokens(self.vocab, &text, &tokenized, &turns);
            tokens = tokenized.ids;
        } else {
            tokens = self.vocab.tokenize(&text, false, true)?;
            loss = vec![true; tokens.len()];
        }
        // As in a conversation with the model: BOS if the tokenizer adds it, and only once.
        if let Some(bos) = self.vocab.bos().filter(|&bos| self.vocab.add_bos() && tokens.first() != Some(&bos)) {
            tokens.insert(0, bos);
            loss.insert(0, false);
        }
        Ok(Sample { tokens, loss })
    }

    /// The tokens of a conversation, as one text but where a token would lie across the border to an answer: then the answer
    /// begins with a token of its own, as it does when the model gives it. After `Assistant: ` a model is to say `No`,
    /// not ` No`; as one text this word would have no token to be learned by.
    fn tokenize_turns(&self, text: &str, turns: &[Turn]) -> Result<Tokenized, VocabError> {
        let mut tokens = self.vocab.tokenize_with_offsets(text, false, true)?;
        let begins_token = |turn: &&Turn| tokens.starts.binary_search(&(turn.start as u32)).is_ok();
        let cuts: Vec<usize> = turns.iter().filter(|turn| !begins_token(turn)).map(|turn| turn.start).collect();
        // Everything after the last token may be empty.
        let mut end = text.len();
        let mut parts: Vec<Tokenized> = Vec::new();
        for &cut in cuts.iter().rev().filter(|&&cut| cut < text.len()) {
            let mut part = self.vocab.tokenize_continuation(&text[cut..end], true)?;
            part.starts.iter_mut().for_each(|start| *start += cut as u32);
            parts.push(part);
            end = cut;
        }
        if parts.is_empty() {
            return Ok(tokens);
        }
        tokens = self.vocab.tokenize_with_offsets(&text[..end], false, true)?;
        for part in parts.into_iter().rev() {
            tokens.ids.extend(part.ids);
            tokens.starts.extend(part.starts);
        }
        Ok(tokens)
    }

    /// Appends EOS unless the tokens end so already.
    fn end(&self, tokens: &mut Vec<u32>) {
        if let Some(eos) = self.vocab.eos().filter(|&eos| self.append_eos && tokens.last() != Some(&eos)) {
            tokens.push(eos);
        }
    }
}
