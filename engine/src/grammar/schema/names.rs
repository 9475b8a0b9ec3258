//! Names of rules, and pieces of GBNF.

/// Longest part of a rule's name that comes from one name in the schema.
const MAX_NAME: usize = 40;

/// `{min,max}` and what is shorter.
pub(super) fn times(min: u32, max: Option<u32>) -> String {
    match (min, max) {
        (0, None) => "*".into(),
        (1, None) => "+".into(),
        (min, None) => format!("{{{min},}}"),
        (min, Some(max)) => format!("{{{min},{max}}}"),
    }
}

/// The name of the rule of something inside of `name`.
pub(super) fn inside(name: &str, part: &str) -> String {
    match (name, shortened(part)) {
        // The empty name is that of the whole schema.
        ("", "") => "-".into(),
        ("", part) => part.into(),
        (name, part) => format!("{name}-{part}"),
    }
}

pub(super) fn alternative(name: &str, i: usize) -> String {
    if name.is_empty() { format!("alternative-{i}") } else { i.to_string() }
}

pub(super) fn shortened(text: &str) -> &str {
    text.char_indices().nth(MAX_NAME).map_or(text, |(end, _)| &text[..end])
}

/// The name with - for what rules cannot have in theirs.
pub(super) fn valid_name(name: &str) -> String {
    let mut valid = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' => valid.push(c),
            _ if valid.ends_with('-') => {}
            _ => valid.push('-'),
        }
    }
    valid
}

/// A GBNF literal of the text.
pub(super) fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\r' => out.push_str("\\r"),
            '\n' => out.push_str("\\n"),
            '"' | '\\' => out.extend(['\\', c]),
            '\0' => out.push_str("\\x00"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `%41` as `A`.
pub(super) fn unescape_uri(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let hex = hex.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                out.push(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
