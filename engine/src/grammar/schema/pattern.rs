//! Regular expressions of `pattern`, as rules for JSON strings: what they match is written with JSON's escapes.

use super::object::{escape, in_set};
use super::{Converter, Path, times};
use crate::grammar::SchemaError;

/// Deepest nesting of groups.
const MAX_DEPTH: usize = 200;
const MAX_CHAR: u32 = 0x10_FFFF;
/// First and last characters; in order only where it is said.
type Ranges = Vec<(u32, u32)>;

const DIGIT: &[(u32, u32)] = &[(0x30, 0x39)];
const WORD: &[(u32, u32)] = &[(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)];
const SPACE: &[(u32, u32)] = &[
    (0x09, 0x0D),
    (0x20, 0x20),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
];
const LINE_END: &[(u32, u32)] = &[(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)];

impl Converter<'_> {
    /// The rule of the strings in which the regular expression is found.
    pub(super) fn pattern(&mut self, pattern: &str, path: &Path) -> Result<String, SchemaError> {
        let mut regex = Regex { chars: pattern.chars().collect(), at: 0, path, ignored: false };
        let mut alternatives = Vec::new();
        loop {
            let before = regex.eat('^');
            let sequence = regex.sequence(0)?;
            let after = regex.eat('$');
            let mut any = |anchored: bool| match anchored {
                true => Ok(String::new()),
                false => self.primitive("char").map(|char| format!("{char}*")),
            };
            alternatives.push(format!("{} {sequence} {}", any(before)?, any(after)?).trim().to_string());
            if regex.eat('|') {
                continue;
            }
            if regex.peek().is_some() {
                return Err(regex.unsupported());
            }
            break;
        }
        if regex.ignored {
            self.warn(path, "lookaround is not enforced");
        }
        self.primitive("space")?;
        Ok(format!(r#""\"" ({}) "\"" space"#, alternatives.join(" | ")))
    }
}

struct Regex<'p> {
    chars: Vec<char>,
    at: usize,
    path: &'p Path<'p>,
    /// Whether something was passed over.
    ignored: bool,
}

impl Regex<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }

    fn error(&self, what: &str) -> SchemaError {
        self.path.error(format!("character {} of the pattern: {what}", self.at + 1))
    }

    fn unsupported(&self) -> SchemaError {
        match self.peek() {
            Some(c) => self.error(&format!("'{}' is not supported here", c.escape_debug())),
            None => self.error("it ends too early"),
        }
    }

    /// Items up to `|`, `)`, `$` or the end.
    fn sequence(&mut self, depth: usize) -> Result<String, SchemaError> {
        let mut items: Vec<String> = Vec::new();
        while let Some(c) = self.peek() {
            let item = match c {
                '|' | ')' | '$' | '^' => break,
                '*' | '+' | '?' | '{' => return Err(self.unsupported()),
                '(' => match self.group(depth)? {
                    Some(group) => group,
                    None => continue,
                },
                '[' => {
                    self.at += 1;
                    let (negated, set) = self.set()?;
                    chars(negated, set)
                }
                '.' => {
                    self.at += 1;
                    chars(true, LINE_END.to_vec())
                }
                '\\' => {
                    self.at += 1;
                    let (negated, set) = self.escape(false)?;
                    chars(negated, set)
                }
                c => {
                    self.at += 1;
                    chars(false, vec![(c.into(), c.into())])
                }
            };
            let times = self.times()?;
            items.push(item + &times);
        }
        Ok(items.join(" "))
    }

    /// A group; nothing for a lookaround, which is passed over as in llama.cpp.
    fn group(&mut self, depth: usize) -> Result<Option<String>, SchemaError> {
        if depth >= MAX_DEPTH {
            return Err(self.error(&format!("groups are nested more than {MAX_DEPTH} deep")));
        }
        self.at += 1;
        let mut lookaround = false;
        if self.eat('?') {
            match (self.peek(), self.chars.get(self.at + 1)) {
                (Some(':'), _) => self.at += 1,
                (Some('=' | '!'), _) | (Some('<'), Some('=' | '!')) => lookaround = true,
                (Some('<'), _) => {
                    let name = self.chars[self.at..].iter().position(|&c| c == '>');
                    self.at += name.ok_or_else(|| self.error("the name of the group does not end"))? + 1;
                }
                _ => return Err(self.unsupported()),
            }
            if lookaround {
                self.at += if self.peek() == Some('<') { 2 } else { 1 };
            }
        }
        let mut alternatives = vec![self.sequence(depth + 1)?];
        while self.eat('|') {
            alternatives.push(self.sequence(depth + 1)?);
        }
        if !self.eat(')') {
            return Err(if self.peek().is_some() { self.unsupported() } else { self.error("a ')' is missing") });
        }
        self.ignored |= lookaround;
        Ok((!lookaround).then(|| format!("({})", alternatives.join(" | "))))
    }

    /// What `*`, `+`, `?` or `{m,n}` becomes, if there is one.
    fn times(&mut self) -> Result<String, SchemaError> {
        let times = match self.peek() {
            Some(c @ ('*' | '+' | '?')) => {
                self.at += 1;
                c.to_string()
            }
            Some('{') => {
                self.at += 1;
                let min = self.number();
                let max = if self.eat(',') { self.number() } else { min };
                let (Some(min), true) = (min, self.eat('}')) else {
                    return Err(self.error("expected {m}, {m,} or {m,n}"));
                };
                if max.is_some_and(|max| max < min) {
                    return Err(self.error("at most is less than at least"));
                }
                times(min, max)
            }
            _ => return Ok(String::new()),
        };
        // As few as possible or as many: the same strings match.
        self.eat('?');
        Ok(times)
    }

    fn number(&mut self) -> Option<u32> {
        let digits: String = self.chars[self.at..].iter().take_while(|c| c.is_ascii_digit()).collect();
        self.at += digits.len();
        digits.parse().ok().filter(|&n| n < 4_000_000_000)
    }

    /// The inside of `[...]`, and whether it is negated.
    fn set(&mut self) -> Result<(bool, Ranges), SchemaError> {
        let negated = self.eat('^');
        let mut ranges = Vec::new();
        while !self.eat(']') {
            let (first, single) = self.set_item()?;
            let followed = self.chars.get(self.at + 1).is_some_and(|&c| c != ']');
            if self.peek() == Some('-') && followed && single {
                self.at += 1;
                let (last, single) = self.set_item()?;
                if !single || last[0].0 < first[0].0 {
                    return Err(self.error("a range must go from one character up to another"));
                }
                ranges.push((first[0].0, last[0].0));
            } else {
                ranges.extend(first);
            }
        }
        Ok((negated, ranges))
    }

    /// What may stand in `[...]`, and whether it is a single character.
    fn set_item(&mut self) -> Result<(Ranges, bool), SchemaError> {
        let Some(c) = self.peek() else {
            return Err(self.error("a ']' is missing"));
        };
        self.at += 1;
        if c != '\\' {
            return Ok((vec![(c.into(), c.into())], true));
        }
        let (negated, ranges) = self.escape(true)?;
        let single = !negated && matches!(ranges[..], [(a, b)] if a == b);
        Ok((if negated { complement(ranges) } else { ranges }, single))
    }

    /// What follows a backslash, and whether it is negated.
    fn escape(&mut self, in_set: bool) -> Result<(bool, Ranges), SchemaError> {
        let Some(c) = self.peek() else {
            return Err(self.error("there is nothing after the \\"));
        };
        let class = match c.to_ascii_lowercase() {
            'd' => DIGIT,
            'w' => WORD,
            's' => SPACE,
            _ => &[],
        };
        if !class.is_empty() {
            self.at += 1;
            return Ok((c.is_ascii_uppercase(), class.to_vec()));
        }
        let char = match c {
            't' => 0x09,
            'n' => 0x0A,
            'v' => 0x0B,
            'f' => 0x0C,
            'r' => 0x0D,
            'b' if in_set => 0x08,
            'x' | 'u' => {
                let digits = if c == 'x' { 2 } else { 4 };
                let hex: String = self.chars[self.at + 1..].iter().take(digits).collect();
                let value = u32::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == digits && !hex.starts_with('+'));
                self.at += digits;
                value.ok_or_else(|| self.error(&format!("expected {digits} hexadecimal digits after \\{c}")))?
            }
            // Back references, boundaries, properties.
            c if c.is_ascii_alphanumeric() => return Err(self.error(&format!("\\{c} is not supported"))),
            c => c.into(),
        };
        self.at += 1;
        Ok((false, vec![(char, char)]))
    }
}

/// All other characters.
fn complement(mut ranges: Ranges) -> Ranges {
    ranges.sort_unstable();
    let (mut others, mut from) = (Vec::new(), 0);
    for (a, b) in ranges {
        if a > from {
            others.push((from, a - 1));
        }
        from = from.max(b + 1);
    }
    if from <= MAX_CHAR {
        others.push((from, MAX_CHAR));
    }
    others
}

/// GBNF for one character of a set, as JSON writes it in a string.
fn chars(negated: bool, ranges: Ranges) -> String {
    let ranges = if negated { complement(ranges) } else { ranges };
    let mut alternatives = Vec::new();
    // Between what must be escaped: controls, the quote and the backslash.
    let plain = [(0x20, 0x21), (0x23, 0x5B), (0x5D, MAX_CHAR)];
    let mut set = String::new();
    for &(a, b) in &ranges {
        for (from, to) in plain.map(|(from, to)| (a.max(from), b.min(to))).into_iter().filter(|(from, to)| from <= to) {
            set.push_str(&code(from));
            if from < to {
                set.push('-');
                set.push_str(&code(to));
            }
        }
    }
    if !set.is_empty() {
        alternatives.push(format!("[{set}]"));
    }
    let has = |c: char| ranges.iter().any(|&(a, b)| (a..=b).contains(&u32::from(c)));
    let escapes: String = "\"\\\x08\x0C\n\r\t".chars().filter(|&c| has(c)).filter_map(escape).map(in_set).collect();
    if !escapes.is_empty() {
        alternatives.push(format!(r#""\\" [{escapes}]"#));
    }
    // Other controls only where they are asked for by name.
    for c in ranges.iter().filter(|(a, b)| a == b && *a < 0x20).filter_map(|&(a, _)| char::from_u32(a)) {
        if escape(c).is_none() {
            alternatives.push(format!(r#""\\u{:04x}""#, u32::from(c)));
        }
    }
    match &alternatives[..] {
        // No character at all.
        [] => "[\\U00110000]".into(),
        [only] if only.starts_with('[') => alternatives.remove(0),
        _ => format!("({})", alternatives.join(" | ")),
    }
}

fn code(c: u32) -> String {
    char::from_u32(c).map_or_else(|| format!("\\u{c:04X}"), in_set)
}
