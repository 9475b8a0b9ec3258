//! What a grammar still expects after a text: a set of stacks, each a way to read the text.
//!
//! Stacks are linked lists in an arena, and equal ones are one node; so are equal sets of them, which makes each set a state
//! of an automaton that is built as texts need it. Nodes and states have numbers; all work is counted, and bounded.

use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;

use super::GrammarError;
use super::rules::{Element, Grammar, UNBOUNDED};
use super::utf8::Partial;

/// Most ways to read one text.
const MAX_STACKS: usize = 1 << 17;
/// Most steps for one token, or for one mask over all tokens: about a second.
const MAX_WORK: usize = 1 << 26;
/// Steps that a new node counts as.
const NODE: usize = 16;
/// Steps that a stack counts as where it is written down.
const STACK: usize = 4;
/// So many nodes or states are kept for later tokens, or twice as many as were needed when some were dropped.
const KEEP: usize = 1 << 16;
/// The stack of a text that is complete.
pub(super) const EMPTY: u32 = 0;
/// The state of a text that no way reads.
pub(super) const DEAD: u32 = 0;
/// A transition that has not been asked for.
const UNKNOWN: u32 = u32::MAX;

/// The top of a stack: an element that is expected, with what follows it below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Node {
    pos: u32,
    /// Of a repetition: how often it has been begun.
    turns: u32,
    below: u32,
}

/// The states that texts have led to.
#[derive(Debug, Clone)]
pub(super) struct Stacks {
    grammar: Arc<Grammar>,
    nodes: Vec<Node>,
    node_ids: HashMap<Node, u32>,
    /// For each node that was asked for: the stacks that it stands for, which are empty or have a character or token on top.
    expanded: HashMap<u32, Box<[u32]>>,
    states: Vec<Box<[u32]>>,
    state_ids: HashMap<Box<[u32]>, u32>,
    /// From each state by each class of ASCII characters.
    ascii: Vec<u32>,
    /// From a state by another class.
    wide: HashMap<(u32, u32), u32>,
    work: usize,
    /// How many nodes or states are kept.
    keep: usize,
}

impl Stacks {
    /// Where all texts begin, and its state.
    pub fn new(grammar: Arc<Grammar>) -> Result<(Stacks, u32), GrammarError> {
        let mut stacks = Stacks::empty(grammar);
        let mut tops = Vec::new();
        let grammar = stacks.grammar.clone();
        for alternative in grammar.alternatives(grammar.root) {
            let top = stacks.push(grammar.start(alternative), EMPTY)?;
            stacks.expand_into(top, &mut tops)?;
        }
        let state = stacks.state(tops)?;
        Ok((stacks, state))
    }

    fn empty(grammar: Arc<Grammar>) -> Stacks {
        let mut stacks = Stacks {
            grammar,
            nodes: vec![Node { pos: u32::MAX, turns: 0, below: EMPTY }],
            node_ids: HashMap::new(),
            expanded: HashMap::from([(EMPTY, [EMPTY].into())]),
            states: Vec::new(),
            state_ids: HashMap::new(),
            ascii: Vec::new(),
            wide: HashMap::new(),
            work: 0,
            keep: KEEP,
        };
        stacks.add_state([].into());
        stacks
    }

    /// Begins the work for one token or mask. What was kept is dropped when it becomes too much; then all states have new
    /// numbers, and that of `state` is given.
    pub fn begin(&mut self, state: u32) -> Result<Option<u32>, GrammarError> {
        self.work = 0;
        if self.nodes.len().max(self.states.len()).max(self.wide.len()) < self.keep {
            return Ok(None);
        }
        let kept = self.states[state as usize].clone();
        // What lies below a node has a smaller number.
        let mut used = vec![false; self.nodes.len()];
        kept.iter().for_each(|&top| used[top as usize] = true);
        for id in (1..self.nodes.len()).rev().filter(|&id| used[id]).collect::<Vec<_>>() {
            let mut id = id;
            while !std::mem::replace(&mut used[self.nodes[id].below as usize], true) {
                id = self.nodes[id].below as usize;
            }
        }
        let mut new = Stacks::empty(self.grammar.clone());
        let mut moved = vec![EMPTY; self.nodes.len()];
        for id in (1..self.nodes.len()).filter(|&id| used[id]) {
            let node = self.nodes[id];
            moved[id] = new.intern(Node { below: moved[node.below as usize], ..node })?;
        }
        let state = new.state(kept.iter().map(|&top| moved[top as usize]).collect())?;
        new.keep = KEEP.max(2 * new.nodes.len());
        new.work = 0;
        *self = new;
        Ok(Some(state))
    }

    fn spend(&mut self, steps: usize) -> Result<(), GrammarError> {
        self.work = self.work.saturating_add(steps);
        if self.work > MAX_WORK { Err(GrammarError::TooComplex { max: MAX_WORK }) } else { Ok(()) }
    }

    fn intern(&mut self, node: Node) -> Result<u32, GrammarError> {
        let new = self.nodes.len() as u32;
        match self.node_ids.entry(node) {
            Entry::Occupied(entry) => Ok(*entry.get()),
            Entry::Vacant(entry) => {
                entry.insert(new);
                self.nodes.push(node);
                self.spend(NODE)?;
                Ok(new)
            }
        }
    }

    /// A stack with the element at `pos` on top, unless a sequence ends there.
    fn push(&mut self, pos: u32, below: u32) -> Result<u32, GrammarError> {
        match self.grammar.elements[pos as usize] {
            Element::End => Ok(below),
            _ => self.intern(Node { pos, turns: 0, below }),
        }
    }

    fn add_state(&mut self, tops: Box<[u32]>) -> u32 {
        let new = self.states.len() as u32;
        self.state_ids.insert(tops.clone(), new);
        self.states.push(tops);
        self.ascii.resize(self.states.len() * self.grammar.n_ascii, UNKNOWN);
        new
    }

    /// The state of these stacks.
    fn state(&mut self, mut tops: Vec<u32>) -> Result<u32, GrammarError> {
        tops.sort_unstable();
        tops.dedup();
        if tops.len() > MAX_STACKS {
            return Err(GrammarError::TooAmbiguous { max: MAX_STACKS });
        }
        if let Some(&state) = self.state_ids.get(tops.as_slice()) {
            return Ok(state);
        }
        self.spend(NODE + self.grammar.n_ascii + STACK * tops.len())?;
        Ok(self.add_state(tops.into()))
    }

    /// Appends the stacks that `root` stands for: rules on top are replaced by what they begin with.
    fn expand_into(&mut self, root: u32, tops: &mut Vec<u32>) -> Result<(), GrammarError> {
        if !self.expanded.contains_key(&root) {
            let found = self.expand(root)?;
            self.expanded.insert(root, found);
        }
        let found = &self.expanded[&root];
        tops.extend_from_slice(found);
        let n = found.len();
        self.spend(n)
    }

    fn expand(&mut self, root: u32) -> Result<Box<[u32]>, GrammarError> {
        let grammar = self.grammar.clone();
        let mut found = Vec::new();
        // Stacks, with how many of their topmost nodes were put there since the last character.
        let mut todo = vec![(root, 0u32)];
        let mut seen = HashSet::new();
        while let Some((id, fresh)) = todo.pop() {
            self.spend(NODE)?;
            if !seen.insert((id, fresh > 0)) {
                continue;
            }
            let Node { pos, turns, below } = self.nodes[id as usize];
            if id == EMPTY || !matches!(grammar.elements[pos as usize], Element::Rule(_) | Element::Repeat(_)) {
                found.push(id);
                continue;
            }
            let under = fresh.saturating_sub(1);
            let rest = self.push(pos + 1, below)?;
            let after = (rest, if rest == below { under } else { under + 1 });
            let (rule, then) = match grammar.elements[pos as usize] {
                Element::Repeat(i) => {
                    // A turn that matched nothing leads nowhere new.
                    if turns > 0 && fresh > 0 {
                        continue;
                    }
                    let repeat = grammar.repeats[i as usize];
                    if turns >= repeat.min {
                        todo.push(after);
                    }
                    let turns = match repeat.max {
                        UNBOUNDED => (turns + 1).min(repeat.min),
                        _ => turns + 1,
                    };
                    let again =
                        if turns == repeat.max { after } else { (self.intern(Node { pos, turns, below })?, under + 1) };
                    (repeat.rule, again)
                }
                Element::Rule(rule) => (rule, after),
                _ => continue,
            };
            for alternative in grammar.alternatives(rule) {
                let top = self.push(grammar.start(alternative), then.0)?;
                todo.push((top, if top == then.0 { then.1 } else { then.1 + 1 }));
            }
        }
        found.sort_unstable();
        found.dedup();
        self.spend(STACK * found.len())?;
        Ok(found.into())
    }

    /// The state after one more character.
    pub fn next(&mut self, state: u32, c: u32) -> Result<u32, GrammarError> {
        let class = self.grammar.class(c);
        let n_ascii = self.grammar.n_ascii;
        let slot = state as usize * n_ascii + class;
        let known = if class < n_ascii {
            self.ascii[slot]
        } else {
            self.wide.get(&(state, class as u32)).copied().unwrap_or(UNKNOWN)
        };
        if known != UNKNOWN {
            return Ok(known);
        }
        let grammar = self.grammar.clone();
        self.spend(1)?;
        let next = self.advance(state, |element| match element {
            Element::Chars(set) => grammar.sets[set as usize].contains(c),
            _ => false,
        })?;
        if class < n_ascii {
            self.ascii[slot] = next;
        } else {
            self.wide.insert((state, class as u32), next);
        }
        Ok(next)
    }

    /// The state after a token that is named.
    pub fn next_token(&mut self, state: u32, token: u32) -> Result<u32, GrammarError> {
        if !self.grammar.has_tokens {
            return Ok(DEAD);
        }
        self.advance(state, |element| match element {
            Element::Token(id) => id == token,
            Element::NotToken(id) => id != token,
            _ => false,
        })
    }

    fn advance(&mut self, state: u32, matches: impl Fn(Element) -> bool) -> Result<u32, GrammarError> {
        let mut tops = Vec::new();
        for i in 0..self.states[state as usize].len() {
            let id = self.states[state as usize][i];
            let Node { pos, below, .. } = self.nodes[id as usize];
            self.spend(1)?;
            if id != EMPTY && matches(self.grammar.elements[pos as usize]) {
                let rest = self.push(pos + 1, below)?;
                self.expand_into(rest, &mut tops)?;
            }
        }
        self.state(tops)
    }

    /// The state of texts that either of two reads.
    pub fn union(&mut self, a: u32, b: u32) -> Result<u32, GrammarError> {
        if a == b || b == DEAD {
            return Ok(a);
        }
        let tops = [&self.states[a as usize][..], &self.states[b as usize]].concat();
        self.state(tops)
    }

    /// Whether the text may end here.
    pub fn is_complete(&self, state: u32) -> bool {
        // The smallest number is that of the empty stack.
        self.states[state as usize].first() == Some(&EMPTY)
    }

    /// Whether the text can only end here.
    pub fn is_at_end(&self, state: u32) -> bool {
        *self.states[state as usize] == [EMPTY]
    }

    /// The elements that are expected next.
    pub fn expected(&self, state: u32) -> impl Iterator<Item = Element> {
        let tops = self.states[state as usize].iter().filter(|&&id| id != EMPTY);
        tops.map(|&id| self.grammar.elements[self.nodes[id as usize].pos as usize])
    }

    /// Whether the bytes may become a character that is expected.
    pub fn may_begin(&self, state: u32, partial: Partial) -> bool {
        self.expected(state).any(|element| match element {
            Element::Chars(set) => self.grammar.sets[set as usize].may_contain(partial),
            _ => false,
        })
    }
}
