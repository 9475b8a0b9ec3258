//! Integers within bounds.

use serde_json::{Map, Value};

use super::{Path, kind};
use crate::grammar::SchemaError;

/// Without a bound an integer has at most as many digits as a double can tell apart.
const DEFAULT_MAX: i128 = 9_999_999_999_999_999;
/// Digits of no more than this are written.
const LIMIT: i128 = i64::MAX as i128;

/// The rule of the integers that `minimum`, `maximum` and their exclusive kin allow.
pub(super) fn rule(schema: &Map<String, Value>, path: &Path) -> Result<String, SchemaError> {
    let at_least =
        [bound(schema, "minimum", path, f64::ceil, 0)?, bound(schema, "exclusiveMinimum", path, f64::floor, 1)?];
    let at_most =
        [bound(schema, "maximum", path, f64::floor, 0)?, bound(schema, "exclusiveMaximum", path, f64::ceil, -1)?];
    let min = at_least.into_iter().flatten().max();
    let max = at_most.into_iter().flatten().min();
    let low = min.unwrap_or(if max.is_some_and(|max| max < -DEFAULT_MAX) { -LIMIT } else { -DEFAULT_MAX });
    let high = max.unwrap_or(if min.is_some_and(|min| min > DEFAULT_MAX) { LIMIT } else { DEFAULT_MAX });
    if low > high {
        return Err(path.error(format!("no integer is at least {low} and at most {high}")));
    }
    let mut alternatives = Vec::new();
    if low < 0 {
        let negative: Vec<String> = magnitudes((-high).max(1), -low).collect();
        alternatives.push(format!(r#""-" ({})"#, negative.join(" | ")));
    }
    if high >= 0 {
        alternatives.extend(magnitudes(low.max(0), high));
    }
    Ok(format!("({}) space", alternatives.join(" | ")))
}

/// A bound, brought to an integer, and by how much an exclusive one is off.
fn bound(
    schema: &Map<String, Value>,
    key: &str,
    path: &Path,
    round: impl Fn(f64) -> f64,
    step: i128,
) -> Result<Option<i128>, SchemaError> {
    let number = match schema.get(key) {
        None => return Ok(None),
        Some(Value::Number(number)) => number,
        Some(other) => return Err(path.to(key).error(format!("expected a number, got {}", kind(other)))),
    };
    let exact = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
    let value = exact.unwrap_or_else(|| number.as_f64().map_or(0, |x| round(x) as i128));
    Ok(Some(value.saturating_add(step).clamp(-LIMIT, LIMIT)))
}

/// The numbers from `low` to `high`, one alternative for each number of digits.
fn magnitudes(low: i128, high: i128) -> impl Iterator<Item = String> {
    let digits = |n: i128| n.to_string().len() as u32;
    (digits(low)..=digits(high)).map(move |n| {
        let first = if n == 1 { 0 } else { 10i128.pow(n - 1) };
        let last = 10i128.pow(n) - 1;
        same_length(low.max(first).to_string().as_bytes(), high.min(last).to_string().as_bytes())
    })
}

/// The numbers from `low` to `high`, which have as many digits.
fn same_length(low: &[u8], high: &[u8]) -> String {
    let n = low.len();
    let any = |n: usize| match n {
        0 => String::new(),
        1 => " [0-9]".into(),
        n => format!(" [0-9]{{{n}}}"),
    };
    let (Some((&first, low_rest)), Some((&last, high_rest))) = (low.split_first(), high.split_first()) else {
        return String::new();
    };
    let all_from = low_rest.iter().all(|&d| d == b'0');
    let all_to = high_rest.iter().all(|&d| d == b'9');
    if all_from && all_to {
        return digit(first, last) + &any(n - 1);
    }
    if first == last {
        return format!("{} {}", digit(first, first), same_length(low_rest, high_rest));
    }
    let mut alternatives = Vec::new();
    let (mut from, mut to) = (first, last);
    if !all_from {
        from += 1;
        alternatives.push(format!("{} {}", digit(first, first), same_length(low_rest, &vec![b'9'; n - 1])));
    }
    if !all_to {
        to -= 1;
    }
    if from <= to {
        alternatives.push(digit(from, to) + &any(n - 1));
    }
    if !all_to {
        alternatives.push(format!("{} {}", digit(last, last), same_length(&vec![b'0'; n - 1], high_rest)));
    }
    format!("({})", alternatives.join(" | "))
}

fn digit(from: u8, to: u8) -> String {
    let (from, to) = (char::from(from), char::from(to));
    if from == to { format!("[{from}]") } else { format!("[{from}-{to}]") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_digits() {
        let range = |low: i128, high: i128| magnitudes(low, high).collect::<Vec<_>>().join(" | ");
        assert_eq!(range(0, 9), "[0-9]");
        assert_eq!(range(3, 3), "[3]");
        assert_eq!(range(0, 100), "[0-9] | [1-9] [0-9] | [1] [0] [0]");
        assert_eq!(range(17, 42), "([1] [7-9] | [2-3] [0-9] | [4] [0-2])");
    }
}
