//! Sampling options, named as the command-line flags, with llama.cpp's defaults.

use std::str::FromStr;

use super::error::SamplerError;

/// `--seed` value that asks for a random seed (`-1` as u32).
pub const RANDOM_SEED: u32 = u32::MAX;

/// A sampler that can be listed in `--samplers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SamplerType {
    /// Repeat, presence and frequency penalties.
    Penalties,
    /// DRY repetition penalty.
    Dry,
    /// Top-n-sigma.
    TopNSigma,
    /// Top-k.
    TopK,
    /// Locally typical.
    TypP,
    /// Nucleus (top-p).
    TopP,
    /// Min-p.
    MinP,
    /// Exclude top choices.
    Xtc,
    /// Temperature, with dynatemp.
    Temperature,
    /// Adaptive-p; selects the token instead of `dist`, wherever it is listed.
    AdaptiveP,
}

const SAMPLER_NAMES: &str = "penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, xtc, temperature, adaptive_p";
const SAMPLER_CHARS: &str = "e, d, s, k, y, p, m, x, t, a";

impl SamplerType {
    /// The default chain, `edskypmxt`.
    pub const DEFAULT_CHAIN: [Self; 9] = [
        Self::Penalties,
        Self::Dry,
        Self::TopNSigma,
        Self::TopK,
        Self::TypP,
        Self::TopP,
        Self::MinP,
        Self::Xtc,
        Self::Temperature,
    ];

    /// The name used in `--samplers`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Penalties => "penalties",
            Self::Dry => "dry",
            Self::TopNSigma => "top_n_sigma",
            Self::TopK => "top_k",
            Self::TypP => "typ_p",
            Self::TopP => "top_p",
            Self::MinP => "min_p",
            Self::Xtc => "xtc",
            Self::Temperature => "temperature",
            Self::AdaptiveP => "adaptive_p",
        }
    }

    /// The character used in `--sampler-seq`.
    pub fn char(self) -> char {
        match self {
            Self::Penalties => 'e',
            Self::Dry => 'd',
            Self::TopNSigma => 's',
            Self::TopK => 'k',
            Self::TypP => 'y',
            Self::TopP => 'p',
            Self::MinP => 'm',
            Self::Xtc => 'x',
            Self::Temperature => 't',
            Self::AdaptiveP => 'a',
        }
    }

    /// Samplers from `--samplers`: names separated by `;`. Empty names are skipped.
    ///
    /// # Errors
    /// [`SamplerError::UnknownSampler`] or [`SamplerError::Unsupported`] for the first bad name.
    pub fn parse_names(list: &str) -> Result<Vec<Self>, SamplerError> {
        list.split(';').map(str::trim).filter(|name| !name.is_empty()).map(Self::from_str).collect()
    }

    /// Samplers from `--sampler-seq`: one character each.
    ///
    /// # Errors
    /// [`SamplerError::UnknownSampler`] or [`SamplerError::Unsupported`] for the first bad character.
    pub fn parse_chars(chars: &str) -> Result<Vec<Self>, SamplerError> {
        chars.chars().map(Self::from_char).collect()
    }

    fn from_char(c: char) -> Result<Self, SamplerError> {
        if c == 'i' {
            return Err(SamplerError::Unsupported("infill"));
        }
        Self::DEFAULT_CHAIN
            .into_iter()
            .chain([Self::AdaptiveP])
            .find(|s| s.char() == c)
            .ok_or_else(|| SamplerError::UnknownSampler { expected: SAMPLER_CHARS, got: c.to_string() })
    }
}

impl FromStr for SamplerType {
    type Err = SamplerError;

    /// One name of `--samplers`, or one of llama.cpp's alternative spellings.
    fn from_str(name: &str) -> Result<Self, SamplerError> {
        Ok(match name {
            "penalties" => Self::Penalties,
            "dry" => Self::Dry,
            "top_n_sigma" | "top-n-sigma" => Self::TopNSigma,
            "top_k" | "top-k" => Self::TopK,
            "typ_p" | "typ-p" | "typ" | "typical" | "typical-p" | "typical_p" => Self::TypP,
            "top_p" | "top-p" | "nucleus" => Self::TopP,
            "min_p" | "min-p" => Self::MinP,
            "xtc" => Self::Xtc,
            "temperature" | "temp" => Self::Temperature,
            "adaptive_p" | "adaptive-p" => Self::AdaptiveP,
            "infill" => return Err(SamplerError::Unsupported("infill")),
            _ => {
                return Err(SamplerError::UnknownSampler { expected: SAMPLER_NAMES, got: name.to_owned() });
            }
        })
    }
}

/// All sampling options; the fields are named as the flags.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerParams {
    /// Seed; [`RANDOM_SEED`] for a random one.
    pub seed: u32,
    /// Order of the chain (`--samplers`, `--sampler-seq`).
    pub samplers: Vec<SamplerType>,
    /// Least number of candidates that top_p, min_p, typ_p and xtc leave.
    pub min_keep: usize,
    /// Temperature; `<= 0` is greedy.
    pub temp: f32,
    /// Half width of the dynamic temperature range; `<= 0` is off.
    pub dynatemp_range: f32,
    /// Exponent of the dynamic temperature.
    pub dynatemp_exp: f32,
    /// Candidates kept by top_k; `<= 0` is off.
    pub top_k: i32,
    /// Probability kept by top_p; `>= 1` is off.
    pub top_p: f32,
    /// Least probability relative to the most likely token; `<= 0` is off.
    pub min_p: f32,
    /// Probability kept by typ_p; `>= 1` is off.
    pub typical: f32,
    /// Standard deviations below the maximum kept; `<= 0` is off.
    pub top_nsigma: f32,
    /// Chance that xtc cuts; `<= 0` is off.
    pub xtc_probability: f32,
    /// Probability above which a token is a top choice for xtc; `> 0.5` is off.
    pub xtc_threshold: f32,
    /// Tokens looked back by the penalties; 0 is off, -1 is the context size.
    pub repeat_last_n: i32,
    /// Divisor of positive and factor of negative logits of repeated tokens; 1 is off.
    pub repeat_penalty: f32,
    /// Subtracted from the logits of tokens present; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted from the logits per occurrence; 0 is off.
    pub frequency_penalty: f32,
    /// Strength of DRY; 0 is off.
    pub dry_multiplier: f32,
    /// Base of DRY's exponential growth; `< 1` is off.
    pub dry_base: f32,
    /// Length of repetition that DRY does not penalize.
    pub dry_allowed_length: i32,
    /// Tokens looked back by DRY; 0 is off, -1 is the context size.
    pub dry_penalty_last_n: i32,
    /// Strings that end a repetition; turn them into [`super::DryBreakers`].
    pub dry_sequence_breaker: Vec<String>,
    /// 0 off, 1 or 2: mirostat replaces the chain by temperature and itself.
    pub mirostat: u32,
    /// Mirostat's learning rate (eta).
    pub mirostat_lr: f32,
    /// Mirostat's target surprise in bits (tau).
    pub mirostat_ent: f32,
    /// Adaptive-p's target probability; `< 0` is off.
    pub adaptive_target: f32,
    /// Adaptive-p's decay of the running average.
    pub adaptive_decay: f32,
    /// Values added to logits of tokens, before all samplers.
    pub logit_bias: Vec<(u32, f32)>,
    /// Adds `-inf` to all end-of-generation tokens.
    pub ignore_eos: bool,
}

impl Default for SamplerParams {
    fn default() -> Self {
        Self {
            seed: RANDOM_SEED,
            samplers: SamplerType::DEFAULT_CHAIN.to_vec(),
            min_keep: 0,
            temp: 0.80,
            dynatemp_range: 0.0,
            dynatemp_exp: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical: 1.0,
            top_nsigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.10,
            repeat_last_n: 64,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: 64,
            dry_sequence_breaker: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
            mirostat: 0,
            mirostat_lr: 0.10,
            mirostat_ent: 5.0,
            adaptive_target: -1.0,
            adaptive_decay: 0.90,
            logit_bias: Vec::new(),
            ignore_eos: false,
        }
    }
}

impl SamplerParams {
    /// Checks every value that does not depend on the vocabulary.
    ///
    /// # Errors
    /// [`SamplerError::InvalidParam`] for the first value out of range.
    pub fn validate(&self) -> Result<(), SamplerError> {
        let finite = [
            ("temp", self.temp),
            ("dynatemp_range", self.dynatemp_range),
            ("dynatemp_exp", self.dynatemp_exp),
            ("top_p", self.top_p),
            ("min_p", self.min_p),
            ("typical", self.typical),
            ("top_nsigma", self.top_nsigma),
            ("xtc_probability", self.xtc_probability),
            ("xtc_threshold", self.xtc_threshold),
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
            ("dry_multiplier", self.dry_multiplier),
            ("dry_base", self.dry_base),
            ("mirostat_lr", self.mirostat_lr),
            ("mirostat_ent", self.mirostat_ent),
            ("adaptive_target", self.adaptive_target),
            ("adaptive_decay", self.adaptive_decay),
        ];
        for (name, value) in finite {
            check(name, value.is_finite(), "a finite number", value)?;
        }
        let repeat = self.repeat_penalty;
        check("repeat_penalty", repeat.is_finite() && repeat > 0.0, "a finite number above 0", repeat)?;
        let adaptive_target = self.adaptive_target;
        check("adaptive_target", adaptive_target <= 1.0, "at most 1", adaptive_target)?;
        for (name, last_n) in [("repeat_last_n", self.repeat_last_n), ("dry_penalty_last_n", self.dry_penalty_last_n)] {
            check(name, last_n >= -1, "-1 (context size), 0 (off) or a number of tokens", last_n)?;
        }
        check("mirostat", self.mirostat <= 2, "0, 1 or 2", self.mirostat)?;
        for &(_, bias) in &self.logit_bias {
            check("logit_bias", !bias.is_nan(), "a number", bias)?;
        }
        Ok(())
    }
}

fn check(name: &'static str, ok: bool, expected: &'static str, got: impl ToString) -> Result<(), SamplerError> {
    if ok {
        return Ok(());
    }
    Err(SamplerError::InvalidParam { name, expected, got: got.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_chain_parses_from_names_and_chars() {
        let default = SamplerType::DEFAULT_CHAIN.to_vec();
        let names = "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature";
        assert_eq!(SamplerType::parse_names(names).unwrap(), default);
        assert_eq!(SamplerType::parse_chars("edskypmxt").unwrap(), default);
        for s in default {
            assert_eq!(s.name().parse::<SamplerType>().unwrap(), s);
        }
    }

    #[test]
    fn unknown_and_unsupported_samplers_are_named() {
        let err = SamplerType::parse_names("top_k;topk").unwrap_err();
        assert!(err.to_string().contains("'topk'"), "{err}");
        assert!(err.to_string().contains("typ_p"), "{err}");
        let err = SamplerType::parse_chars("kz").unwrap_err();
        assert!(err.to_string().contains("'z'"), "{err}");
        let infill = SamplerError::Unsupported("infill");
        assert_eq!(SamplerType::parse_names("infill").unwrap_err(), infill);
        assert_eq!(SamplerType::parse_chars("i").unwrap_err(), infill);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        type Change = fn(&mut SamplerParams);
        let cases: [(&str, Change); 9] = [
            ("repeat_penalty", |p| p.repeat_penalty = 0.0),
            ("repeat_penalty", |p| p.repeat_penalty = f32::INFINITY),
            ("repeat_penalty", |p| p.repeat_penalty = f32::NAN),
            ("temp", |p| p.temp = f32::NAN),
            ("repeat_last_n", |p| p.repeat_last_n = -2),
            ("dry_penalty_last_n", |p| p.dry_penalty_last_n = i32::MIN),
            ("mirostat", |p| p.mirostat = 3),
            ("logit_bias", |p| p.logit_bias.push((1, f32::NAN))),
            ("adaptive_target", |p| p.adaptive_target = 1.5),
        ];
        SamplerParams::default().validate().unwrap();
        for (name, change) in cases {
            let mut params = SamplerParams::default();
            change(&mut params);
            let err = params.validate().unwrap_err();
            assert!(matches!(err, SamplerError::InvalidParam { name: n, .. } if n == name), "{name}: {err}");
        }
    }
}
