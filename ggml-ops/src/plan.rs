//! Buffer planning: which bytes of one arena each intermediate tensor gets, by the span in which it is alive.

use crate::{Graph, Source, TensorId};

/// Places of a graph's inputs and results in one arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    offsets: Vec<Option<usize>>,
    /// Bytes of the arena.
    pub arena: usize,
}

impl Plan {
    /// Assigns each input and each operation's result a place, reusing bytes of tensors that are no longer needed.
    ///
    /// Inputs and outputs keep their bytes for the whole run. Places are multiples of `align` (a power of two).
    /// First fit in order of execution: a graph here has hundreds of tensors, and first fit comes within a few percent
    /// of the lower bound on transformer graphs.
    pub fn new(graph: &Graph, align: usize) -> Plan {
        Plan::in_pieces(graph, align, usize::MAX)
    }

    /// As [`new`](Self::new), in an arena of pieces of `piece` bytes (a multiple of `align`): no tensor lies in two of them. Those
    /// larger than a piece get no place.
    pub fn in_pieces(graph: &Graph, align: usize, piece: usize) -> Plan {
        let last_use = last_uses(graph);
        let mut plan = Plan { offsets: vec![None; graph.tensors().len()], arena: 0 };
        let mut live: Vec<(usize, usize, usize)> = Vec::new(); // (offset, bytes, last use), by offset
        let mut place = |live: &mut Vec<(usize, usize, usize)>, bytes: usize, until: usize| {
            let bytes = bytes.next_multiple_of(align);
            if bytes > piece {
                return None;
            }
            let in_one = |offset: usize| {
                let crosses = offset % piece > piece - bytes;
                if crosses { offset.next_multiple_of(piece) } else { offset }
            };
            let (mut offset, mut at) = (0, 0);
            for (i, &(o, b, _)) in live.iter().enumerate() {
                if o >= offset + bytes {
                    break;
                }
                (offset, at) = (in_one(offset.max(o + b)), i + 1);
            }
            live.insert(at, (offset, bytes, until));
            plan.arena = plan.arena.max(offset + bytes);
            Some(offset)
        };
        for (i, t) in graph.tensors().iter().enumerate() {
            if t.source == Source::Input {
                plan.offsets[i] = place(&mut live, t.desc.extent(), usize::MAX);
            }
        }
        for id in graph.ids() {
            let (i, t) = (id.index(), graph.tensor(id));
            if matches!(t.source, Source::Op { .. }) && graph.storage(id).0 == id {
                plan.offsets[i] = match replaced(graph, id, &last_use).and_then(|of| plan.offsets[of.index()]) {
                    Some(offset) => {
                        let taken = live.iter_mut().find(|l| l.0 == offset);
                        taken.expect("alive until this operation").2 = last_use[i];
                        Some(offset)
                    }
                    None => place(&mut live, t.desc.extent(), last_use[i]),
                };
            }
            live.retain(|&(_, _, until)| until > i);
        }
        plan
    }

    /// Where in the arena a tensor's own storage starts; `None` for views, weights, states and what is larger than a piece.
    pub fn offset(&self, id: TensorId) -> Option<usize> {
        self.offsets[id.index()]
    }
}

/// The operation's result whose bytes the result of `id` takes over: a whole tensor of the same layout that `id` reads last. The
/// latest of several: its bytes are the likeliest to be in a cache.
fn replaced(graph: &Graph, id: TensorId, last_use: &[usize]) -> Option<TensorId> {
    let Source::Op { op, src } = &graph.tensor(id).source else { return None };
    let is = graph.desc(id);
    let candidates = op.may_replace().iter().filter_map(|&operand| {
        let (root, _) = graph.storage(src[operand]);
        let was = graph.desc(src[operand]);
        let whole = was.is_contiguous() && was.extent() == is.extent() && graph.desc(root).extent() == is.extent();
        let once = src.iter().filter(|&&s| graph.storage(s).0 == root).count() == 1;
        let own = matches!(graph.tensor(root).source, Source::Op { .. }) && is.extent() > 0;
        (whole && once && own && last_use[root.index()] == id.index()).then_some(root)
    });
    candidates.max_by_key(|root| root.index())
}

/// For each tensor that owns storage, the index of the last operation that reads it.
fn last_uses(graph: &Graph) -> Vec<usize> {
    let mut last = vec![0; graph.tensors().len()];
    for id in graph.ids() {
        let i = id.index();
        last[i] = last[i].max(i);
        if let Source::Op { src, .. } = &graph.tensor(id).source {
            for &s in src {
                let root = graph.storage(s).0.index();
                last[root] = last[root].max(i);
            }
        }
        if graph.tensor(id).output {
            last[graph.storage(id).0.index()] = usize::MAX;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    /// a -> b -> c -> d in a row needs two buffers, however long the chain.
    #[test]
    fn a_chain_needs_two_buffers() {
        let mut g = Graph::new();
        let x = g.input_f32("x", &[64]).unwrap();
        let mut t = x;
        for _ in 0..10 {
            t = g.mul(t, t).unwrap();
        }
        g.output(t);
        let plan = Plan::new(&g, 64);
        assert_eq!(plan.arena, 3 * 256, "the input and two buffers in turn");
    }

    /// The gradient of the logits takes their place, unless something reads them later.
    #[test]
    fn a_result_may_replace_an_operand_read_last() {
        let build = |later: bool, output: bool, view: bool| {
            let mut g = Graph::new();
            let x = g.input_f32("x", &[64, 8]).unwrap();
            let labels = g.input("labels", crate::TensorDesc::new(gguf::GgmlType::I32, &[8]).unwrap());
            let weights = g.input_f32("weights", &[8]).unwrap();
            let mut logits = g.scale(x, 2.0).unwrap();
            let root = logits;
            if view {
                logits = g.reshape(logits, &[32, 16]).unwrap();
                logits = g.reshape(logits, &[64, 8]).unwrap();
            }
            let loss = g.cross_entropy_loss(logits, labels, weights).unwrap();
            let dx = crate::autograd::backward(&mut g, loss, weights, &[root]).unwrap()[0].unwrap();
            let dx = g.storage(dx).0;
            let end = if later { root } else { dx };
            let end = g.mul(end, end).unwrap();
            g.output(end);
            if output {
                g.output(root);
            }
            let plan = Plan::new(&g, 64);
            assert!(plan.offset(end) != plan.offset(if later { root } else { dx }));
            plan.offset(root) == plan.offset(dx)
        };
        assert!(build(false, false, false));
        assert!(build(false, false, true));
        assert!(!build(true, false, false));
        assert!(!build(false, true, false));
    }

    /// The later one, unless something reads it afterwards or it is repeated.
    #[test]
    fn a_sum_takes_the_place_of_an_operand() {
        let build = |read_later: bool, repeated: bool| {
            let mut g = Graph::new();
            let x = g.input_f32("x", &[64, 8]).unwrap();
            let early = g.mul(x, x).unwrap();
            let row = if repeated {
                g.view(x, crate::TensorDesc::new(gguf::GgmlType::F32, &[64]).unwrap(), 0).unwrap()
            } else {
                x
            };
            let late = g.mul(row, row).unwrap();
            let sum = g.add(early, late).unwrap();
            let end = g.mul(sum, if read_later { late } else { sum }).unwrap();
            g.output(end);
            let plan = Plan::new(&g, 64);
            let place = |id| plan.offset(id).unwrap();
            (place(sum) == place(early), place(sum) == place(late))
        };
        assert_eq!(build(false, false), (false, true));
        assert_eq!(build(true, false), (true, false));
        assert_eq!(build(false, true), (true, false));
    }

    #[test]
    fn live_tensors_never_overlap() {
        let whole = check(usize::MAX);
        assert!(whole < 42 * 576, "nothing was reused");
        // Two tensors and a rest in each piece; one that takes all of it.
        assert!(check(1280) > whole);
        check(576);
        // Tensors are larger than a piece: they have no place.
        assert_eq!(check(512), 0);
    }

    /// Places tensors in pieces of this size; the size of the arena.
    fn check(piece: usize) -> usize {
        let mut g = Graph::new();
        let x = g.input_f32("x", &[48, 3]).unwrap();
        let mut seen = vec![x];
        for i in 0..40 {
            let a = seen[(i * 7) % seen.len()];
            let b = seen[(i * 5 + 1) % seen.len()];
            seen.push(g.mul(a, b).unwrap());
        }
        g.output(*seen.last().unwrap());
        g.output(seen[5]);
        let (plan, last) = (Plan::in_pieces(&g, 64, piece), last_uses(&g));
        for a in g.ids() {
            let Some(offset) = plan.offset(a) else {
                assert!(piece < 576);
                continue;
            };
            assert!(offset / piece == (offset + 575) / piece, "{a:?} at {offset} lies in two pieces");
            for b in g.ids().filter(|b| b.index() > a.index()) {
                let (oa, ob) = (plan.offset(a).unwrap(), plan.offset(b).unwrap());
                let forever = g.tensor(a).source == Source::Input;
                if forever || last[a.index()] >= b.index() {
                    assert!(oa + 576 <= ob || ob + 576 <= oa, "{a:?} at {oa} overlaps {b:?} at {ob}");
                }
            }
        }
        plan.arena
    }
}
