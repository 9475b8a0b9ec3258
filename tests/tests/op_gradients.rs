//! Every operation's gradient against central differences of its f64 definition, with a random upstream gradient.
//!
//! (A loss of sum(y) would be blind to softmax, whose rows sum to one whatever x is.)

use fastrand::Rng;
use ggml_ops::autograd::backward;
use ggml_ops::case::AnyCase;
use ggml_ops::eval_ref::Evaluator;
use ggml_ops::ops::{NAMES, all_cases};
use ggml_ops::{Graph, OpError, TensorId};
use std::collections::HashMap;

/// Largest error allowed, absolute and relative to the gradient's own size.
const LIMIT: f64 = 1e-7;
/// Elements of an operand that are checked: all of a small one, random ones of a large one.
const SAMPLES: usize = 24;

/// Operations that say themselves that they have no gradient; `_back` operations need none either.
/// (cpy has one that passes through its rounding: `tests/training_layer.rs` checks it.)
const WITHOUT_GRADIENT: &[&str] = &["cpy", "opt_step_adamw", "out_prod", "set_rows"];

struct Checked {
    graph: Graph,
    leaves: Vec<(TensorId, Vec<f64>)>,
    result: TensorId,
    upstream: TensorId,
    upstream_values: Vec<f64>,
    /// (leaf, its gradient)
    gradients: Vec<(TensorId, TensorId)>,
}

impl Checked {
    /// `None` for operations that say that they have no gradient.
    fn new(case: &AnyCase, seed: u64) -> Option<Checked> {
        let drawn = case.draw(seed).unwrap();
        let mut leaves = drawn.values().unwrap();
        let mut graph = drawn.graph;
        let mut rng = Rng::with_seed(seed + 1000);
        let ne = graph.desc(drawn.result).ne;
        let upstream = graph.input_f32("upstream", &ne).unwrap();
        let upstream_values: Vec<f64> = (0..ne.iter().product()).map(|_| rng.f64() - 0.5).collect();
        let wrt: Vec<TensorId> = case.wrt.iter().map(|&i| drawn.operands[i]).collect();
        let gradients = match backward(&mut graph, drawn.result, upstream, &wrt) {
            Ok(g) => g,
            Err(OpError::NotDifferentiable { .. }) => return None,
            Err(e) => panic!("{}: {e}", case.describe()),
        };
        leaves.push((upstream, upstream_values.clone()));
        let gradients = wrt.into_iter().zip(gradients).filter_map(|(id, g)| Some((id, g?))).collect();
        Some(Checked { graph, leaves, result: drawn.result, upstream, upstream_values, gradients })
    }

    fn evaluate(&self, changed: Option<(TensorId, usize, f64)>) -> Evaluator<'_> {
        let mut e = Evaluator::new(&self.graph);
        for (leaf, values) in &self.leaves {
            let mut values = values.clone();
            if let Some((_, i, by)) = changed.filter(|c| c.0 == *leaf) {
                values[i] += by;
            }
            e.set(*leaf, values).unwrap();
        }
        e.run().unwrap();
        e
    }

    fn loss(&self, changed: (TensorId, usize, f64)) -> f64 {
        let y = self.evaluate(Some(changed)).get(self.result).unwrap();
        y.data.iter().zip(&self.upstream_values).map(|(y, u)| y * u).sum()
    }
}

/// The largest gradient that was checked; `None` where none was.
fn check(case: &AnyCase) -> Option<f64> {
    // Views shift elements; gradients are asked for by operand, so only dense operands are perturbed here.
    let dense = case.wrt.iter().all(|&i| case.src[i].swapped.is_none() && !case.src[i].padded);
    let mut case = case.clone();
    if !dense {
        for &i in &case.wrt {
            (case.src[i].padded, case.src[i].swapped) = (false, None);
        }
    }
    if case.wrt.is_empty() {
        return None;
    }
    let checked = Checked::new(&case, 5)?;
    assert!(!checked.gradients.is_empty(), "{}: no gradient reaches the operands", case.describe());
    assert!(checked.graph.tensor(checked.upstream).name == "upstream");
    let analytic = checked.evaluate(None);
    let (mut rng, mut largest) = (Rng::with_seed(9), 0.0f64);
    for &(leaf, gradient) in &checked.gradients {
        let gradient = analytic.get(gradient).unwrap().data;
        let n = gradient.len();
        for s in 0..n.min(SAMPLES) {
            let i = if n <= SAMPLES { s } else { rng.usize(0..n) };
            let h = 1e-5;
            let numeric = (checked.loss((leaf, i, h)) - checked.loss((leaf, i, -h))) / (2.0 * h);
            largest = largest.max(numeric.abs());
            let error = (gradient[i] - numeric).abs();
            #[allow(clippy::neg_cmp_op_on_partial_ord)] // NaN fails
            if !(error <= LIMIT * (1.0 + numeric.abs())) {
                let name = &checked.graph.tensor(leaf).name;
                panic!("{}: d/d{name}[{i}] is {}, central differences say {numeric}", case.describe(), gradient[i]);
            }
        }
    }
    Some(largest)
}

#[test]
fn every_gradient() {
    let mut largest: HashMap<&str, f64> = NAMES.iter().map(|&name| (name, 0.0)).collect();
    for case in all_cases() {
        if let Some(size) = check(&case) {
            let entry = largest.entry(case.op.name()).or_default();
            *entry = entry.max(size);
        }
    }
    for (name, size) in largest {
        let may_lack_one = WITHOUT_GRADIENT.contains(&name) || name.ends_with("_back");
        assert!(may_lack_one || size > 1e-3, "no gradient of {name} that is not zero was checked");
    }
}

#[test]
fn a_wrong_gradient_is_seen() {
    let case = all_cases().into_iter().find(|c| c.op.name() == "rms_norm").unwrap();
    let mut checked = Checked::new(&case, 5).unwrap();
    // Twice the gradient, by way of x + x.
    let (leaf, gradient) = checked.gradients[0];
    let doubled = checked.graph.add(gradient, gradient).unwrap();
    let analytic = checked.evaluate(None).get(doubled).unwrap().data[0];
    let numeric = (checked.loss((leaf, 0, 1e-5)) - checked.loss((leaf, 0, -1e-5))) / 2e-5;
    assert!((analytic - numeric).abs() > 1e3 * LIMIT * (1.0 + numeric.abs()));
}

/// Parts of one tensor, each through its own path: some in several ways, one with its rows cut.
#[test]
fn gradients_through_parts() {
    let mut rng = Rng::with_seed(4);
    for dim in [0, 1] {
        let mut g = Graph::new();
        let x = g.input_f32("x", &[12, 12]).unwrap();
        let base = *g.desc(x);
        let part = |g: &mut Graph, from: usize, to: usize| {
            let mut desc = base;
            desc.ne[dim] = to - from;
            g.view(x, desc, from * base.nb[dim]).unwrap()
        };
        let mut weights = Vec::new();
        let mut weighted = |g: &mut Graph, x: TensorId| {
            let ne = g.desc(x).ne;
            let w = g.input_f32("w", &ne).unwrap();
            weights.push((w, (0..ne.iter().product::<usize>()).map(|_| rng.f64() - 0.5).collect::<Vec<_>>()));
            g.mul(x, w).unwrap()
        };
        // Out of order, the last one looked at twice.
        let (c, c2, a, b) = (part(&mut g, 9, 12), part(&mut g, 9, 12), part(&mut g, 0, 4), part(&mut g, 4, 9));
        let n = g.desc(a).ne;
        let cut = g.reshape(a, &[n[0] / 2, 2, n[1]]).unwrap();
        let cut = weighted(&mut g, cut);
        let a = g.reshape(cut, &n).unwrap();
        let [b, c, c2] = [b, c, c2].map(|x| weighted(&mut g, x));
        let c = g.add(c, c2).unwrap();
        let y = g.concat(c, b, dim).unwrap();
        let y = g.concat(y, a, dim).unwrap();
        let upstream = g.input_f32("upstream", &[12, 12]).unwrap();
        let dx = backward(&mut g, y, upstream, &[x]).unwrap()[0].unwrap();
        let mut draw = || -> Vec<f64> { (0..144).map(|_| rng.f64() - 0.5).collect() };
        let (xs, us) = (draw(), draw());
        let run = |xs: Vec<f64>| {
            let mut e = Evaluator::new(&g);
            e.set(x, xs).unwrap();
            e.set(upstream, us.clone()).unwrap();
            for (w, values) in &weights {
                e.set(*w, values.clone()).unwrap();
            }
            e.run().unwrap();
            let loss: f64 = e.get(y).unwrap().data.iter().zip(&us).map(|(y, u)| y * u).sum();
            (loss, e.get(dx).unwrap().data)
        };
        let (base, gradient) = run(xs.clone());
        for i in 0..144 {
            let mut moved = xs.clone();
            moved[i] += 1.0;
            let numeric = run(moved).0 - base; // exact: the loss is linear in x
            assert!((gradient[i] - numeric).abs() < 1e-9, "dim {dim}: dx[{i}] is {}, not {numeric}", gradient[i]);
        }
    }
}

/// Parts that leave something out, or overlap, have no rule.
#[test]
fn parts_that_do_not_make_up_a_tensor_are_refused() {
    let try_parts = |ranges: &[(usize, usize)]| {
        let mut g = Graph::new();
        let x = g.input_f32("x", &[12, 3]).unwrap();
        let mut y = None;
        for &(from, to) in ranges {
            let desc = ggml_ops::TensorDesc { ne: [to - from, 3, 1, 1], ..*g.desc(x) };
            let part = g.view(x, desc, 4 * from).unwrap();
            y = Some(match y {
                Some(y) => g.concat(y, part, 0).unwrap(),
                None => g.scale(part, 2.0).unwrap(),
            });
        }
        let y = y.unwrap();
        let ne = g.desc(y).ne;
        let upstream = g.input_f32("upstream", &ne).unwrap();
        backward(&mut g, y, upstream, &[x])
    };
    assert!(try_parts(&[(5, 12), (0, 5)]).is_ok());
    for ranges in [&[(0, 5)][..], &[(5, 12)], &[(0, 5), (6, 12)], &[(0, 5), (4, 12)]] {
        let error = try_parts(ranges).unwrap_err().to_string();
        assert!(error.contains("do not make up the tensor"), "{ranges:?}: {error}");
    }
}

/// Reshapes and permutations, also of each other: L = sum of u * w * view(x), so dx is w * u seen through the view backwards.
#[test]
fn gradients_through_views() {
    type Build = fn(&mut Graph, TensorId) -> TensorId;
    let views: [(&str, Build); 5] = [
        ("reshape", |g, x| g.reshape(x, &[10, 6, 2]).unwrap()),
        ("permute", |g, x| g.permute(x, [1, 0, 2, 3]).unwrap()),
        ("permute twice", |g, x| {
            let y = g.permute(x, [1, 0, 2, 3]).unwrap();
            g.permute(y, [1, 0, 2, 3]).unwrap()
        }),
        ("rotate", |g, x| g.permute(x, [2, 0, 1, 3]).unwrap()),
        ("reshape of a permuted copy", |g, x| {
            let y = g.permute(x, [0, 2, 1, 3]).unwrap();
            let y = g.cont(y).unwrap();
            g.reshape(y, &[20, 6]).unwrap()
        }),
    ];
    for (name, build) in views {
        let mut g = Graph::new();
        let x = g.input_f32("x", &[5, 6, 4]).unwrap();
        let view = build(&mut g, x);
        let y = g.cont(view).unwrap();
        let ne = g.desc(y).ne;
        let w = g.input_f32("w", &ne).unwrap();
        let y = g.mul(y, w).unwrap();
        let upstream = g.input_f32("upstream", &ne).unwrap();
        let dx = backward(&mut g, y, upstream, &[x]).unwrap()[0].unwrap();
        let mut rng = Rng::with_seed(3);
        let mut draw = || -> Vec<f64> { (0..120).map(|_| rng.f64() - 0.5).collect() };
        let (xs, ws, us) = (draw(), draw(), draw());
        let run = |xs: Vec<f64>| {
            let mut e = Evaluator::new(&g);
            e.set(x, xs).unwrap();
            e.set(w, ws.clone()).unwrap();
            e.set(upstream, us.clone()).unwrap();
            e.run().unwrap();
            let loss: f64 = e.get(y).unwrap().data.iter().zip(&us).map(|(y, u)| y * u).sum();
            (loss, e.get(dx).unwrap().data)
        };
        let (base, gradient) = run(xs.clone());
        for i in 0..120 {
            let mut moved = xs.clone();
            moved[i] += 1.0;
            let numeric = run(moved).0 - base; // exact: the loss is linear in x
            assert!((gradient[i] - numeric).abs() < 1e-9, "{name}: dx[{i}] is {}, not {numeric}", gradient[i]);
        }
    }
}
