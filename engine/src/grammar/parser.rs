//! GBNF, read as llama.cpp reads it, without recursion: groups may be nested as deep as the text is long.

use std::collections::HashMap;

use super::rules::{CharSet, Definition, Element, Grammar, MAX_ELEMENTS, Repeat, UNBOUNDED};
use super::{GrammarError, TokenNames};

impl Grammar {
    /// Reads a grammar in GBNF. Generation begins with the rule `root`. `tokens` is asked for tokens that are named by their
    /// text, as in `<think>`.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str, tokens: &dyn TokenNames) -> Result<Grammar, GrammarError> {
        let mut parser = Parser { text, at: 0, tokens, rules: Rules::default() };
        parser.space(true);
        while parser.peek().is_some() {
            parser.rule()?;
        }
        parser.finish()
    }
}

/// What has been read.
#[derive(Default)]
struct Rules<'t> {
    names: Vec<&'t str>,
    /// For each name its rule, which may not be defined yet.
    by_name: HashMap<&'t str, u32>,
    /// For each rule its name, where it is used or defined first, and its sequences; those of groups have the name around them.
    rules: Vec<(u32, usize, Option<Vec<Element>>)>,
    repeats: Vec<Repeat>,
    repeat_ids: HashMap<Repeat, u32>,
    sets: Vec<CharSet>,
    set_ids: HashMap<CharSet, u32>,
    n_elements: usize,
    /// The rule or group that was closed last.
    closed: u32,
}

impl<'t> Rules<'t> {
    fn named(&mut self, name: &'t str, at: usize) -> u32 {
        if let Some(&rule) = self.by_name.get(name) {
            return rule;
        }
        let rule = self.rules.len() as u32;
        self.rules.push((self.names.len() as u32, at, None));
        self.names.push(name);
        self.by_name.insert(name, rule);
        rule
    }

    fn anonymous(&mut self, name: u32, elements: Option<Vec<Element>>) -> u32 {
        self.rules.push((name, 0, elements));
        self.rules.len() as u32 - 1
    }

    fn set(&mut self, set: CharSet) -> Element {
        let new = self.sets.len() as u32;
        Element::Chars(*self.set_ids.entry(set).or_insert_with_key(|set| {
            self.sets.push(set.clone());
            new
        }))
    }

    fn repeat(&mut self, repeat: Repeat) -> Element {
        let new = self.repeats.len() as u32;
        Element::Repeat(*self.repeat_ids.entry(repeat).or_insert_with(|| {
            self.repeats.push(repeat);
            new
        }))
    }
}

/// A rule or group whose end has not come.
struct Open {
    rule: u32,
    name: u32,
    /// Where it begins, for errors.
    at: usize,
    elements: Vec<Element>,
    /// Where in `elements` the item begins that `*` and the like repeat.
    item: usize,
}

struct Parser<'t, 'v> {
    text: &'t str,
    at: usize,
    tokens: &'v dyn TokenNames,
    rules: Rules<'t>,
}

impl<'t> Parser<'t, '_> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, expected: char) -> bool {
        let found = self.peek() == Some(expected);
        self.at += if found { expected.len_utf8() } else { 0 };
        found
    }

    /// The error that `expected` is not here.
    fn expected(&self, expected: &str) -> GrammarError {
        let got = match self.peek() {
            None => "the end of the grammar".into(),
            Some('\n' | '\r') => "the end of the line".into(),
            Some(c) => format!("'{}'", c.escape_debug()),
        };
        self.error_at(self.at, format!("expected {expected}, got {got}"))
    }

    fn place(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        (1 + before.bytes().filter(|&b| b == b'\n').count(), 1 + line.chars().count())
    }

    fn error_at(&self, at: usize, what: String) -> GrammarError {
        let (line, column) = self.place(at);
        GrammarError::Syntax { line, column, what }
    }

    /// Passes over blanks and comments, and over line ends where they mean nothing.
    fn space(&mut self, line_ends: bool) {
        let bytes = self.text.as_bytes();
        let is_end = |b: u8| matches!(b, b'\r' | b'\n');
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b' ' | b'\t' => self.at += 1,
                b'#' => {
                    let rest = &bytes[self.at..];
                    self.at += rest.iter().position(|&b| is_end(b)).unwrap_or(rest.len());
                }
                _ if line_ends && is_end(byte) => self.at += 1,
                _ => return,
            }
        }
    }

    fn name(&mut self) -> Result<&'t str, GrammarError> {
        let rest = self.rest();
        let n = rest.bytes().take_while(|&b| is_word(b)).count();
        if n == 0 {
            return Err(self.expected("the name of a rule (letters, digits and -)"));
        }
        self.at += n;
        Ok(&rest[..n])
    }

    /// `name ::= alternatives`, to the end of the line.
    fn rule(&mut self) -> Result<(), GrammarError> {
        let at = self.at;
        let name = self.name()?;
        self.space(false);
        if !self.rest().starts_with("::=") {
            return Err(self.expected(&format!("'::=' after the rule's name '{name}'")));
        }
        self.at += 3;
        self.space(true);
        let rule = self.rules.named(name, at);
        let name = self.rules.rules[rule as usize].0;
        let mut open = vec![Open { rule, name, at, elements: Vec::new(), item: 0 }];
        while let Some(top) = open.last_mut() {
            let nested = top.rule != rule;
            match self.peek() {
                Some('(') => {
                    let at = self.at;
                    self.at += 1;
                    self.space(true);
                    let rule = self.rules.anonymous(name, None);
                    open.push(Open { rule, name, at, elements: Vec::new(), item: 0 });
                }
                Some('|') => {
                    self.at += 1;
                    top.elements.push(Element::End);
                    top.item = top.elements.len();
                    self.space(true);
                }
                Some(')') if nested => {
                    self.at += 1;
                    let Some(done) = open.pop() else { break };
                    self.define(done)?;
                    let Some((parent, outer)) = open.split_last_mut() else { break };
                    parent.item = parent.elements.len();
                    parent.elements.push(Element::Rule(self.rules.closed));
                    self.space(!outer.is_empty());
                }
                _ if self.item(top, nested)? => {}
                _ if nested => {
                    let (line, column) = self.place(top.at);
                    return Err(self.expected(&format!("')' for the '(' of line {line}, column {column}")));
                }
                _ => break,
            }
        }
        for done in open {
            self.define(done)?;
        }
        match self.peek() {
            None => {}
            Some('\r' | '\n') => self.space(true),
            Some(_) => return Err(self.expected("an item, '|' or the end of the line")),
        }
        Ok(())
    }

    /// Ends a rule or a group. As in llama.cpp, the last of two rules of the same name counts.
    fn define(&mut self, mut done: Open) -> Result<(), GrammarError> {
        done.elements.push(Element::End);
        self.rules.n_elements += done.elements.len();
        if self.rules.n_elements > MAX_ELEMENTS {
            return Err(GrammarError::TooLarge { max: MAX_ELEMENTS });
        }
        self.rules.closed = done.rule;
        self.rules.rules[done.rule as usize].2 = Some(done.elements);
        Ok(())
    }

    /// Reads one item or repetition; `false` where there is none.
    fn item(&mut self, open: &mut Open, nested: bool) -> Result<bool, GrammarError> {
        let Some(c) = self.peek() else { return Ok(false) };
        match c {
            '*' | '+' | '?' | '{' => {
                let at = self.at;
                let (min, max) = self.times(nested)?;
                self.repeat(open, at, min, max)?;
            }
            '"' => {
                let start = self.at;
                self.at += 1;
                open.item = open.elements.len();
                while !self.eat('"') {
                    let c = self.character(start)?;
                    open.elements.push(self.rules.set(CharSet::new(false, vec![(c, c)])));
                }
            }
            '[' => {
                self.at += 1;
                open.item = open.elements.len();
                open.elements.extend(self.ranges()?);
            }
            '.' => {
                self.at += 1;
                open.item = open.elements.len();
                open.elements.push(self.rules.set(CharSet::new(true, Vec::new())));
            }
            '<' | '!' => {
                let not = self.eat('!');
                let token = self.token()?;
                open.item = open.elements.len();
                open.elements.push(if not { Element::NotToken(token) } else { Element::Token(token) });
            }
            c if c.is_ascii() && is_word(c as u8) => {
                let at = self.at;
                let name = self.name()?;
                open.item = open.elements.len();
                open.elements.push(Element::Rule(self.rules.named(name, at)));
            }
            _ => return Ok(false),
        }
        self.space(nested);
        Ok(true)
    }

    /// The inside of `[...]`. Without any character it stands for nothing, as in llama.cpp.
    fn ranges(&mut self) -> Result<Option<Element>, GrammarError> {
        let start = self.at - 1;
        let negated = self.eat('^');
        let mut ranges = Vec::new();
        while !self.eat(']') {
            let first = self.character(start)?;
            let mut last = first;
            if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.at += 1;
                last = self.character(start)?;
            }
            ranges.push((first, last));
        }
        Ok((!ranges.is_empty()).then(|| self.rules.set(CharSet::new(negated, ranges))))
    }

    /// A character of the literal or set that begins at `start`.
    fn character(&mut self, start: usize) -> Result<u32, GrammarError> {
        let Some(c) = self.peek() else {
            let (open, close) = if self.text[start..].starts_with('"') { ('"', '"') } else { ('[', ']') };
            let (line, column) = self.place(start);
            return Err(self.expected(&format!("'{close}' for the '{open}' of line {line}, column {column}")));
        };
        if c != '\\' {
            self.at += c.len_utf8();
            return Ok(c.into());
        }
        let at = self.at;
        self.at += 1;
        let Some(escape) = self.peek() else {
            return Err(self.expected("what is escaped"));
        };
        self.at += escape.len_utf8();
        let digits = match escape {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            't' => return Ok('\t'.into()),
            'r' => return Ok('\r'.into()),
            'n' => return Ok('\n'.into()),
            '\\' | '"' | '[' | ']' | '-' => return Ok(escape.into()),
            _ => {
                let what = format!("unknown escape \\{}", escape.escape_debug());
                return Err(self.error_at(at, format!("{what} (known: \\x \\u \\U \\t \\r \\n \\\\ \\\" \\[ \\] \\-)")));
            }
        };
        let hex = self.rest().get(..digits).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let value = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        self.at += if value.is_some() { digits } else { 0 };
        value.ok_or_else(|| self.error_at(at, format!("expected {digits} hexadecimal digits after \\{escape}")))
    }

    /// `*`, `+`, `?`, `{m}`, `{m,}` or `{m,n}`: how often at least and at most.
    fn times(&mut self, nested: bool) -> Result<(u32, u32), GrammarError> {
        let sign = self.peek();
        self.at += 1;
        match sign {
            Some('*') => return Ok((0, UNBOUNDED)),
            Some('+') => return Ok((1, UNBOUNDED)),
            Some('?') => return Ok((0, 1)),
            _ => {}
        }
        self.space(nested);
        let at = self.at;
        let min = self.number()?;
        self.space(nested);
        let mut max = min;
        if self.eat(',') {
            self.space(nested);
            max = UNBOUNDED;
            if self.peek().is_some_and(|c| c.is_ascii_digit()) {
                max = self.number()?;
                self.space(nested);
            }
        }
        if !self.eat('}') {
            return Err(self.expected("'}' or ','"));
        }
        if max < min {
            return Err(self.error_at(at, format!("{{{min},{max}}}: at most is less than at least")));
        }
        Ok((min, max))
    }

    fn number(&mut self) -> Result<u32, GrammarError> {
        let rest = self.rest();
        let n = rest.bytes().take_while(u8::is_ascii_digit).count();
        if n == 0 {
            return Err(self.expected("a number"));
        }
        let number = rest[..n].parse().ok().filter(|&n| n < UNBOUNDED);
        let number = number.ok_or_else(|| self.error_at(self.at, format!("numbers end at {}", UNBOUNDED - 1)))?;
        self.at += n;
        Ok(number)
    }

    /// Repeats the last item.
    fn repeat(&mut self, open: &mut Open, at: usize, min: u32, max: u32) -> Result<(), GrammarError> {
        let item = open.elements.split_off(open.item);
        let rule = match item[..] {
            [] => return Err(self.error_at(at, "there is nothing before this that could be repeated".into())),
            [Element::Rule(rule)] => rule,
            _ => {
                let (name, mut elements) = (open.name, item);
                elements.push(Element::End);
                self.rules.n_elements += elements.len();
                self.rules.anonymous(name, Some(elements))
            }
        };
        match (min, max) {
            (_, 0) => {}
            (1, 1) => open.elements.push(Element::Rule(rule)),
            _ => open.elements.push(self.rules.repeat(Repeat { rule, min, max })),
        }
        Ok(())
    }

    /// `<[id]>` or `<text>`.
    fn token(&mut self) -> Result<u32, GrammarError> {
        let at = self.at;
        if !self.eat('<') {
            return Err(self.expected("'<'"));
        }
        if self.eat('[') {
            let id = self.number()?;
            for end in [']', '>'] {
                if !self.eat(end) {
                    return Err(self.expected(&format!("'{end}'")));
                }
            }
            return Ok(id);
        }
        let Some(n) = self.rest().find('>') else {
            self.at = self.text.len();
            return Err(self.expected("the closing '>' of a token"));
        };
        self.at += n + 1;
        let text = &self.text[at..self.at];
        self.tokens.token(text).ok_or_else(|| self.error_at(at, format!("'{text}' is not one token of the vocabulary")))
    }

    fn finish(self) -> Result<Grammar, GrammarError> {
        let Some(&root) = self.rules.by_name.get("root") else {
            return Err(GrammarError::NoRoot);
        };
        let mut definitions = Vec::with_capacity(self.rules.rules.len());
        for (name, at, elements) in &self.rules.rules {
            if elements.is_none() {
                let (line, column) = self.place(*at);
                let name = self.rules.names[*name as usize].into();
                return Err(GrammarError::Undefined { line, column, name });
            }
        }
        for (name, _, elements) in self.rules.rules {
            definitions.push(Definition { name, elements: elements.unwrap_or_default() });
        }
        Grammar::link(definitions, &self.rules.names, self.rules.repeats, self.rules.sets, root)
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}
