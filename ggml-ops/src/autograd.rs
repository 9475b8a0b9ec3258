//! Reverse-mode differentiation: adds the nodes that compute gradients to the graph itself.

use crate::{Graph, OpError, ShapeError, Source, TensorDesc, TensorId};
use std::collections::HashMap;

/// What an operation's [`backward`](crate::ops::OpDef::backward) works with: one node and the gradient of its result.
pub struct Backward<'g> {
    graph: &'g mut Graph,
    node: TensorId,
    src: Vec<TensorId>,
    grads: &'g mut Vec<Option<TensorId>>,
    wanted: &'g [bool],
}

impl Backward<'_> {
    /// The graph, to add nodes to.
    pub fn graph(&mut self) -> &mut Graph {
        self.graph
    }
    /// Operand `i` of the node.
    pub fn src(&self, i: usize) -> TensorId {
        self.src[i]
    }
    /// The description of operand `i`.
    pub fn desc(&self, i: usize) -> TensorDesc {
        *self.graph.desc(self.src[i])
    }
    /// The node's result.
    pub fn result(&self) -> TensorId {
        self.node
    }
    /// The gradient with respect to the node's result.
    pub fn grad(&self) -> TensorId {
        self.grads[self.node.index()].expect("a node is visited only when it has a gradient")
    }
    /// Whether anything needs the gradient with respect to operand `i`.
    pub fn wants(&self, i: usize) -> bool {
        self.wanted[self.src[i].index()]
    }
    /// Adds to the gradient with respect to operand `i`.
    ///
    /// # Errors
    /// Where the gradient does not have the operand's shape.
    pub fn add_to(&mut self, i: usize, grad: TensorId) -> Result<(), OpError> {
        let to = self.src[i];
        if self.wanted[to.index()] {
            accumulate(self.graph, self.grads, to, grad)?;
        }
        Ok(())
    }
    /// For an operation without a gradient.
    ///
    /// # Errors
    /// Always [`OpError::NotDifferentiable`].
    pub fn not_differentiable(&self, why: &'static str) -> Result<(), OpError> {
        let op = match &self.graph.tensor(self.node).source {
            Source::Op { op, .. } => op.name(),
            _ => "view",
        };
        Err(OpError::NotDifferentiable { op, why })
    }
}

fn accumulate(graph: &mut Graph, grads: &mut [Option<TensorId>], to: TensorId, grad: TensorId) -> Result<(), OpError> {
    let (want, got) = (graph.desc(to).ne, graph.desc(grad).ne);
    if want != got {
        let expected = format!("{want:?}, that of the operand");
        return Err(ShapeError::Shape { op: "backward", operand: 0, expected, got }.into());
    }
    let slot = &mut grads[to.index()];
    *slot = Some(match *slot {
        Some(sum) => graph.add(sum, grad)?,
        None => grad,
    });
    Ok(())
}

/// Adds nodes for the gradients of a scalar L with respect to `wrt`, given `upstream` = dL/d`result`.
///
/// Gradients are computed only along paths that lead to `wrt`; frozen weights cost nothing.
/// An entry of the answer is `None` where `result` does not depend on the tensor.
///
/// # Errors
/// [`OpError::NotDifferentiable`] where a path to `wrt` leads through an operation without a gradient.
pub fn backward(
    graph: &mut Graph,
    result: TensorId,
    upstream: TensorId,
    wrt: &[TensorId],
) -> Result<Vec<Option<TensorId>>, OpError> {
    let n = result.index() + 1;
    let mut wanted = vec![false; n];
    for id in wrt.iter().filter(|id| id.index() < n) {
        wanted[id.index()] = true;
    }
    let order: Vec<TensorId> = graph.ids().take(n).collect();
    for &id in &order {
        let on_path = match &graph.tensor(id).source {
            Source::Op { src, .. } => src.iter().any(|s| wanted[s.index()]),
            Source::View { of, .. } => wanted[of.index()],
            _ => false,
        };
        wanted[id.index()] |= on_path;
    }
    let mut grads = vec![None; n];
    let mut parts = Parts::new();
    accumulate(graph, &mut grads, result, upstream)?;
    for &node in order.iter().rev() {
        if let Some(parts) = parts.remove(&node) {
            let whole = assemble(graph, node, parts)?;
            accumulate(graph, &mut grads, node, whole)?;
        }
        if !wanted[node.index()] || grads[node.index()].is_none() {
            continue;
        }
        match graph.tensor(node).source.clone() {
            Source::Op { op, src } => {
                op.backward(&mut Backward { graph, node, src, grads: &mut grads, wanted: &wanted })?;
            }
            Source::View { of, offset } if wanted[of.index()] => {
                if graph.desc(node).elements() == graph.desc(of).elements() {
                    view_backward(graph, &mut grads, node, of)?;
                } else {
                    let part = Part::of(graph, node, of, offset)?;
                    let grad = grads[node.index()].expect("visited only with a gradient");
                    part.add(graph, parts.entry(of).or_default(), grad)?;
                }
            }
            _ => {}
        }
    }
    Ok(wrt.iter().map(|id| grads.get(id.index()).copied().flatten()).collect())
}

/// Gradients of the parts of tensors that views show, by the tensor.
type Parts = HashMap<TensorId, Vec<(Part, TensorId)>>;

/// Elements `from..to` of dimension `dim`: what a view shows.
#[derive(Clone, Copy, PartialEq)]
struct Part {
    dim: usize,
    from: usize,
    to: usize,
}

impl Part {
    fn of(graph: &Graph, view: TensorId, of: TensorId, offset: usize) -> Result<Part, OpError> {
        let (v, base) = (graph.desc(view), graph.desc(of));
        let mut differing = (0..4).filter(|&d| v.ne[d] != base.ne[d]);
        let strides = (0..4).all(|d| v.ne[d] == 1 || v.nb[d] == base.nb[d]);
        let (Some(dim), None, true) = (differing.next(), differing.next(), strides) else {
            return Err(OpError::NotDifferentiable { op: "view", why: "it shows a part of a tensor that is no range" });
        };
        let from = offset / base.nb[dim].max(1);
        Ok(Part { dim, from, to: from + v.ne[dim] })
    }

    /// Notes a gradient of this part, added to one that is there.
    fn add(self, graph: &mut Graph, parts: &mut Vec<(Part, TensorId)>, grad: TensorId) -> Result<(), OpError> {
        let rows = graph.desc(grad).has_contiguous_rows();
        let grad = if rows { grad } else { graph.cont(grad)? };
        match parts.iter_mut().find(|(part, _)| *part == self) {
            Some((_, sum)) => *sum = graph.add(*sum, grad)?,
            None => parts.push((self, grad)),
        }
        Ok(())
    }
}

/// The gradient of a tensor from those of parts that make it up, each once.
fn assemble(graph: &mut Graph, of: TensorId, mut parts: Vec<(Part, TensorId)>) -> Result<TensorId, OpError> {
    parts.sort_by_key(|(part, _)| part.from);
    let gap = OpError::NotDifferentiable { op: "view", why: "the parts that are used do not make up the tensor" };
    let mut parts = parts.into_iter();
    let Some((Part { dim, from: 0, to: mut end }, mut whole)) = parts.next() else { return Err(gap) };
    for (part, grad) in parts {
        if (part.dim, part.from) != (dim, end) {
            return Err(gap);
        }
        whole = graph.concat(whole, grad, dim)?;
        end = part.to;
    }
    if end == graph.desc(of).ne[dim] { Ok(whole) } else { Err(gap) }
}

/// Views that show every element once: reshapes, permutations of contiguous tensors, and rows cut into several.
fn view_backward(
    graph: &mut Graph,
    grads: &mut [Option<TensorId>],
    view: TensorId,
    of: TensorId,
) -> Result<(), OpError> {
    let (v, base) = (*graph.desc(view), *graph.desc(of));
    let grad = grads[view.index()].expect("visited only with a gradient");
    let dense = if graph.desc(grad).is_contiguous() { grad } else { graph.cont(grad)? };
    if v.is_contiguous() && base.is_contiguous() || v.cuts_rows_of(&base) {
        let g = graph.reshape(dense, &base.ne)?;
        return accumulate(graph, grads, of, g);
    }
    // axes[i]: the dimension of `view` that is dimension i of `of`, recognized by its stride and length.
    let mut axes = [usize::MAX; 4];
    for i in 0..4 {
        let found = (0..4).find(|&j| v.nb[j] == base.nb[i] && v.ne[j] == base.ne[i] && !axes.contains(&j));
        axes[i] = found.ok_or(OpError::NotDifferentiable { op: "view", why: "it is no permutation" })?;
    }
    let back = graph.permute(dense, axes)?;
    let g = graph.cont(back)?;
    accumulate(graph, grads, of, g)
}
