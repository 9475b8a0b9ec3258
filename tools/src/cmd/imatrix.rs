//! `fabric-imatrix`: sums of squares of what weights are multiplied with.

use super::perplexity::chunks::{Runner, Subject};
use super::perplexity::stats::{LogProbs, Nll, fixed};
use super::perplexity::{print, tell_eta};
use crate::args;
use crate::args::imatrix::{ABSENT, CollectArgs, ImatrixArgs};
use crate::load::Loaded;
use crate::log::Log;
use crate::{Error, device, interrupt, load, prompt};
use fabric_engine::ContextOptions;
use fabric_engine::arch::Observe;
use fabric_engine::imatrix::{Imatrix, ImatrixError};
use fabric_engine::vocab::Vocab;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Runs the tool with this command line, program name first.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    args::run(argv, &ABSENT, |args: &ImatrixArgs| &args.logging, |args, _, log| make(args, log))
}

/// Reads an importance matrix.
///
/// # Errors
/// What is wrong with it, with the name of the file.
pub(super) fn read(path: &Path) -> Result<Imatrix, Error> {
    Imatrix::read(path).map_err(|source| match source {
        ImatrixError::Gguf(e @ gguf::Error::File { .. }) => e.into(),
        source => Error::Imatrix { path: path.into(), source },
    })
}

fn make(args: &ImatrixArgs, log: &Log) -> Result<ExitCode, Error> {
    let ImatrixArgs { model: model_args, adapter, collect, device: flags, logging: _ } = args;
    if flags.list_devices {
        return device::list().map(|()| ExitCode::SUCCESS);
    }
    if collect.chunks == 0 {
        return Err(Error::Usage("--chunks 0 collects nothing: expected 1 or more, or -1 for all".into()));
    }
    let at = |source| Error::Imatrix { path: collect.output.clone(), source };
    let mut matrix = Imatrix::default();
    for path in &collect.in_file {
        let other = read(path)?;
        log.info(format_args!("{}: {} entries, {} chunks", path.display(), other.entries.len(), other.chunk_count));
        matrix.add(&other).map_err(|source| Error::Imatrix { path: path.clone(), source })?;
    }
    if let Some(text) = prompt::text(&collect.text)? {
        interrupt::listen();
        // A short text may have less chunks side by side.
        let planned = context_options(collect, (collect.batch_size / collect.ctx_size.max(1)).max(1) as usize);
        let Loaded { model, gpu } = load::load(model_args, flags, Some(planned), log)?;
        // Without fallback: the sums are on the device that would be lost.
        let subject = Subject { model, adapters: adapter, fallback: None };
        let _busy = interrupt::busy();
        gather(collect, &text, &subject, &mut matrix, log)?;
        let source = collect.text.file.as_deref().or(collect.text.binary_file.as_deref());
        matrix.datasets.extend(source.map(|path| path.display().to_string()));
        device::tell_profile(&flags.gpu, gpu.as_ref());
    } else if collect.in_file.is_empty() {
        return Err(Error::Usage("no text given: it comes with -f or -p".into()));
    }
    if matrix.entries.is_empty() {
        return Ok(ExitCode::from(interrupt::INTERRUPTED));
    }
    matrix.write(&collect.output).map_err(at)?;
    let (n, path) = (matrix.entries.len(), collect.output.display());
    log.info(format_args!("{path}: {n} entries, {} chunks", matrix.chunk_count));
    Ok(if interrupt::requested() { ExitCode::from(interrupt::INTERRUPTED) } else { ExitCode::SUCCESS })
}

fn context_options(args: &CollectArgs, n_seq_max: usize) -> ContextOptions {
    let (n_ctx, n_ubatch) = (args.ctx_size as usize, args.ubatch_size as usize);
    ContextOptions { n_ctx, n_seq_max, n_ubatch, ..ContextOptions::default() }
}

/// Runs the text, chunk by chunk, and adds what went into the weights.
fn gather(args: &CollectArgs, text: &[u8], subject: &Subject, matrix: &mut Imatrix, log: &Log) -> Result<(), Error> {
    let vocab = subject.model.vocab().ok_or(Error::NoVocab)?;
    let tokens = tokens(args, vocab, text)?;
    let n_ctx = args.ctx_size as usize;
    let n_chunk = usize::try_from(args.chunks).map_or(tokens.len() / n_ctx, |n| n.min(tokens.len() / n_ctx));
    let n_seq = (args.batch_size as usize / n_ctx).clamp(1, n_chunk.max(1));
    let mut runner = Runner::new(subject, context_options(args, n_seq), args.batch_size as usize, log)?;
    runner.context_mut().observe(Observe { output: args.process_output });
    log.info(format_args!(
        "computing over {n_chunk} chunks, n_ctx={n_ctx}, batch_size={}, n_seq={n_seq}",
        args.batch_size
    ));
    // What goes into the output matrix is that of the tokens whose logits are wanted.
    let wanted = if args.ppl || args.process_output { n_ctx / 2..n_ctx - 1 } else { 0..0 };
    let n_scored = wanted.len();
    let chunks: Vec<&[u32]> = tokens.chunks_exact(n_ctx).take(n_chunk).collect();
    let (mut nll, mut done) = (Nll::default(), 0);
    for (group_no, group) in chunks.chunks(n_seq).enumerate() {
        let start = Instant::now();
        let mut scored = Vec::with_capacity(group.len() * n_scored);
        let complete = runner.run(group, wanted.clone(), |chunk, pos, logits| {
            if args.ppl {
                scored.push(-LogProbs::of(logits).log_prob(logits, group[chunk][pos + 1]));
            }
            Ok(())
        })?;
        if !complete {
            break;
        }
        if group_no == 0 {
            tell_eta(log, "imatrix", start.elapsed(), n_chunk as f64 / n_seq as f64)?;
        }
        for values in scored.chunks_exact(n_scored.max(1)) {
            values.iter().for_each(|&v| nll.push(v));
            done += 1;
            print(format_args!("[{done}]{:.4},", nll.ppl()))?;
        }
    }
    // Of a group that Ctrl-C cut short, what has been run counts.
    let inputs = runner.context_mut().input_sums();
    let rows = inputs.iter().find(|(name, _)| name.il.is_some()).map_or(0, |(_, input)| input.count);
    let n_chunks = u32::try_from(rows / n_ctx as u64).unwrap_or(u32::MAX);
    matrix.add_inputs(inputs, n_chunks, args.ctx_size);
    if args.ppl && done > 0 {
        let (ppl, error) = (nll.ppl(), nll.ppl() * nll.error());
        print(format_args!("\nFinal estimate: PPL = {} +/- {}\n", fixed(ppl, 0, 4), fixed(error, 0, 5)))?;
    }
    Ok(())
}

/// The text as tokens, from the first chunk that is wanted, at least two chunks of them.
fn tokens(args: &CollectArgs, vocab: &Vocab, text: &[u8]) -> Result<Vec<u32>, Error> {
    let mut tokens = vocab.tokenize_bytes(text, true, args.parse_special)?;
    if vocab.add_eos() {
        tokens.pop_if(|last| Some(*last) == vocab.eos());
    }
    let n_ctx = args.ctx_size as usize;
    let skipped = n_ctx.saturating_mul(args.chunk as usize).min(tokens.len());
    tokens.drain(..skipped);
    if tokens.len() / 2 < n_ctx {
        return Err(Error::TextTooShort { n_tokens: tokens.len(), n_ctx });
    }
    Ok(tokens)
}
