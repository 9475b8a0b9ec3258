//! `fabric-tokenize`: the tokens of a text.

use super::gguf::printable;
use crate::args::tokenize::{ABSENT, TokenizeArgs};
use crate::{Error, escape, load, prompt};
use fabric_engine::vocab::Vocab;
use gguf::Gguf;
use std::ffi::OsString;
use std::io::{BufWriter, Write};
use std::process::ExitCode;

/// Runs the tool with this command line, program name first.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = match crate::args::parse::<TokenizeArgs>(argv, ABSENT) {
        Ok(parsed) => parsed,
        Err(status) => return status,
    };
    match tokenize(&parsed.args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.is_closed_output() => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: {}", printable(&e.to_string()));
            ExitCode::from(e.exit_status())
        }
    }
}

fn tokenize(args: &TokenizeArgs) -> Result<(), Error> {
    let TokenizeArgs { model, no_bos, no_parse_special, ids, show_count, log_disable, .. } = args;
    let text = text(args)?;
    let gguf = match model {
        Some(path) => Gguf::open(path)?,
        None => Gguf::from_bytes(load::BUILT_IN)?,
    };
    let vocab = Vocab::from_metadata(gguf.metadata())?;
    if !log_disable {
        for warning in vocab.warnings() {
            let _ = writeln!(std::io::stderr(), "warning: {}", printable(warning));
        }
    }
    // As in llama.cpp, where BOS is not wanted EOS is not either.
    let tokens = vocab.tokenize_bytes(&text, vocab.add_bos() && !no_bos, !no_parse_special)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let written = if *ids { write_ids(&mut out, &tokens) } else { write_pieces(&mut out, &vocab, &tokens) };
    let counted = written.and_then(|()| match show_count {
        true => writeln!(out, "Total number of tokens: {}", tokens.len()),
        false => Ok(()),
    });
    counted.and_then(|()| out.flush()).map_err(Error::Output)
}

fn text(args: &TokenizeArgs) -> Result<Vec<u8>, Error> {
    let TokenizeArgs { prompt, file, stdin, no_escape, .. } = args;
    let text = match (stdin, file, prompt) {
        (true, ..) => prompt::read_stdin()?,
        (false, Some(path), _) => prompt::read_file(path)?,
        (false, None, Some(text)) => text.as_encoded_bytes().to_vec(),
        (false, None, None) => return Err(Error::Usage("no text given: it comes with -p, -f or --stdin".into())),
    };
    Ok(if *no_escape { text } else { escape::process(&text) })
}

fn write_ids(out: &mut impl Write, tokens: &[u32]) -> std::io::Result<()> {
    let ids: Vec<_> = tokens.iter().map(u32::to_string).collect();
    writeln!(out, "[{}]", ids.join(", "))
}

fn write_pieces(out: &mut impl Write, vocab: &Vocab, tokens: &[u32]) -> std::io::Result<()> {
    for &token in tokens {
        let piece = vocab.token_to_piece(token, true);
        // llama.cpp prints C strings: the piece of the byte 0 is empty there.
        let piece = piece.split(|&b| b == 0).next().unwrap_or_default();
        write!(out, "{token:6} -> '")?;
        out.write_all(piece)?;
        writeln!(out, "'")?;
    }
    Ok(())
}
