//! The functions and filters that Hugging Face gives to chat templates.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Tuple, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use serde_json::Value as Json;

/// Marks the message of `raise_exception` as the cause of an error.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// The message given to `raise_exception`, if that is what failed.
pub(super) fn raised_message(err: &Error) -> Option<String> {
    let mut source = std::error::Error::source(err);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return Some(message.clone());
        }
        source = cause.source();
    }
    None
}

/// Adds `raise_exception`, `strftime_now` (at `now`, or at the system's time) and Python's `tojson`.
pub(super) fn register(env: &mut Environment, now: Option<i64>) {
    env.add_function("raise_exception", |message: String| {
        let err = Error::new(ErrorKind::InvalidOperation, "raise_exception");
        Err::<Value, Error>(err.with_source(Raised(message)))
    });
    env.add_function("strftime_now", move |format: String| strftime(&format, now.unwrap_or_else(system_time)));
    env.add_filter("tojson", tojson);
}

/// Methods of Python's `str`, `dict` and `list`.
pub(super) fn python_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match (method, value.as_str()) {
        ("title", Some(text)) if args.is_empty() => Ok(Value::from(title(text))),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// `value[start:stop:step]` of a text or list where `step` is below 0, as in Python. minijinja's own panics where the value is
/// empty or `start` comes before `stop`. `None` for other values.
pub(super) fn slice_backwards(value: &Value, start: &Value, stop: &Value, step: i64) -> Result<Option<Value>, Error> {
    let from_end = |at: i64, n: i64| if at < 0 { at.saturating_add(n).max(-1) } else { at.min(n - 1) };
    let places = |n: usize| {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        let bound = |value: &Value, otherwise: i64| match value.is_none() || value.is_undefined() {
            true => Ok(otherwise),
            false => i64::try_from(value.clone()).map(|at| from_end(at, n)),
        };
        let (mut at, stop) = (bound(start, n - 1)?, bound(stop, -1)?);
        let mut places = Vec::new();
        while at > stop {
            places.extend(usize::try_from(at));
            at = at.saturating_add(step);
        }
        Ok::<_, Error>(places)
    };
    if let Some(text) = value.as_str() {
        let chars: Vec<char> = text.chars().collect();
        return Ok(Some(Value::from(places(chars.len())?.into_iter().map(|i| chars[i]).collect::<String>())));
    }
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Ok(None);
    }
    let items: Vec<Value> = value.try_iter()?.collect();
    let slice: Vec<Value> = places(items.len())?.into_iter().map(|i| items[i].clone()).collect();
    Ok(Some(if value.is_tuple() { Value::from(Tuple::from(slice)) } else { Value::from(slice) }))
}

/// `str.title`: a letter after anything but a letter begins a word.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        if in_word {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        in_word = c.is_alphabetic();
    }
    out
}

fn system_time() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_secs()).ok()).unwrap_or(0)
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn tojson(value: &Value, indent: Option<usize>, kwargs: Kwargs) -> Result<String, Error> {
    const MAX_INDENT: usize = 16;
    let indent = match kwargs.get::<Option<usize>>("indent")? {
        Some(n) => Some(n),
        None => indent,
    };
    if indent.is_some_and(|n| n > MAX_INDENT) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("tojson: expected an indent of at most {MAX_INDENT}"),
        ));
    }
    let json = serde_json::to_value(value).map_err(|err| Error::new(ErrorKind::BadSerialization, err.to_string()))?;
    let mut out = String::new();
    dump(&json, indent, 0, &mut out);
    Ok(out)
}

fn dump(json: &Json, indent: Option<usize>, depth: usize, out: &mut String) {
    let newline = |depth: usize, out: &mut String| {
        if let Some(n) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', n.saturating_mul(depth)));
        }
    };
    let separate = |i: usize, out: &mut String| {
        if i > 0 {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        newline(depth + 1, out);
    };
    match json {
        Json::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                separate(i, out);
                dump(item, indent, depth + 1, out);
            }
            newline(depth, out);
            out.push(']');
        }
        Json::Object(map) if !map.is_empty() => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                separate(i, out);
                out.push_str(&Json::from(key.as_str()).to_string());
                out.push_str(": ");
                dump(item, indent, depth + 1, out);
            }
            newline(depth, out);
            out.push('}');
        }
        leaf => out.push_str(&leaf.to_string()),
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Python's `strftime` in UTC and English for the directives that templates use.
fn strftime(format: &str, unix_seconds: i64) -> Result<String, Error> {
    let days = unix_seconds.div_euclid(86_400);
    let second_of_day = unix_seconds.rem_euclid(86_400);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    // both indices are reduced to the arrays' lengths
    let month_name = MONTHS[((month - 1) % 12) as usize];
    let day_name = DAYS[days.rem_euclid(7) as usize];
    let first_of_year = days_since_epoch(year, 1, 1);
    let hour12 = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let unpadded = directive == Some('-');
        if unpadded {
            directive = chars.next();
        }
        let number = |value: i64, width: usize| {
            let width = if unpadded { 0 } else { width };
            format!("{value:0width$}")
        };
        let text = match directive {
            Some('Y') => year.to_string(),
            Some('y') => number(year.rem_euclid(100), 2),
            Some('m') => number(month, 2),
            Some('d') => number(day, 2),
            Some('j') => number(days - first_of_year + 1, 3),
            Some('H') => number(hour, 2),
            Some('I') => number(hour12, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('%') => "%".to_owned(),
            other => {
                let what = other.map_or_else(|| "%".to_owned(), |c| format!("%{c}"));
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now: directive '{what}' is not supported"),
                ));
            }
        };
        out.push_str(&text);
    }
    Ok(out)
}

/// Year, month and day of a day counted from 1970-01-01, after Howard Hinnant's `civil_from_days`.
fn civil_date(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The inverse of [`civil_date`].
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = if month > 2 { month - 3 } else { month + 9 };
    let doy = (153 * mp + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strftime_formats_as_python_does() {
        // datetime(2024, 7, 26, 9, 5, 3, tzinfo=UTC)
        let t = 1_721_984_703;
        let f = "%d %b %Y|%-d %B %y|%H:%M:%S|%I %p|%j|%A %a|%F|%%";
        let want = "26 Jul 2024|26 July 24|09:05:03|09 AM|208|Friday Fri|2024-07-26|%";
        assert_eq!(strftime(f, t).unwrap(), want);
        assert_eq!(strftime("%F %T %A", -1).unwrap(), "1969-12-31 23:59:59 Wednesday");
        assert_eq!(strftime("%F %j", 951_782_400).unwrap(), "2000-02-29 060");
        assert!(strftime("%Q", t).is_err());
        assert!(strftime("%", t).is_err());
    }
}
