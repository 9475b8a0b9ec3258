//! Rules as they are matched: flat, with names resolved.

use super::GrammarError;
use super::utf8::Partial;

/// Repetitions without end.
pub(super) const UNBOUNDED: u32 = u32::MAX;
/// Most elements, so that positions have 32 bits.
pub(super) const MAX_ELEMENTS: usize = 1 << 28;

/// One element of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    /// The end of the sequence.
    End,
    /// One of the alternatives of a rule.
    Rule(u32),
    /// A character of a set.
    Chars(u32),
    /// A token.
    Token(u32),
    /// Any token but this.
    NotToken(u32),
    /// A rule several times.
    Repeat(u32),
}

/// How often a rule is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Repeat {
    pub rule: u32,
    pub min: u32,
    /// [`UNBOUNDED`], or a number of at least 1 and `min`.
    pub max: u32,
}

/// Characters, or all others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CharSet {
    negated: bool,
    /// In order, without overlap.
    ranges: Box<[(u32, u32)]>,
}

impl CharSet {
    /// The characters of the ranges (first and last), or all others.
    pub fn new(negated: bool, mut ranges: Vec<(u32, u32)>) -> CharSet {
        if !negated {
            // What is no character can never match; said here, no partial character is taken for the beginning of one.
            ranges =
                ranges.iter().flat_map(|&(a, b)| [(a, b.min(0xD7FF)), (a.max(0xE000), b.min(0x10_FFFF))]).collect();
        }
        ranges.retain(|(a, b)| a <= b);
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (a, b) in ranges {
            match merged.last_mut() {
                Some(last) if a <= last.1.saturating_add(1) => last.1 = last.1.max(b),
                _ => merged.push((a, b)),
            }
        }
        CharSet { negated, ranges: merged.into() }
    }

    /// Whether the set has the character.
    pub fn contains(&self, c: u32) -> bool {
        let after = self.ranges.partition_point(|&(a, _)| a <= c);
        let found = after > 0 && c <= self.ranges[after - 1].1;
        found != self.negated
    }

    /// Whether the bytes may become a character of the set. As in llama.cpp, a negated set takes them only if none of the
    /// characters that they may become is left out.
    pub fn may_contain(&self, partial: Partial) -> bool {
        let (low, high) = partial.range();
        let after = self.ranges.partition_point(|&(a, _)| a <= high);
        let overlaps = after > 0 && low <= self.ranges[after - 1].1;
        overlaps != self.negated
    }
}

/// A rule as it is parsed: sequences, each with its `End`.
pub(super) struct Definition {
    /// Index into the names.
    pub name: u32,
    pub elements: Vec<Element>,
}

/// A grammar: what [`Matcher`](super::Matcher)s hold texts against.
#[derive(Debug, Clone)]
pub struct Grammar {
    pub(super) elements: Vec<Element>,
    /// Where the alternatives of all rules begin, rule by rule.
    starts: Vec<u32>,
    /// Where the alternatives of each rule begin in `starts`; one more at the end.
    rules: Vec<u32>,
    pub(super) repeats: Vec<Repeat>,
    pub(super) sets: Vec<CharSet>,
    pub(super) root: u32,
    /// Whether tokens are named.
    pub(super) has_tokens: bool,
    /// The first character of each class but the first. All characters of a class are in the same sets.
    boundaries: Vec<u32>,
    /// The class of each ASCII character.
    ascii: [u8; 128],
    /// Number of classes that have ASCII characters.
    pub(super) n_ascii: usize,
}

impl Grammar {
    /// Puts definitions together; all rules that are used are defined.
    pub(super) fn link(
        definitions: Vec<Definition>,
        names: &[&str],
        mut repeats: Vec<Repeat>,
        sets: Vec<CharSet>,
        root: u32,
    ) -> Result<Grammar, GrammarError> {
        let n_elements = definitions.iter().map(|d| d.elements.len()).sum::<usize>();
        if n_elements > MAX_ELEMENTS {
            return Err(GrammarError::TooLarge { max: MAX_ELEMENTS });
        }
        let mut elements = Vec::with_capacity(n_elements);
        let (mut starts, mut rules) = (Vec::new(), vec![0]);
        let mut rule_names = Vec::with_capacity(definitions.len());
        for definition in definitions {
            let mut begins = true;
            for element in definition.elements {
                if begins {
                    starts.push(elements.len() as u32);
                }
                begins = element == Element::End;
                elements.push(element);
            }
            rules.push(starts.len() as u32);
            rule_names.push(definition.name);
        }
        let shape = Shape { elements: &elements, starts: &starts, rules: &rules, repeats: &repeats };
        let nullable = shape.nullable();
        if let Some(cycle) = shape.left_recursion(&nullable) {
            let mut path: Vec<&str> = cycle.iter().map(|&rule| names[rule_names[rule as usize] as usize]).collect();
            path.dedup();
            if path.len() > 1 && path.first() == path.last() {
                path.pop();
            }
            let name = path[0].to_string();
            path.truncate(8);
            path.push(&name);
            return Err(GrammarError::LeftRecursion { path: path.join(" -> "), name: name.clone() });
        }
        // Turns that match nothing make up the number.
        repeats.iter_mut().filter(|r| nullable[r.rule as usize]).for_each(|r| r.min = 0);
        let has_tokens = elements.iter().any(|e| matches!(e, Element::Token(_) | Element::NotToken(_)));
        let mut boundaries: Vec<u32> =
            sets.iter().flat_map(|s| s.ranges.iter().flat_map(|&(a, b)| [a, b.saturating_add(1)])).collect();
        boundaries.retain(|&b| b > 0);
        boundaries.sort_unstable();
        boundaries.dedup();
        let mut ascii = [0; 128];
        for (c, class) in (0u32..).zip(&mut ascii) {
            *class = boundaries.partition_point(|&b| b <= c) as u8;
        }
        let n_ascii = usize::from(ascii[127]) + 1;
        Ok(Grammar { elements, starts, rules, repeats, sets, root, has_tokens, boundaries, ascii, n_ascii })
    }

    /// Where the alternatives of a rule begin.
    pub(super) fn alternatives(&self, rule: u32) -> std::ops::Range<usize> {
        self.rules[rule as usize] as usize..self.rules[rule as usize + 1] as usize
    }

    /// Where an alternative begins among the elements.
    pub(super) fn start(&self, alternative: usize) -> u32 {
        self.starts[alternative]
    }

    /// The class of a character.
    pub(super) fn class(&self, c: u32) -> usize {
        match self.ascii.get(c as usize) {
            Some(&class) => class.into(),
            None => self.boundaries.partition_point(|&b| b <= c),
        }
    }
}

/// What the checks look at.
struct Shape<'a> {
    elements: &'a [Element],
    starts: &'a [u32],
    rules: &'a [u32],
    repeats: &'a [Repeat],
}

impl<'a> Shape<'a> {
    fn n_rules(&self) -> usize {
        self.rules.len() - 1
    }

    /// The elements of a sequence.
    fn sequence(&self, alternative: usize) -> impl Iterator<Item = Element> + use<'a> {
        let from = &self.elements[self.starts[alternative] as usize..];
        from.iter().copied().take_while(|&e| e != Element::End)
    }

    /// The rule that has to match nothing for the element to match nothing: `None` if no rule has to, an error if it never does.
    fn needs(&self, element: Element) -> Result<Option<u32>, ()> {
        match element {
            Element::Rule(rule) => Ok(Some(rule)),
            Element::Repeat(i) => {
                let repeat = self.repeats[i as usize];
                Ok((repeat.min > 0).then_some(repeat.rule))
            }
            Element::End => Ok(None),
            Element::Chars(_) | Element::Token(_) | Element::NotToken(_) => Err(()),
        }
    }

    /// For each rule whether it matches nothing. Linear in the number of elements.
    fn nullable(&self) -> Vec<bool> {
        let mut nullable = vec![false; self.n_rules()];
        // For each sequence that may be empty: the rule it belongs to, and how many of its elements are not known to be.
        let mut open: Vec<(u32, u32)> = Vec::with_capacity(self.starts.len());
        let mut users: Vec<Vec<u32>> = vec![Vec::new(); self.n_rules()];
        let mut todo = Vec::new();
        for rule in 0..self.n_rules() {
            for alternative in self.rules[rule] as usize..self.rules[rule + 1] as usize {
                open.push((rule as u32, 0));
                if self.sequence(alternative).any(|e| self.needs(e).is_err()) {
                    continue;
                }
                for needed in self.sequence(alternative).filter_map(|e| self.needs(e).ok().flatten()) {
                    users[needed as usize].push(alternative as u32);
                    open[alternative].1 += 1;
                }
                if open[alternative].1 == 0 {
                    todo.push(rule as u32);
                }
            }
        }
        while let Some(rule) = todo.pop() {
            if std::mem::replace(&mut nullable[rule as usize], true) {
                continue;
            }
            for &alternative in &users[rule as usize] {
                let (owner, left) = &mut open[alternative as usize];
                *left -= 1;
                if *left == 0 {
                    todo.push(*owner);
                }
            }
        }
        nullable
    }

    /// The rules with which a rule may begin.
    fn leftmost(&self, rule: u32, nullable: &[bool]) -> Vec<u32> {
        let mut found = Vec::new();
        for alternative in self.rules[rule as usize] as usize..self.rules[rule as usize + 1] as usize {
            for element in self.sequence(alternative) {
                let (first, empty) = match element {
                    Element::Rule(rule) => (rule, nullable[rule as usize]),
                    Element::Repeat(i) => {
                        let Repeat { rule, min, .. } = self.repeats[i as usize];
                        (rule, min == 0 || nullable[rule as usize])
                    }
                    _ => break,
                };
                found.push(first);
                if !empty {
                    break;
                }
            }
        }
        found
    }

    /// The rules of a cycle in which each begins with the next, if there is one.
    fn left_recursion(&self, nullable: &[bool]) -> Option<Vec<u32>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Seen {
            No,
            Open,
            Done,
        }
        let mut seen = vec![Seen::No; self.n_rules()];
        for first in 0..self.n_rules() as u32 {
            if seen[first as usize] != Seen::No {
                continue;
            }
            seen[first as usize] = Seen::Open;
            let mut path = vec![(first, self.leftmost(first, nullable))];
            while let Some((rule, next)) = path.last_mut() {
                let rule = *rule;
                match next.pop() {
                    None => {
                        seen[rule as usize] = Seen::Done;
                        path.pop();
                    }
                    Some(child) => match seen[child as usize] {
                        Seen::Done => {}
                        Seen::Open => {
                            let from = path.iter().position(|(r, _)| *r == child).unwrap_or(0);
                            return Some(path[from..].iter().map(|(r, _)| *r).collect());
                        }
                        Seen::No => {
                            seen[child as usize] = Seen::Open;
                            path.push((child, self.leftmost(child, nullable)));
                        }
                    },
                }
            }
        }
        None
    }
}
