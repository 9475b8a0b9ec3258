//! Token samplers: the chain of llama.cpp, with the same order, arithmetic and random streams.
//!
//! A [`SamplerChain`] turns one row of logits into a token id. It knows nothing of the model: the vocabulary's size, its
//! end-of-generation tokens and the tokenized DRY breakers are given in [`SamplerVocab`].

mod candidates;
mod dry;
mod error;
mod params;
mod penalties;
mod rng;
mod select;

pub use candidates::Candidate;
pub use dry::DryBreakers;
pub use error::SamplerError;
pub use params::{RANDOM_SEED, SamplerParams, SamplerType};
pub use rng::{Mt19937, random_seed};

use candidates::{Candidates, nan_to_neg_inf};
use dry::{Dry, DryParams};
use penalties::Penalties;
use select::{AdaptiveP, Mirostat};

/// What a chain needs to know of the vocabulary and the context.
#[derive(Debug, Clone, Default)]
pub struct SamplerVocab {
    /// Number of tokens, which is the length of a row of logits.
    pub n_vocab: usize,
    /// Context size in tokens, used where a look-back of -1 is asked for.
    pub n_ctx: usize,
    /// Tokens that end the generation (for `ignore_eos`).
    pub eog_tokens: Vec<u32>,
    /// The tokenized sequence breakers of DRY.
    pub dry_breakers: DryBreakers,
}

/// One sampler of a chain with its state.
#[derive(Debug, Clone)]
enum Stage {
    /// Listed but without effect; the name is shown with `?`.
    Inactive(&'static str),
    LogitBias(Vec<(u32, f32)>),
    Penalties(Penalties),
    Dry(Box<Dry>),
    TopNSigma(f32),
    TopK(usize),
    Typical(f32, usize),
    TopP(f32, usize),
    MinP(f32, usize),
    Xtc {
        probability: f32,
        threshold: f32,
        min_keep: usize,
        rng: Mt19937,
    },
    Temp(f32),
    TempExt {
        temp: f32,
        range: f32,
        exponent: f32,
    },
    Dist(Mt19937),
    MirostatV1(Mirostat, usize),
    MirostatV2(Mirostat),
    AdaptiveP(Box<AdaptiveP>),
}

impl Stage {
    fn name(&self) -> &'static str {
        match self {
            Self::Inactive(name) => name,
            Self::LogitBias(_) => "logit-bias",
            Self::Penalties(_) => "penalties",
            Self::Dry(_) => "dry",
            Self::TopNSigma(_) => "top-n-sigma",
            Self::TopK(_) => "top-k",
            Self::Typical(..) => "typical",
            Self::TopP(..) => "top-p",
            Self::MinP(..) => "min-p",
            Self::Xtc { .. } => "xtc",
            Self::Temp(_) => "temp",
            Self::TempExt { .. } => "temp-ext",
            Self::Dist(_) => "dist",
            Self::MirostatV1(..) => "mirostat",
            Self::MirostatV2(_) => "mirostat-v2",
            Self::AdaptiveP(_) => "adaptive-p",
        }
    }

    fn apply(&mut self, cur: &mut Candidates) {
        match self {
            Self::Inactive(_) => {}
            Self::LogitBias(biases) => apply_logit_bias(biases, cur),
            Self::Penalties(s) => s.apply(cur),
            Self::Dry(s) => s.apply(cur),
            Self::TopNSigma(n) => cur.mask_below_n_sigma(*n),
            Self::TopK(k) => cur.keep_top(*k),
            Self::Typical(p, min_keep) => cur.keep_typical(*p, *min_keep),
            Self::TopP(p, min_keep) => cur.keep_top_p(*p, *min_keep),
            Self::MinP(p, min_keep) => cur.keep_min_p(*p, *min_keep),
            Self::Xtc { probability, threshold, min_keep, rng } => {
                if cur.data.len() >= 2 && rng.uniform_f32() <= *probability {
                    cur.exclude_top_choices(*threshold, *min_keep);
                }
            }
            Self::Temp(temp) => cur.apply_temp(*temp),
            Self::TempExt { temp, range, exponent } => {
                if *range > 0.0 {
                    cur.apply_dynatemp(*temp, *range, *exponent);
                } else {
                    cur.apply_temp(*temp);
                }
            }
            Self::Dist(rng) => select::dist(cur, rng),
            Self::MirostatV1(s, n_vocab) => s.sample_v1(cur, *n_vocab),
            Self::MirostatV2(s) => s.sample_v2(cur),
            Self::AdaptiveP(s) => s.sample(cur),
        }
    }

    fn accept(&mut self, token: u32) {
        match self {
            Self::Penalties(s) => s.accept(token),
            Self::Dry(s) => s.accept(token),
            Self::AdaptiveP(s) => s.accept(token),
            _ => {}
        }
    }

    fn reset(&mut self, seed: u32) {
        match self {
            Self::Penalties(s) => s.reset(),
            Self::Dry(s) => s.reset(),
            Self::Xtc { rng, .. } | Self::Dist(rng) => rng.seed(seed),
            Self::MirostatV1(s, _) | Self::MirostatV2(s) => s.reset(seed),
            Self::AdaptiveP(s) => s.reset(seed),
            _ => {}
        }
    }
}

/// Adds the biases; the candidates must still be in order of ids.
fn apply_logit_bias(biases: &[(u32, f32)], cur: &mut Candidates) {
    for &(id, bias) in biases {
        if let Some(c) = cur.data.get_mut(id as usize) {
            c.logit = nan_to_neg_inf(c.logit + bias);
        }
    }
}

/// The samplers of one sequence, with their random streams and token history.
#[derive(Debug, Clone)]
pub struct SamplerChain {
    stages: Vec<Stage>,
    n_vocab: usize,
    requested_seed: u32,
    seed: u32,
    cur: Candidates,
}

impl SamplerChain {
    /// Builds the chain that the parameters ask for.
    ///
    /// # Errors
    /// A [`SamplerError`] if a parameter is out of range or names a token outside the vocabulary.
    pub fn new(params: &SamplerParams, vocab: &SamplerVocab) -> Result<Self, SamplerError> {
        params.validate()?;
        let n_vocab = vocab.n_vocab;
        if n_vocab == 0 || i32::try_from(n_vocab).is_err() {
            return Err(SamplerError::VocabSize(n_vocab));
        }
        let seed = actual_seed(params.seed);
        let mut stages = Vec::new();
        let biases = logit_biases(params, vocab)?;
        if !biases.is_empty() {
            stages.push(Stage::LogitBias(biases));
        }
        if params.mirostat == 0 {
            stages.extend(
                params
                    .samplers
                    .iter()
                    .filter(|&&s| s != SamplerType::AdaptiveP)
                    .map(|&s| stage(s, params, vocab, seed)),
            );
            let rng = Mt19937::new(seed);
            stages.push(if params.samplers.contains(&SamplerType::AdaptiveP) {
                let (target, decay) = (params.adaptive_target, params.adaptive_decay);
                Stage::AdaptiveP(Box::new(AdaptiveP::new(target, decay, rng)))
            } else {
                Stage::Dist(rng)
            });
        } else {
            stages.push(if params.temp == 1.0 { Stage::Inactive("?temp") } else { Stage::Temp(params.temp) });
            let rng = Mt19937::new(seed);
            let mirostat = Mirostat::new(params.mirostat_ent, params.mirostat_lr, rng);
            stages.push(match params.mirostat {
                1 => Stage::MirostatV1(mirostat, n_vocab),
                _ => Stage::MirostatV2(mirostat),
            });
        }
        Ok(Self { stages, n_vocab, requested_seed: params.seed, seed, cur: Candidates::default() })
    }

    /// Chooses a token from one row of logits. Call [`accept`](Self::accept) with it afterwards.
    ///
    /// NaN logits count as `-inf`. The choice depends on nothing but the logits, the history and the seed; equal logits
    /// are ordered by token id.
    ///
    /// # Errors
    /// [`SamplerError::LogitsLen`] if there is not one logit per token; [`SamplerError::NoCandidates`] if every
    /// candidate is NaN or `-inf`.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SamplerError> {
        if logits.len() != self.n_vocab {
            return Err(SamplerError::LogitsLen { expected: self.n_vocab, got: logits.len() });
        }
        self.cur.load(logits);
        for stage in &mut self.stages {
            stage.apply(&mut self.cur);
        }
        match self.cur.data.get(self.cur.selected) {
            Some(c) if c.logit != f32::NEG_INFINITY => Ok(c.id),
            _ => Err(SamplerError::NoCandidates(self.n_vocab)),
        }
    }

    /// Puts a token, of the prompt or generated, into the history that the penalties look back on.
    pub fn accept(&mut self, token: u32) {
        for stage in &mut self.stages {
            stage.accept(token);
        }
    }

    /// Forgets the history and restarts the random streams (a random seed is drawn anew).
    pub fn reset(&mut self) {
        self.seed = actual_seed(self.requested_seed);
        for stage in &mut self.stages {
            stage.reset(self.seed);
        }
    }

    /// The seed in use: the one asked for, or the one drawn for [`RANDOM_SEED`].
    pub fn seed(&self) -> u32 {
        self.seed
    }

    /// The candidates left by the last [`sample`](Self::sample), with the probabilities they were drawn from.
    pub fn candidates(&self) -> &[Candidate] {
        &self.cur.data
    }

    /// The chain in llama.cpp's words, e.g. `logits -> ?penalties -> top-k -> dist`; `?` marks inactive samplers.
    pub fn describe(&self) -> String {
        let mut line = String::from("logits");
        for stage in &self.stages {
            line.push_str(" -> ");
            line.push_str(stage.name());
        }
        line
    }
}

fn actual_seed(requested: u32) -> u32 {
    if requested == RANDOM_SEED { random_seed() } else { requested }
}

/// The biases asked for, then `-inf` for the end-of-generation tokens if they are to be ignored.
fn logit_biases(params: &SamplerParams, vocab: &SamplerVocab) -> Result<Vec<(u32, f32)>, SamplerError> {
    let mut biases = params.logit_bias.clone();
    if params.ignore_eos {
        biases.extend(vocab.eog_tokens.iter().map(|&id| (id, f32::NEG_INFINITY)));
    }
    for &(token, _) in &biases {
        if token as usize >= vocab.n_vocab {
            return Err(SamplerError::TokenOutOfRange { name: "logit_bias", token, n_vocab: vocab.n_vocab });
        }
    }
    Ok(biases)
}

/// A look-back in tokens; -1 stands for the context size.
fn look_back(last_n: i32, n_ctx: usize) -> usize {
    usize::try_from(last_n).unwrap_or(n_ctx)
}

fn stage(kind: SamplerType, p: &SamplerParams, vocab: &SamplerVocab, seed: u32) -> Stage {
    match kind {
        SamplerType::Penalties => {
            let last_n = look_back(p.repeat_last_n, vocab.n_ctx);
            let neutral = p.repeat_penalty == 1.0 && p.frequency_penalty == 0.0 && p.presence_penalty == 0.0;
            if last_n == 0 || neutral {
                return Stage::Inactive("?penalties");
            }
            Stage::Penalties(Penalties::new(
                last_n,
                p.repeat_penalty,
                p.frequency_penalty,
                p.presence_penalty,
                vocab.n_vocab,
            ))
        }
        SamplerType::Dry => {
            let last_n = look_back(p.dry_penalty_last_n, vocab.n_ctx);
            if p.dry_multiplier == 0.0 || p.dry_base < 1.0 || last_n == 0 {
                return Stage::Inactive("?dry");
            }
            let params = DryParams {
                multiplier: p.dry_multiplier,
                base: p.dry_base,
                allowed_length: p.dry_allowed_length,
                last_n,
            };
            Stage::Dry(Box::new(Dry::new(params, vocab.dry_breakers.clone())))
        }
        SamplerType::TopNSigma if p.top_nsigma <= 0.0 => Stage::Inactive("?top-n-sigma"),
        SamplerType::TopNSigma => Stage::TopNSigma(p.top_nsigma),
        SamplerType::TopK => match usize::try_from(p.top_k) {
            Ok(k) if k > 0 => Stage::TopK(k),
            _ => Stage::Inactive("?top-k"),
        },
        SamplerType::TypP if p.typical >= 1.0 => Stage::Inactive("?typical"),
        SamplerType::TypP => Stage::Typical(p.typical, p.min_keep),
        SamplerType::TopP if p.top_p >= 1.0 => Stage::Inactive("?top-p"),
        SamplerType::TopP => Stage::TopP(p.top_p, p.min_keep),
        SamplerType::MinP if p.min_p <= 0.0 => Stage::Inactive("?min-p"),
        SamplerType::MinP => Stage::MinP(p.min_p, p.min_keep),
        SamplerType::Xtc if p.xtc_probability <= 0.0 || p.xtc_threshold > 0.5 => Stage::Inactive("?xtc"),
        SamplerType::Xtc => Stage::Xtc {
            probability: p.xtc_probability,
            threshold: p.xtc_threshold,
            min_keep: p.min_keep,
            rng: Mt19937::new(seed),
        },
        SamplerType::Temperature if p.temp == 1.0 && p.dynatemp_range <= 0.0 => Stage::Inactive("?temp-ext"),
        SamplerType::Temperature => Stage::TempExt { temp: p.temp, range: p.dynatemp_range, exponent: p.dynatemp_exp },
        // placed last in the chain by the caller
        SamplerType::AdaptiveP => Stage::Inactive("?adaptive-p"),
    }
}
