//! How values of flags are read.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use fabric_engine::kv_cache::KvCache;
use gguf::GgmlType;
use std::str::FromStr;

/// What environment variables of boolean flags may hold; the first four mean yes.
const SWITCH_VALUES: [&str; 8] = ["true", "1", "on", "enabled", "false", "0", "off", "disabled"];

/// Whether a word means yes.
pub fn is_yes(word: &str) -> bool {
    SWITCH_VALUES[..4].contains(&word)
}

/// A flag that comes as the pair `--foo`, `--no-foo`, and in the environment with a word for yes or no.
pub fn switch() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(SWITCH_VALUES).map(|word| is_yes(&word))
}

/// For a flag without `--no-foo`: what its environment variable says.
///
/// # Errors
/// If it is another word than for yes or no.
pub fn yes_or_no(word: &str) -> Result<bool, String> {
    if SWITCH_VALUES.contains(&word) { Ok(is_yes(word)) } else { Err(format!("expected {}", SWITCH_VALUES.join(", "))) }
}

/// Whether a flag was defined with [`switch`].
pub fn is_switch(arg: &clap::Arg) -> bool {
    arg.get_possible_values().first().is_some_and(|v| v.get_name() == SWITCH_VALUES[0])
}

/// A seed: -1 stands for a random one, which is the largest u32.
///
/// # Errors
/// If it is no number from -1 to 4294967295.
pub fn seed(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(u32::MAX),
        Ok(n) => u32::try_from(n).map_err(|_| "expected -1 (random) to 4294967295".into()),
        Err(_) => Err("expected -1 (random) to 4294967295".into()),
    }
}

/// A value of `--logit-bias`: `ID+BIAS` or `ID-BIAS`.
///
/// # Errors
/// If it is not of that form.
pub fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let form = || "expected a token id, + or -, and a number, as in 15043+1 or 15043-0.5".to_string();
    let sign = text.find(['+', '-']).ok_or_else(form)?;
    let id = text[..sign].parse().map_err(|_| form())?;
    let bias = f32::from_str(&text[sign..]).map_err(|_| form())?;
    if bias.is_nan() { Err(form()) } else { Ok((id, bias)) }
}

/// A number of tokens where -1 and -2 have a meaning.
///
/// # Errors
/// If it is no whole number from -2.
pub fn n_predict(text: &str) -> Result<i32, String> {
    text.parse()
        .ok()
        .filter(|&n| n >= -2)
        .ok_or_else(|| "expected -1 (no limit), -2 (until the context is full) or a number of tokens".into())
}

/// A type of the KV cache.
///
/// # Errors
/// If it cannot have this type; the message lists those that it can.
pub fn cache_type(text: &str) -> Result<GgmlType, String> {
    let found = KvCache::TYPES.iter().find(|ty| cache_type_name(**ty) == text);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = KvCache::TYPES.iter().map(|&ty| cache_type_name(ty)).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// The name of a type of the KV cache, as in llama.cpp's flags.
pub fn cache_type_name(ty: GgmlType) -> String {
    ty.name().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds() {
        assert_eq!(seed("-1"), Ok(u32::MAX));
        assert_eq!(seed("42"), Ok(42));
        assert_eq!(seed("4294967295"), Ok(u32::MAX));
        for bad in ["-2", "4294967296", "", "x", "1.5"] {
            assert!(seed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn logit_biases() {
        assert_eq!(logit_bias("15043+1"), Ok((15043, 1.0)));
        assert_eq!(logit_bias("7-0.5"), Ok((7, -0.5)));
        assert_eq!(logit_bias("7-inf"), Ok((7, f32::NEG_INFINITY)));
        for bad in ["", "7", "+1", "-1", "7+", "7+x", "7+nan", "99999999999+1", "a+1"] {
            assert!(logit_bias(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_for_yes_and_no() {
        assert_eq!((yes_or_no("enabled"), yes_or_no("0")), (Ok(true), Ok(false)));
        assert!(yes_or_no("perhaps").is_err());
    }

    #[test]
    fn cache_types() {
        assert_eq!(cache_type("q8_0"), Ok(GgmlType::Q8_0));
        assert_eq!(cache_type("iq4_nl"), Ok(GgmlType::IQ4_NL));
        for bad in ["", "Q8_0", "q4_k", "i8"] {
            let all = "expected one of f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, iq4_nl";
            assert_eq!(cache_type(bad).unwrap_err(), all);
        }
    }

    #[test]
    fn numbers_of_tokens() {
        assert_eq!(n_predict("-2"), Ok(-2));
        assert_eq!(n_predict("128"), Ok(128));
        assert!(n_predict("-3").is_err());
        assert!(n_predict("4294967296").is_err());
    }
}
