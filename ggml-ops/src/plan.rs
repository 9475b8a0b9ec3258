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
        let last_use = last_uses(graph);
        let mut plan = Plan { offsets: vec![None; graph.tensors().len()], arena: 0 };
        let mut live: Vec<(usize, usize, usize)> = Vec::new(); // (offset, bytes, last use), by offset
        let mut place = |live: &mut Vec<(usize, usize, usize)>, bytes: usize, until: usize| {
            let bytes = bytes.next_multiple_of(align);
            let (mut offset, mut at) = (0, 0);
            for (i, &(o, b, _)) in live.iter().enumerate() {
                if o >= offset + bytes {
                    break;
                }
                (offset, at) = (o + b, i + 1);
            }
            live.insert(at, (offset, bytes, until));
            plan.arena = plan.arena.max(offset + bytes);
            offset
        };
        for (i, t) in graph.tensors().iter().enumerate() {
            if t.source == Source::Input {
                plan.offsets[i] = Some(place(&mut live, t.desc.extent(), usize::MAX));
            }
        }
        for id in graph.ids() {
            let (i, t) = (id.index(), graph.tensor(id));
            if matches!(t.source, Source::Op { .. }) && graph.storage(id).0 == id {
                plan.offsets[i] = Some(place(&mut live, t.desc.extent(), last_use[i]));
            }
            live.retain(|&(_, _, until)| until > i);
        }
        plan
    }

    /// Where in the arena a tensor's own storage starts; `None` for views, weights and states.
    pub fn offset(&self, id: TensorId) -> Option<usize> {
        self.offsets[id.index()]
    }
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
            t = g.scale(t, 2.0).unwrap();
        }
        g.output(t);
        let plan = Plan::new(&g, 64);
        assert_eq!(plan.arena, 3 * 256, "the input and two buffers in turn");
    }

    #[test]
    fn live_tensors_never_overlap() {
        let mut g = Graph::new();
        let x = g.input_f32("x", &[48, 3]).unwrap();
        let mut seen = vec![x];
        for i in 0..40 {
            let a = seen[(i * 7) % seen.len()];
            let b = seen[(i * 5 + 1) % seen.len()];
            seen.push(g.add(a, b).unwrap());
        }
        g.output(*seen.last().unwrap());
        g.output(seen[5]);
        let (plan, last) = (Plan::new(&g, 64), last_uses(&g));
        for a in g.ids() {
            for b in g.ids().filter(|b| b.index() > a.index()) {
                let (oa, ob) = (plan.offset(a).unwrap(), plan.offset(b).unwrap());
                let forever = g.tensor(a).source == Source::Input;
                if forever || last[a.index()] >= b.index() {
                    assert!(oa + 576 <= ob || ob + 576 <= oa, "{a:?} at {oa} overlaps {b:?} at {ob}");
                }
            }
        }
        assert!(plan.arena < 42 * 576, "nothing was reused");
    }
}
