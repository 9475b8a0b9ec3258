//! How tokens are chosen.

use super::value;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use fabric_engine::sampler::{SamplerError, SamplerParams, SamplerType};
use gguf::{Metadata, Value};
use std::sync::LazyLock;

static DEFAULT: LazyLock<SamplerParams> = LazyLock::new(SamplerParams::default);

fn default_names() -> String {
    DEFAULT.samplers.iter().map(|s| s.name()).collect::<Vec<_>>().join(";")
}

fn default_breakers() -> Vec<String> {
    DEFAULT.dry_sequence_breaker.iter().map(|s| s.escape_default().to_string().replace("\\\"", "\"")).collect()
}

/// Flags of the samplers. Where the model's file recommends values, they take the place of the defaults.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Seed; -1: a random one
    #[arg(short, long, value_name = "N", default_value = "-1", value_parser = value::seed)]
    pub seed: u32,
    /// The samplers, in order
    #[arg(long, value_name = "A;B;...", default_value = default_names(), overrides_with = "sampler_seq",
          value_parser = SamplerType::parse_names)]
    pub samplers: std::vec::Vec<SamplerType>,
    /// The samplers, in order, by their letters: e penalties, d dry, s top_n_sigma, k top_k, y typ_p, p top_p, m min_p,
    /// x xtc, t temperature, a adaptive_p
    #[arg(long, alias = "sampling-seq", value_name = "LETTERS", overrides_with = "samplers",
          value_parser = SamplerType::parse_chars)]
    pub sampler_seq: Option<std::vec::Vec<SamplerType>>,
    /// Temperature; 0: always the most likely token
    #[arg(long, alias = "temperature", value_name = "T", default_value_t = DEFAULT.temp, env = "LLAMA_ARG_TEMPERATURE")]
    pub temp: f32,
    /// Keep the K most likely tokens; 0: off
    #[arg(long, value_name = "K", default_value_t = DEFAULT.top_k, env = "LLAMA_ARG_TOP_K")]
    pub top_k: i32,
    /// Keep the most likely tokens that have probability P together; 1: off
    #[arg(long, value_name = "P", default_value_t = DEFAULT.top_p, env = "LLAMA_ARG_TOP_P")]
    pub top_p: f32,
    /// Keep tokens of at least P times the highest probability; 0: off
    #[arg(long, value_name = "P", default_value_t = DEFAULT.min_p, env = "LLAMA_ARG_MIN_P")]
    pub min_p: f32,
    /// Locally typical sampling; 1: off
    #[arg(long, alias = "typical-p", value_name = "P", default_value_t = DEFAULT.typical)]
    pub typical: f32,
    /// Keep tokens within N standard deviations of the best logit; below 0: off
    #[arg(long, alias = "top-n-sigma", value_name = "N", default_value_t = DEFAULT.top_nsigma)]
    pub top_nsigma: f32,
    /// Chance that XTC drops the most likely tokens; 0: off
    #[arg(long, value_name = "P", default_value_t = DEFAULT.xtc_probability)]
    pub xtc_probability: f32,
    /// Probability from which XTC drops tokens; above 0.5: off
    #[arg(long, value_name = "P", default_value_t = DEFAULT.xtc_threshold)]
    pub xtc_threshold: f32,
    /// Tokens that the penalties look back; 0: off, -1: the whole context
    #[arg(long, value_name = "N", default_value_t = DEFAULT.repeat_last_n)]
    pub repeat_last_n: i32,
    /// Penalty for repeated tokens; 1: off
    #[arg(long, value_name = "X", default_value_t = DEFAULT.repeat_penalty, env = "LLAMA_ARG_REPEAT_PENALTY")]
    pub repeat_penalty: f32,
    /// Subtracted from the logits of tokens that are there; 0: off
    #[arg(long, value_name = "X", default_value_t = DEFAULT.presence_penalty, env = "LLAMA_ARG_PRESENCE_PENALTY")]
    pub presence_penalty: f32,
    /// Subtracted from the logits for each time that a token is there; 0: off
    #[arg(long, value_name = "X", default_value_t = DEFAULT.frequency_penalty, env = "LLAMA_ARG_FREQUENCY_PENALTY")]
    pub frequency_penalty: f32,
    /// Strength of DRY, which hinders repeated sequences; 0: off
    #[arg(long, value_name = "X", default_value_t = DEFAULT.dry_multiplier)]
    pub dry_multiplier: f32,
    /// Growth of DRY's penalty with the length of the repetition
    #[arg(long, value_name = "X", default_value_t = DEFAULT.dry_base)]
    pub dry_base: f32,
    /// Length of repetition that DRY allows
    #[arg(long, value_name = "N", default_value_t = DEFAULT.dry_allowed_length)]
    pub dry_allowed_length: i32,
    /// Tokens that DRY looks back; 0: off, -1: the whole context
    #[arg(long, value_name = "N", default_value_t = DEFAULT.dry_penalty_last_n)]
    pub dry_penalty_last_n: i32,
    /// Text that ends a repetition, in place of the default ones; may be given several times; none: no such text
    #[arg(long, value_name = "TEXT", default_values_t = default_breakers())]
    pub dry_sequence_breaker: Vec<String>,
    /// Half width of the range of the temperature; 0: off
    #[arg(long, value_name = "X", default_value_t = DEFAULT.dynatemp_range)]
    pub dynatemp_range: f32,
    /// Exponent of the dynamic temperature
    #[arg(long, value_name = "X", default_value_t = DEFAULT.dynatemp_exp)]
    pub dynatemp_exp: f32,
    /// Mirostat, in place of the samplers; 0: off, 1, or 2
    #[arg(long, value_name = "N", default_value_t = DEFAULT.mirostat)]
    pub mirostat: u32,
    /// Mirostat's learning rate (eta)
    #[arg(long, value_name = "X", default_value_t = DEFAULT.mirostat_lr)]
    pub mirostat_lr: f32,
    /// Mirostat's target surprise in bits (tau)
    #[arg(long, value_name = "X", default_value_t = DEFAULT.mirostat_ent)]
    pub mirostat_ent: f32,
    /// Adaptive-p's target probability; below 0: off
    #[arg(long, value_name = "P", default_value_t = DEFAULT.adaptive_target)]
    pub adaptive_target: f32,
    /// Adaptive-p's decay
    #[arg(long, value_name = "X", default_value_t = DEFAULT.adaptive_decay)]
    pub adaptive_decay: f32,
    /// Add to the logit of a token, as in 15043+1 or 15043-1; may be given several times
    #[arg(short, long, value_name = "ID+BIAS", value_parser = value::logit_bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Never choose a token that ends the text
    #[arg(long)]
    pub ignore_eos: bool,
}

impl SamplingArgs {
    /// For the engine; breakers are taken as `unescape` gives them.
    pub fn params(&self, unescape: impl Fn(&str) -> String) -> SamplerParams {
        let SamplingArgs {
            seed,
            samplers,
            sampler_seq,
            temp,
            top_k,
            top_p,
            min_p,
            typical,
            top_nsigma,
            xtc_probability,
            xtc_threshold,
            repeat_last_n,
            repeat_penalty,
            presence_penalty,
            frequency_penalty,
            dry_multiplier,
            dry_base,
            dry_allowed_length,
            dry_penalty_last_n,
            dry_sequence_breaker,
            dynatemp_range,
            dynatemp_exp,
            mirostat,
            mirostat_lr,
            mirostat_ent,
            adaptive_target,
            adaptive_decay,
            logit_bias,
            ignore_eos,
        } = self.clone();
        let breakers = dry_sequence_breaker.iter().filter(|s| *s != "none");
        SamplerParams {
            seed,
            samplers: sampler_seq.unwrap_or(samplers),
            min_keep: DEFAULT.min_keep,
            temp,
            dynatemp_range,
            dynatemp_exp,
            top_k,
            top_p,
            min_p,
            typical,
            top_nsigma,
            xtc_probability,
            xtc_threshold,
            repeat_last_n,
            repeat_penalty,
            presence_penalty,
            frequency_penalty,
            dry_multiplier,
            dry_base,
            dry_allowed_length,
            dry_penalty_last_n,
            dry_sequence_breaker: breakers.map(|s| unescape(s)).collect(),
            mirostat,
            mirostat_lr,
            mirostat_ent,
            adaptive_target,
            adaptive_decay,
            logit_bias,
            ignore_eos,
        }
    }
}

/// Puts what the model's file recommends (`general.sampling.*`) in the place of values that the user did not set.
/// Returns a line for each.
pub fn recommend(params: &mut SamplerParams, metadata: &Metadata, matches: &ArgMatches) -> Vec<String> {
    recommend_unless(params, metadata, |flag| {
        matches.value_source(flag).is_some_and(|source| source != ValueSource::DefaultValue)
    })
}

type Apply = fn(&mut SamplerParams, &str) -> Result<(), String>;

/// Key, flag, and how the value is taken.
const RECOMMENDED: &[(&str, &str, Apply)] = &[
    ("sequence", "samplers", |p, v| {
        p.samplers = SamplerType::parse_names(v).map_err(|e: SamplerError| e.to_string())?;
        Ok(())
    }),
    ("temp", "temp", |p, v| number(&mut p.temp, v)),
    ("top_k", "top_k", |p, v| number(&mut p.top_k, v)),
    ("top_p", "top_p", |p, v| number(&mut p.top_p, v)),
    ("min_p", "min_p", |p, v| number(&mut p.min_p, v)),
    ("xtc_probability", "xtc_probability", |p, v| number(&mut p.xtc_probability, v)),
    ("xtc_threshold", "xtc_threshold", |p, v| number(&mut p.xtc_threshold, v)),
    ("penalty_last_n", "repeat_last_n", |p, v| number(&mut p.repeat_last_n, v)),
    ("penalty_repeat", "repeat_penalty", |p, v| number(&mut p.repeat_penalty, v)),
    ("mirostat", "mirostat", |p, v| number(&mut p.mirostat, v)),
    ("mirostat_tau", "mirostat_ent", |p, v| number(&mut p.mirostat_ent, v)),
    ("mirostat_eta", "mirostat_lr", |p, v| number(&mut p.mirostat_lr, v)),
];

fn number<T: std::str::FromStr>(field: &mut T, text: &str) -> Result<(), String> {
    *field = text.parse().map_err(|_| format!("'{text}' is no number of the right kind"))?;
    Ok(())
}

fn recommend_unless(params: &mut SamplerParams, metadata: &Metadata, is_set: impl Fn(&str) -> bool) -> Vec<String> {
    let mut lines = Vec::new();
    for &(name, flag, apply) in RECOMMENDED {
        let key = format!("general.sampling.{name}");
        let Some(value) = metadata.get(&key).filter(|v| !matches!(v, Value::Array(_))) else {
            continue;
        };
        // The order of samplers can be set by two flags.
        if is_set(flag) || flag == "samplers" && is_set("sampler_seq") {
            continue;
        }
        let mut changed = params.clone();
        let applied =
            apply(&mut changed, &value.to_string()).and_then(|()| changed.validate().map_err(|e| e.to_string()));
        match applied {
            Ok(()) => {
                *params = changed;
                lines.push(format!("{key} = {value}: recommended by the model"));
            }
            Err(e) => lines.push(format!("{key} is left aside: {e}")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn parse(argv: &[&str]) -> SamplerParams {
        let argv = std::iter::once("x").chain(argv.iter().copied());
        let only = <Only as clap::Parser>::try_parse_from(argv).unwrap();
        only.sampling.params(|s| String::from_utf8(crate::escape::process(s.as_bytes())).unwrap())
    }

    #[test]
    fn defaults_are_the_engines() {
        assert_eq!(parse(&[]), SamplerParams::default());
    }

    #[test]
    fn the_last_order_of_samplers_wins() {
        use SamplerType::{Temperature, TopK};
        assert_eq!(parse(&["--samplers=top_k;temperature"]).samplers, [TopK, Temperature]);
        assert_eq!(parse(&["--samplers=top_k", "--sampler-seq=tk"]).samplers, [Temperature, TopK]);
        assert_eq!(parse(&["--sampler-seq=tk", "--samplers=top_k"]).samplers, [TopK]);
    }

    #[test]
    fn breakers_replace_the_default_ones() {
        assert_eq!(
            parse(&["--dry-sequence-breaker=\\n", "--dry-sequence-breaker=."]).dry_sequence_breaker,
            ["\n", "."]
        );
        assert!(parse(&["--dry-sequence-breaker=none"]).dry_sequence_breaker.is_empty());
    }

    #[test]
    fn recommendations_yield_to_the_user() {
        let mut metadata = Metadata::new();
        metadata.insert("general.sampling.temp", 0.25f32);
        metadata.insert("general.sampling.top_k", 7i32);
        metadata.insert("general.sampling.sequence", "top_k;temperature");
        metadata.insert("general.sampling.penalty_repeat", -1.0f32);
        metadata.insert("general.sampling.mirostat", "x");
        let mut params = SamplerParams::default();
        let lines = recommend_unless(&mut params, &metadata, |flag| flag == "top_k" || flag == "sampler_seq");
        let expected = SamplerParams { temp: 0.25, ..SamplerParams::default() };
        assert_eq!(params, expected);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].contains("repeat_penalty") && lines[2].contains("'x'"), "{lines:?}");
    }
}
