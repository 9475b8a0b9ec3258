//! Completions.

use super::{Main, status_of};
use crate::generate::{Stop, StopTexts, generate};
use crate::interactive::{self, InteractiveOptions};
use crate::line_editor::LineEditor;
use crate::log::Level;
use crate::npy::NpyWriter;
use crate::output::{Output, Style};
use crate::prompt_cache::PromptCache;
use crate::session::{Progress, Session};
use crate::{Error, interrupt, prompt};
use fabric_engine::grammar::Sampler;
use fabric_engine::sampler::SamplerChain;
use fabric_engine::vocab::Vocab;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// The prompt for who tries the program without any.
const TRY_PROMPT: &str = "And the king said";

impl Main<'_> {
    /// Shows the prompt, and continues it.
    pub(super) fn complete<W: Write>(
        &self,
        session: &mut Session,
        out: &mut Output<W>,
        mut prompt_cache: Option<&mut PromptCache>,
    ) -> Result<ExitCode, Error> {
        let generation = &self.args.generation;
        let typing = &self.args.typing;
        let interactive = typing.interactive || typing.interactive_first;
        let prompt = self.prompt_or_try(interactive);
        let vocab = session.vocab();
        let cached = prompt_cache.as_ref().map(|cache| cache.tokens()).unwrap_or_default();
        let tokens =
            if self.prompt.as_ref().is_none_or(Vec::is_empty) && !typing.interactive_first && !cached.is_empty() {
                cached.to_vec()
            } else {
                prompt::tokenize(vocab, prompt)?
            };
        let n_predict = self.n_predict();
        let n_ctx = session.n_ctx();
        // Room to generate, as llama.cpp wants; a prompt that is only run may fill the context.
        let max = if n_predict == Some(0) { n_ctx } else { n_ctx.saturating_sub(4) };
        if tokens.len() > max {
            return Err(Error::PromptTooLong { n_prompt: tokens.len(), n_ctx, max });
        }
        self.tell_prompt(vocab, prompt, &tokens);
        let (params, sampler_vocab) = &self.sampler;
        let mut sampler = Sampler::new(SamplerChain::new(params, sampler_vocab)?, self.grammar.clone());
        self.tell_generation(session, tokens.len());
        let n_keep = session.n_keep(self.args.context.keep, tokens.len());
        session.shift_keeps(self.shifts().then_some(n_keep));
        match &mut prompt_cache {
            Some(cache) => cache.begin(session, &tokens, self.log)?,
            None => session.append(&tokens),
        }
        session.accept_all(&mut sampler);
        let n_rows = tokens.len();
        let npy = generation.logits_file.as_ref().map(|path| NpyWriter::create(path, [n_rows, sampler_vocab.n_vocab]));
        let npy = npy.transpose()?;
        let mut stops = self.stops();
        let mut stopped_by_prompt = false;
        if interactive {
            self.log.info("Ctrl-C hands over to you; an empty line lets the model go on; Ctrl-D leaves.\n");
        }
        out.style(Style::Prompt)?;
        for &token in &tokens {
            let piece = vocab.token_to_piece(token, generation.special);
            if generation.display_prompt {
                out.piece(&piece)?;
            }
            stopped_by_prompt = stops.push(&piece);
        }
        out.style(Style::Plain)?;
        let busy = interrupt::busy();
        let progress = match npy {
            Some(npy) => write_logits(session, npy)?,
            None => session.run()?,
        };
        if let Some(cache) = prompt_cache.filter(|_| progress == Progress::Done) {
            cache.prompt_done(session)?;
        }
        if interactive && progress == Progress::Done {
            drop(busy);
            self.take_turns(session, &mut sampler, out, stops, stopped_by_prompt)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut left = n_predict;
        let stop = match progress {
            Progress::Interrupted => Stop::Interrupted,
            Progress::Done if stopped_by_prompt => Stop::ReversePrompt,
            Progress::Done => {
                generate(session, &mut sampler, &mut stops, &mut left, generation.special, |_, piece| out.piece(piece))?
            }
        };
        drop(busy);
        out.text(if stop == Stop::EndOfGeneration { " [end of text]\n\n" } else { "\n\n" })?;
        if stop == Stop::ContextFull {
            self.log.info(format_args!(
                "the context of {n_ctx} tokens is full (-c makes it larger, --context-shift forgets old text)"
            ));
        }
        Ok(status_of(Some(stop)))
    }

    /// The prompt; for who tries the program without any, one that works.
    fn prompt_or_try(&self, interactive: bool) -> &[u8] {
        let nobody_asked = self.prompt.is_none() && !interactive && self.args.model.model.is_none();
        match &self.prompt {
            Some(prompt) => prompt.as_slice(),
            None if nobody_asked && std::io::stdin().is_terminal() => {
                self.log.info(format_args!(
                    "no prompt given (-p): trying \"{TRY_PROMPT}\"; --help tells what else there is"
                ));
                TRY_PROMPT.as_bytes()
            }
            None => &[],
        }
    }

    fn take_turns<W: Write>(
        &self,
        session: &mut Session,
        sampler: &mut Sampler,
        out: &mut Output<W>,
        stops: StopTexts,
        stopped_by_prompt: bool,
    ) -> Result<(), Error> {
        let (generation, typing) = (&self.args.generation, &self.args.typing);
        let options = InteractiveOptions {
            user_first: typing.interactive_first,
            in_prefix: self.unescape(&typing.in_prefix),
            in_prefix_bos: typing.in_prefix_bos,
            in_suffix: self.unescape(&typing.in_suffix),
            escape: generation.escape,
            n_predict: self.n_predict(),
            stops,
            stopped_by_prompt,
            special: generation.special,
        };
        // An editor would begin a new line, but what is typed goes on where the text ends.
        let mut editor = LineEditor::new(true, typing.multiline_input);
        interactive::take_turns(session, sampler, out, &mut editor, options, self.log)
    }

    fn tell_prompt(&self, vocab: &Vocab, prompt: &[u8], tokens: &[u32]) {
        if !self.args.generation.verbose_prompt {
            return;
        }
        let log = self.log;
        log.write(Level::Warning, format_args!("prompt: '{}'", String::from_utf8_lossy(prompt)));
        log.write(Level::Warning, format_args!("number of tokens in prompt = {}", tokens.len()));
        for &token in tokens {
            let piece = vocab.token_to_piece(token, true);
            log.write(Level::Warning, format_args!("{token:6} -> '{}'", String::from_utf8_lossy(&piece)));
        }
    }
}

fn write_logits(session: &mut Session, mut npy: NpyWriter) -> Result<Progress, Error> {
    let progress = session.run_with_all_logits(|row| npy.row(row))?;
    if progress == Progress::Done {
        npy.finish()?;
    }
    Ok(progress)
}
