//! Every operation's gradient against central differences of its f64 definition, with a random upstream gradient.
//!
//! (A loss of sum(y) would be blind to softmax, whose rows sum to one whatever x is.)

use fastrand::Rng;
use ggml_ops::autograd::backward;
use ggml_ops::case::AnyCase;
use ggml_ops::eval_ref::Evaluator;
use ggml_ops::ops::all_cases;
use ggml_ops::{Graph, OpError, TensorId};

/// Largest error allowed, absolute and relative to the gradient's own size.
const LIMIT: f64 = 1e-7;
/// Elements of an operand that are checked: all of a small one, random ones of a large one.
const SAMPLES: usize = 24;

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

fn check(case: &AnyCase) -> bool {
    // Views shift elements; gradients are asked for by operand, so only dense operands are perturbed here.
    let dense = case.wrt.iter().all(|&i| case.src[i].swapped.is_none() && !case.src[i].padded);
    let mut case = case.clone();
    if !dense {
        for &i in &case.wrt {
            (case.src[i].padded, case.src[i].swapped) = (false, None);
        }
    }
    if case.wrt.is_empty() {
        return false;
    }
    let Some(checked) = Checked::new(&case, 5) else { return false };
    assert!(!checked.gradients.is_empty(), "{}: no gradient reaches the operands", case.describe());
    assert!(checked.graph.tensor(checked.upstream).name == "upstream");
    let analytic = checked.evaluate(None);
    let mut rng = Rng::with_seed(9);
    for &(leaf, gradient) in &checked.gradients {
        let gradient = analytic.get(gradient).unwrap().data;
        let n = gradient.len();
        for s in 0..n.min(SAMPLES) {
            let i = if n <= SAMPLES { s } else { rng.usize(0..n) };
            let h = 1e-5;
            let numeric = (checked.loss((leaf, i, h)) - checked.loss((leaf, i, -h))) / (2.0 * h);
            let error = (gradient[i] - numeric).abs();
            #[allow(clippy::neg_cmp_op_on_partial_ord)] // NaN fails
            if !(error <= LIMIT * (1.0 + numeric.abs())) {
                let name = &checked.graph.tensor(leaf).name;
                panic!("{}: d/d{name}[{i}] is {}, central differences say {numeric}", case.describe(), gradient[i]);
            }
        }
    }
    true
}

#[test]
fn every_gradient() {
    let mut checked = Vec::new();
    for case in all_cases() {
        if check(&case) {
            checked.push(case.op.name());
        }
    }
    for name in ["add", "cont", "glu", "mul", "mul_mat", "rms_norm", "rope", "scale", "soft_max"] {
        assert!(checked.contains(&name), "the gradient of {name} was not checked");
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
