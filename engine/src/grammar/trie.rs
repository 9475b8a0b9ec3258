//! The tokens of a vocabulary in a trie over their bytes, so that a grammar looks at shared beginnings once.

use crate::vocab::Vocab;

/// Longer tokens are not in the trie but looked at one by one, which bounds its size.
const MAX_DEPTH: usize = 128;

/// A node; the nodes lie in preorder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    /// The node after all that lie below this one.
    pub next: u32,
    /// Where in `order` the tokens that end here end; they begin where those of the node before end.
    pub tokens_end: u32,
    /// Number of bytes from the root.
    pub depth: u8,
    pub byte: u8,
}

/// The texts of tokens, as grammars see them.
#[derive(Debug, Clone)]
pub struct TokenTrie {
    bytes: Vec<u8>,
    /// Where in `bytes` the text of each token ends.
    ends: Vec<usize>,
    pub(super) nodes: Vec<Node>,
    /// Tokens in the order of their texts.
    pub(super) order: Vec<u32>,
    pub(super) long: Vec<u32>,
    /// Tokens that end a text, in ascending order.
    pub(super) eog: Vec<u32>,
}

impl TokenTrie {
    /// The tokens of a vocabulary. Control tokens have their texts too, as in llama.cpp.
    pub fn new(vocab: &Vocab) -> TokenTrie {
        let pieces = (0..vocab.len() as u32).map(|id| vocab.token_to_piece(id, true));
        TokenTrie::of_pieces(pieces, vocab.eog_ids())
    }

    /// The tokens with these texts, `eog` of which (in ascending order) end a text. Tokens without text, or whose text has a
    /// NUL, never match.
    pub fn of_pieces<P: AsRef<[u8]>>(pieces: impl IntoIterator<Item = P>, eog: &[u32]) -> TokenTrie {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for (id, piece) in (0u32..).zip(pieces) {
            let piece = piece.as_ref();
            if eog.binary_search(&id).is_err() && !piece.contains(&0) {
                bytes.extend_from_slice(piece);
            }
            ends.push(bytes.len());
        }
        let mut trie =
            TokenTrie { bytes, ends, nodes: Vec::new(), order: Vec::new(), long: Vec::new(), eog: eog.to_vec() };
        let (mut order, long): (Vec<u32>, Vec<u32>) =
            (0..trie.len() as u32).filter(|&id| trie.usable(id)).partition(|&id| trie.piece(id).len() <= MAX_DEPTH);
        order.sort_unstable_by(|&a, &b| trie.piece(a).cmp(trie.piece(b)).then(a.cmp(&b)));
        trie.nodes = nodes(&order, |id| trie.piece(id));
        trie.order = order;
        trie.long = long;
        trie
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The text of a token; nothing for one that has none, ends a text, or is not in the vocabulary.
    pub(super) fn piece(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    /// Whether the token has a text to match.
    pub(super) fn usable(&self, id: u32) -> bool {
        !self.piece(id).is_empty()
    }

    /// Whether the token has a text of whole characters.
    pub(super) fn is_whole(&self, id: u32) -> bool {
        self.usable(id) && std::str::from_utf8(self.piece(id)).is_ok()
    }

    pub(super) fn is_eog(&self, id: u32) -> bool {
        self.eog.binary_search(&id).is_ok()
    }
}

/// The trie of texts that are in order.
fn nodes<'a>(order: &[u32], piece: impl Fn(u32) -> &'a [u8]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    // The nodes of the text before, whose ends are not known yet.
    let mut path: Vec<usize> = Vec::new();
    let mut last: &[u8] = &[];
    for (i, &id) in order.iter().enumerate() {
        let text = piece(id);
        let shared = last.iter().zip(text).take_while(|(a, b)| a == b).count();
        for ended in path.drain(shared..) {
            nodes[ended].next = nodes.len() as u32;
        }
        for (depth, &byte) in (1u8..).zip(text).skip(shared) {
            path.push(nodes.len());
            nodes.push(Node { next: 0, tokens_end: i as u32, depth, byte });
        }
        if let Some(&leaf) = path.last() {
            nodes[leaf].tokens_end = i as u32 + 1;
        }
        last = text;
    }
    for ended in path {
        nodes[ended].next = nodes.len() as u32;
    }
    nodes
}
