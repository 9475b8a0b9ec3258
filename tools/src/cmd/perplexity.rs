//! `fabric-perplexity`: how well a model predicts a text, and how far it is from another model.

mod base_file;
pub(super) mod chunks;
mod kl;
pub(super) mod stats;

use crate::args;
use crate::args::perplexity::{ABSENT, MeasureArgs, PerplexityArgs};
use crate::fallback::Fallback;
use crate::load::Loaded;
use crate::log::Log;
use crate::{Error, device, interrupt, load, prompt};
use base_file::{BaseWriter, Header};
use chunks::{Runner, Subject};
use fabric_engine::ContextOptions;
use fabric_engine::vocab::Vocab;
use stats::{LogProbs, Nll, fixed};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Runs the tool with this command line, program name first.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    args::run(argv, &ABSENT, |args: &PerplexityArgs| &args.logging, |args, _, log| measure(args, log))
}

fn measure(args: &PerplexityArgs, log: &Log) -> Result<ExitCode, Error> {
    let PerplexityArgs { model, adapter, measure, device: flags, logging: _ } = args;
    if flags.list_devices {
        return device::list().map(|()| ExitCode::SUCCESS);
    }
    let MeasureArgs { kl_divergence, kl_divergence_base, ppl_stride, chunks, .. } = measure;
    if *chunks == 0 {
        return Err(Error::Usage("--chunks 0 measures nothing: expected 1 or more, or -1 for all".into()));
    }
    if *kl_divergence && kl_divergence_base.is_none() {
        let message = "--kl-divergence compares with the log-probabilities in the file of --kl-divergence-base, which is not given";
        return Err(Error::Usage(message.into()));
    }
    if *ppl_stride > 0 && kl_divergence_base.is_some() {
        return Err(Error::Usage("--ppl-stride and --kl-divergence-base exclude each other".into()));
    }
    interrupt::listen();
    // A short text may have less chunks side by side.
    let side_by_side = (measure.batch_size / measure.ctx_size.max(1)).max(1) as usize;
    let planned = context_options(measure, measure.ctx_size as usize, side_by_side);
    let loaded = load::load(model, flags, Some(planned), log)?;
    let fallback = Fallback::new(&loaded, model, flags, log);
    let Loaded { model, gpu } = loaded;
    let subject = Subject { model, adapters: adapter, fallback };
    let vocab = subject.model.vocab().ok_or(Error::NoVocab)?;
    let _busy = interrupt::busy();
    match kl_divergence_base {
        Some(path) if *kl_divergence => kl::compare(measure, path, &subject, log),
        _ => {
            let tokens = tokens(measure, vocab, log)?;
            if *ppl_stride > 0 {
                strided(measure, &tokens, &subject, log)
            } else {
                perplexity(measure, &tokens, &subject, log)
            }
        }
    }?;
    device::tell_profile(&flags.gpu, gpu.as_ref());
    Ok(if interrupt::requested() { ExitCode::from(interrupt::INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// The text as tokens, at least two chunks of them.
fn tokens(args: &MeasureArgs, vocab: &Vocab, log: &Log) -> Result<Vec<u32>, Error> {
    let text = prompt::text(&args.text)?.ok_or_else(|| Error::Usage("no text given: it comes with -f or -p".into()))?;
    log.info("perplexity: tokenizing the input ..");
    let start = Instant::now();
    let mut tokens = vocab.tokenize_bytes(&text, true, false)?;
    if vocab.add_eos() {
        tokens.pop_if(|last| Some(*last) == vocab.eos());
    }
    log.info(format_args!("perplexity: tokenization took {:.3} ms", start.elapsed().as_secs_f64() * 1000.0));
    let n_ctx = args.ctx_size as usize;
    if tokens.len() / 2 < n_ctx {
        return Err(Error::TextTooShort { n_tokens: tokens.len(), n_ctx });
    }
    Ok(tokens)
}

fn context_options(args: &MeasureArgs, n_ctx: usize, n_seq_max: usize) -> ContextOptions {
    ContextOptions {
        n_ctx,
        n_seq_max,
        n_ubatch: args.ubatch_size as usize,
        type_k: args.cache.cache_type_k,
        type_v: args.cache.cache_type_v,
        ..ContextOptions::default()
    }
}

/// The number of chunks to run, of those that there are.
fn n_chunks(args: &MeasureArgs, max: usize) -> usize {
    usize::try_from(args.chunks).map_or(max, |n| n.min(max))
}

/// The time that is left, half of the line on stderr as in llama.cpp.
pub(super) fn tell_eta(log: &Log, who: &str, pass: Duration, n_passes: f64) -> Result<(), Error> {
    log.part(format_args!("{who}: {:.2} seconds per pass - ETA ", pass.as_secs_f64()));
    let seconds = (pass.as_secs_f64() * n_passes) as u64;
    let hours = if seconds >= 3600 { format!("{} hours ", seconds / 3600) } else { String::new() };
    print(format_args!("{hours}{:.2} minutes\n", (seconds % 3600) as f64 / 60.0))
}

/// To standard output, at once: the numbers are watched as they come.
pub(super) fn print(text: impl std::fmt::Display) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).map_err(Error::Output)
}

/// Perplexity over chunks that do not overlap.
fn perplexity(args: &MeasureArgs, tokens: &[u32], subject: &Subject, log: &Log) -> Result<(), Error> {
    let n_ctx = args.ctx_size as usize;
    let n_chunk = n_chunks(args, tokens.len() / n_ctx);
    let n_seq = (args.batch_size as usize / n_ctx).clamp(1, n_chunk.max(1));
    let mut runner = Runner::new(subject, context_options(args, n_ctx, n_seq), args.batch_size as usize, log)?;
    log.info(format_args!(
        "perplexity: calculating perplexity over {n_chunk} chunks, n_ctx={n_ctx}, batch_size={}, n_seq={n_seq}",
        args.batch_size
    ));
    let mut base = match &args.kl_divergence_base {
        Some(path) => {
            log.info(format_args!("perplexity: saving all logits to {}", path.display()));
            let n_vocab = subject.model.hparams().n_vocab;
            Some(BaseWriter::create(path, Header { n_ctx, n_vocab, n_chunk }, &tokens[..n_chunk * n_ctx])?)
        }
        None => None,
    };
    let first = n_ctx / 2;
    let n_scored = n_ctx - 1 - first;
    let mut nll = Nll::default();
    let chunks: Vec<&[u32]> = tokens.chunks_exact(n_ctx).take(n_chunk).collect();
    for (group_no, group) in chunks.chunks(n_seq).enumerate() {
        let start = Instant::now();
        let mut scored = Vec::with_capacity(group.len() * n_scored);
        let done = runner.run(group, first..n_ctx - 1, |chunk, pos, logits| {
            let probs = LogProbs::of(logits);
            scored.push(-probs.log_prob(logits, group[chunk][pos + 1]));
            match &mut base {
                Some(base) => base.row(logits, &probs),
                None => Ok(()),
            }
        })?;
        if !done {
            return print("\n");
        }
        if group_no == 0 {
            tell_eta(log, "perplexity", start.elapsed(), n_chunk as f64 / n_seq as f64)?;
        }
        for (i, values) in scored.chunks_exact(n_scored).enumerate() {
            values.iter().for_each(|&v| nll.push(v));
            let chunk = group_no * n_seq + i;
            match args.ppl_output_type {
                0 => print(format_args!("[{}]{:.4},", chunk + 1, nll.ppl()))?,
                // llama.cpp names the first token of the group.
                _ => {
                    let (mean, error) = (nll.mean(), nll.error());
                    print(format_args!("{:8}  {:.4}  {mean:.6}  {error:.6}\n", group_no * n_seq * n_ctx, nll.ppl()))?;
                }
            }
        }
    }
    print("\n")?;
    if let Some(base) = base {
        base.finish()?;
    }
    let (ppl, error) = (nll.ppl(), nll.ppl() * nll.error());
    log.info(format_args!("Final estimate: PPL = {} +/- {}", fixed(ppl, 0, 4), fixed(error, 0, 5)));
    print("\n")
}

/// Perplexity over chunks that overlap: each token is predicted from a long past.
fn strided(args: &MeasureArgs, tokens: &[u32], subject: &Subject, log: &Log) -> Result<(), Error> {
    let stride = args.ppl_stride as usize;
    let n_ctx = args.ctx_size as usize + stride / 2;
    log.info(format_args!(
        "Will perform strided perplexity calculation -> adjusting context size from {} to {n_ctx}",
        args.ctx_size
    ));
    if stride >= n_ctx {
        return Err(Error::Usage(format!("--ppl-stride {stride} is too large for chunks of {n_ctx} tokens")));
    }
    if tokens.len() <= n_ctx {
        return Err(Error::TextTooShort { n_tokens: tokens.len(), n_ctx });
    }
    let n_chunk = n_chunks(args, (tokens.len() - n_ctx).div_ceil(stride));
    let mut runner = Runner::new(subject, context_options(args, n_ctx, 1), args.batch_size as usize, log)?;
    log.info(format_args!("perplexity_v2: have {} tokens. Calculation chunk = {n_ctx}", tokens.len()));
    log.info(format_args!(
        "perplexity_v2: calculating perplexity over {n_chunk} chunks, batch_size={}",
        args.batch_size
    ));
    let mut nll = Nll::default();
    for i in 0..n_chunk {
        // The last chunk that begins before tokens.len() - n_ctx ends within the text.
        let chunk = &tokens[i * stride..][..n_ctx];
        let start = Instant::now();
        let done = runner.run(&[chunk], n_ctx - stride - 1..n_ctx - 1, |_, pos, logits| {
            nll.push(-LogProbs::of(logits).log_prob(logits, chunk[pos + 1]));
            Ok(())
        })?;
        if !done {
            break;
        }
        if i == 0 {
            tell_eta(log, "perplexity_v2", start.elapsed(), n_chunk as f64)?;
        }
        match args.ppl_output_type {
            0 => print(format_args!("[{}]{:.4},", i + 1, nll.ppl()))?,
            _ => print(format_args!("{:8}  {:.4}\n", i * stride, nll.ppl()))?,
        }
    }
    print("\n\n")
}
