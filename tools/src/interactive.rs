//! Turns in one growing text, without a chat template (`-i`).

use crate::generate::{Stop, StopTexts, generate};
use crate::line_editor::{Input, LineEditor};
use crate::log::Log;
use crate::output::{Output, Style};
use crate::session::Session;
use crate::{Error, interrupt};
use fabric_engine::grammar::{SampleError, Sampler};
use std::io::Write;

/// How turns are taken.
pub struct InteractiveOptions {
    /// The user begins.
    pub user_first: bool,
    /// Put before what is typed.
    pub in_prefix: String,
    /// Put BOS before that.
    pub in_prefix_bos: bool,
    /// Put after what is typed.
    pub in_suffix: String,
    /// Escape sequences in what is typed count.
    pub escape: bool,
    /// Most tokens of a turn.
    pub n_predict: Option<usize>,
    /// Texts that hand over to the user.
    pub stops: StopTexts,
    /// The prompt ends with one of them.
    pub stopped_by_prompt: bool,
    /// Show control tokens.
    pub special: bool,
}

/// Takes turns until the end of the input, or until the context is full.
///
/// # Errors
/// Where the output cannot be written, or the model cannot be run.
pub fn take_turns<W: Write>(
    session: &mut Session,
    sampler: &mut Sampler,
    out: &mut Output<W>,
    editor: &mut LineEditor,
    options: InteractiveOptions,
    log: &Log,
) -> Result<(), Error> {
    let InteractiveOptions {
        user_first,
        in_prefix,
        in_prefix_bos,
        in_suffix,
        escape,
        n_predict,
        mut stops,
        stopped_by_prompt,
        special,
    } = options;
    let vocab = session.vocab();
    let mut users_turn = user_first || stopped_by_prompt;
    loop {
        if users_turn {
            out.style(Style::Typed)?;
            out.text(&in_prefix)?;
            let Input::Text(line) = editor.read("")? else {
                return out.text("\n");
            };
            let line = if escape { crate::escape::process(line.as_bytes()) } else { line.into_bytes() };
            if !line.is_empty() {
                let mut new: Vec<u32> = vocab.bos().filter(|_| in_prefix_bos).into_iter().collect();
                new.extend(vocab.tokenize(&in_prefix, false, true)?);
                new.extend(vocab.tokenize_bytes(&[&line[..], b"\n"].concat(), false, false)?);
                new.extend(vocab.tokenize(&in_suffix, false, true)?);
                if !session.make_room(new.len())? {
                    let used = session.tokens().len();
                    log.warning(format_args!("this does not fit: {used} of {} positions are used", session.n_ctx()));
                    continue;
                }
                // Less than before where the context was shifted.
                let start = session.tokens().len();
                session.append(&new);
                session.accept_from(sampler, start);
                out.text(&in_suffix)?;
            }
            out.style(Style::Plain)?;
            stops.clear();
            sampler.restart_grammar().map_err(SampleError::from)?;
        }
        let mut left = n_predict;
        let busy = interrupt::busy();
        let stop = generate(session, sampler, &mut stops, &mut left, special, |_, piece| out.piece(piece))?;
        drop(busy);
        match stop {
            Stop::ContextFull => {
                log.warning(format_args!("the context of {} tokens is full", session.n_ctx()));
                return out.text("\n");
            }
            // The model ended its turn without the stop text: it is put there, as the text's form wants it.
            Stop::EndOfGeneration => {
                if let Some(stop) = stops.first().map(<[u8]>::to_vec) {
                    let tokens = vocab.tokenize_bytes(&stop, false, true)?;
                    if session.make_room(tokens.len())? {
                        let start = session.tokens().len();
                        session.append(&tokens);
                        session.accept_from(sampler, start);
                        out.piece(&stop)?;
                    }
                }
            }
            Stop::Limit | Stop::ReversePrompt => {}
            Stop::Interrupted => out.text("\n")?,
        }
        users_turn = true;
    }
}
