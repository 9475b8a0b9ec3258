//! From flags and a model to what a sampler chain is made of.

use super::{MainArgs, unescape};
use crate::Error;
use crate::args::sampling;
use crate::log::Log;
use clap::ArgMatches;
use fabric_engine::Model;
use fabric_engine::sampler::{DryBreakers, SamplerChain, SamplerParams, SamplerVocab};

/// Parameters, with the model's recommendations and a seed that is fixed from here on, and what the chain has to know of the model.
pub fn from_flags(
    args: &MainArgs,
    model: &Model,
    matches: &ArgMatches,
    n_ctx: usize,
    log: &Log,
) -> Result<(SamplerParams, SamplerVocab), Error> {
    let vocab = model.vocab().ok_or(Error::NoVocab)?;
    let mut params = args.sampling.params(|text| unescape(text, args.generation.escape));
    sampling::recommend(&mut params, model.metadata(), matches).iter().for_each(|line| log.info(line));
    params.validate()?;
    let mut sampler_vocab = SamplerVocab {
        n_vocab: model.hparams().n_vocab,
        n_ctx,
        eog_tokens: vocab.eog_ids().to_vec(),
        dry_breakers: DryBreakers::default(),
    };
    if params.dry_multiplier != 0.0 {
        sampler_vocab.dry_breakers = DryBreakers::from_strings(
            &params.dry_sequence_breaker,
            sampler_vocab.n_vocab,
            |id| vocab.token_to_piece(id, true).into_owned(),
            |text| vocab.tokenize_bytes(text, false, false).unwrap_or_default(),
        );
    }
    params.seed = SamplerChain::new(&params, &sampler_vocab)?.seed();
    Ok((params, sampler_vocab))
}

/// The parameters in llama.cpp's words, on four lines.
pub fn describe(p: &SamplerParams) -> String {
    format!(
        "\trepeat_last_n = {}, repeat_penalty = {:.3}, frequency_penalty = {:.3}, presence_penalty = {:.3}\n\
         \tdry_multiplier = {:.3}, dry_base = {:.3}, dry_allowed_length = {}, dry_penalty_last_n = {}\n\
         \ttop_k = {}, top_p = {:.3}, min_p = {:.3}, xtc_probability = {:.3}, xtc_threshold = {:.3}, typical_p = {:.3}, \
         top_n_sigma = {:.3}, temp = {:.3}\n\
         \tmirostat = {}, mirostat_lr = {:.3}, mirostat_ent = {:.3}, adaptive_target = {:.3}, adaptive_decay = {:.3}",
        p.repeat_last_n,
        p.repeat_penalty,
        p.frequency_penalty,
        p.presence_penalty,
        p.dry_multiplier,
        p.dry_base,
        p.dry_allowed_length,
        p.dry_penalty_last_n,
        p.top_k,
        p.top_p,
        p.min_p,
        p.xtc_probability,
        p.xtc_threshold,
        p.typical,
        p.top_nsigma,
        p.temp,
        p.mirostat,
        p.mirostat_lr,
        p.mirostat_ent,
        p.adaptive_target,
        p.adaptive_decay
    )
}
