//! A layer of a transformer as training builds it: LoRA on every matrix, attention over samples packed into one window, K and V
//! rounded to f16, the loss of some of the tokens. Gradients against central differences, backends against the definition.

use fabric_tests::backends;
use fastrand::Rng;
use ggml_ops::autograd::backward;
use ggml_ops::backend::Bindings;
use ggml_ops::eval_ref::Evaluator;
use ggml_ops::ops::{GluKind, RopeMode};
use ggml_ops::{Graph, OpError, Source, TensorDesc, TensorId};
use gguf::GgmlType;
use std::sync::Arc;

const N_EMBD: usize = 24;
const N_HEAD: usize = 3;
const N_HEAD_KV: usize = 1;
const HEAD: usize = 8;
const N_FF: usize = 40;
const N_VOCAB: usize = 37;
const RANK: usize = 2;
/// Two samples of 5 and 6 tokens in one window.
const SPANS: [[i32; 3]; 11] = [
    [0, 0, 1],
    [0, 0, 2],
    [0, 0, 3],
    [0, 0, 4],
    [0, 0, 5],
    [0, 5, 6],
    [0, 5, 7],
    [0, 5, 8],
    [0, 5, 9],
    [0, 5, 10],
    [0, 5, 11],
];
const N: usize = SPANS.len();

struct Layer {
    graph: Graph,
    values: Vec<(TensorId, Vec<f64>)>,
    adapters: Vec<TensorId>,
    loss: Option<TensorId>,
    rng: Rng,
}

impl Layer {
    fn leaf(&mut self, name: &str, ne: &[usize], size: f64) -> TensorId {
        let id = self.graph.input_f32(name, ne).unwrap();
        let n = ne.iter().product();
        // Exactly representable in f32: backends and the definition get the same values.
        let values = (0..n).map(|_| f64::from((size * (2.0 * self.rng.f64() - 1.0)) as f32)).collect();
        self.values.push((id, values));
        id
    }

    fn ints(&mut self, name: &str, ne: &[usize], values: &[i32]) -> TensorId {
        let id = self.graph.input(name, TensorDesc::new(GgmlType::I32, ne).unwrap());
        self.values.push((id, values.iter().map(|&v| v.into()).collect()));
        id
    }

    /// `w x + 0.5 b (a dropout(x))`
    fn linear(&mut self, name: &str, x: TensorId, n_out: usize, seed: TensorId) -> Result<TensorId, OpError> {
        let n_in = self.graph.desc(x).ne[0];
        let w = self.leaf(name, &[n_in, n_out], 0.4);
        let a = self.leaf(&format!("{name}.lora_a"), &[n_in, RANK], 0.4);
        let b = self.leaf(&format!("{name}.lora_b"), &[RANK, n_out], 0.4);
        self.adapters.extend([a, b]);
        let g = &mut self.graph;
        let y = g.mul_mat(w, x)?;
        let dropped = g.dropout(x, seed, 0.2, self.adapters.len() as u32)?;
        let low = g.mul_mat(a, dropped)?;
        let low = g.scale(low, 0.5)?;
        let delta = g.mul_mat(b, low)?;
        Ok(g.add(y, delta)?)
    }

    fn new() -> Result<Layer, OpError> {
        let graph = Graph::new();
        let mut l = Layer { graph, values: vec![], adapters: vec![], loss: None, rng: Rng::with_seed(4) };
        let seed = l.ints("seed", &[2], &[11, -7]);
        let span = l.ints("span", &[3, N], SPANS.as_flattened());
        let tokens = l.ints("tokens", &[N], &[3, 1, 36, 3, 0, 9, 3, 20, 20, 5, 1]);
        let labels = l.ints("labels", &[N], &[1, 36, 3, 0, -1, 3, 20, 20, 5, 1, -1]);
        let weights = l.leaf("weights", &[N], 1.0);
        l.values.last_mut().unwrap().1 = [1.0, 1.0, 0.5, 0.0, 0.0, 1.0, 1.0, 0.25, 1.0, 1.0, 0.0].into();
        let table = l.leaf("rope", &[HEAD, N], 1.0);
        let embd = l.leaf("token_embd", &[N_EMBD, N_VOCAB], 1.0);
        // An adapter on the embeddings: columns of A by token.
        let embd_a = l.leaf("token_embd.lora_a", &[RANK, N_VOCAB], 0.4);
        let embd_b = l.leaf("token_embd.lora_b", &[RANK, N_EMBD], 0.4);
        l.adapters.extend([embd_a, embd_b]);
        let x = l.graph.get_rows(embd, tokens)?;
        let low = l.graph.get_rows(embd_a, tokens)?;
        let delta = l.graph.mul_mat(embd_b, low)?;
        let x = l.graph.add(x, delta)?; // [n_embd, n]

        let norm = l.leaf("attn_norm", &[N_EMBD], 1.0);
        let h = l.graph.rms_norm(x, norm, 1e-5)?;
        let q = l.linear("attn_q", h, HEAD * N_HEAD, seed)?;
        let k = l.linear("attn_k", h, HEAD * N_HEAD_KV, seed)?;
        let v = l.linear("attn_v", h, HEAD * N_HEAD_KV, seed)?;
        let g = &mut l.graph;
        let q = g.reshape(q, &[HEAD, N_HEAD, N])?;
        let k = g.reshape(k, &[HEAD, N_HEAD_KV, N])?;
        let v = g.reshape(v, &[HEAD, N_HEAD_KV, N])?;
        let q = g.rope(q, table, RopeMode::Neox)?;
        let k = g.rope(k, table, RopeMode::Neox)?;
        let k = g.cpy_f16(k)?;
        let v = g.cpy_f16(v)?;
        let y = g.flash_attn_ext(q, k, v, span, 1.0 / (HEAD as f32).sqrt())?;
        let y = g.reshape(y, &[HEAD * N_HEAD, N])?;
        let y = l.linear("attn_output", y, N_EMBD, seed)?;
        let x = l.graph.add(y, x)?;

        let norm = l.leaf("ffn_norm", &[N_EMBD], 1.0);
        let h = l.graph.rms_norm(x, norm, 1e-5)?;
        let gate = l.linear("ffn_gate", h, N_FF, seed)?;
        let up = l.linear("ffn_up", h, N_FF, seed)?;
        let y = l.graph.glu(gate, up, GluKind::Swiglu)?;
        // One operand twice, in both operations.
        let y = l.graph.mul(y, y)?;
        let y = l.graph.add(y, y)?;
        let y = l.linear("ffn_down", y, N_EMBD, seed)?;
        let x = l.graph.add(x, y)?;

        let norm = l.leaf("output_norm", &[N_EMBD], 1.0);
        let x = l.graph.rms_norm(x, norm, 1e-5)?;
        let logits = l.linear("output", x, N_VOCAB, seed)?;
        l.loss = Some(l.graph.cross_entropy_loss(logits, labels, weights)?);
        Ok(l)
    }

    fn loss(&self) -> TensorId {
        self.loss.expect("built")
    }

    /// Adds the gradients of all adapters.
    fn differentiate(&mut self) -> Vec<TensorId> {
        let upstream = self.leaf("upstream", &[N], 1.0);
        let loss = self.loss();
        let gradients = backward(&mut self.graph, loss, upstream, &self.adapters).unwrap();
        gradients.into_iter().map(|g| g.expect("the loss depends on every adapter")).collect()
    }
}

/// K and V are not rounded here: a staircase has no slope, and the gradient passes straight through it.
#[test]
fn gradients_of_every_adapter() {
    let mut layer = Layer::new().unwrap();
    let gradients = layer.differentiate();
    let evaluate = |changed: Option<(TensorId, usize, f64)>| {
        let mut e = Evaluator::new(&layer.graph).unrounded();
        for (leaf, values) in &layer.values {
            let mut values = values.clone();
            if let Some((_, i, by)) = changed.filter(|c| c.0 == *leaf) {
                values[i] += by;
            }
            e.set(*leaf, values).unwrap();
        }
        e.run().unwrap();
        e
    };
    let upstream = &layer.values.last().unwrap().1;
    let loss = |changed| -> f64 {
        let y = evaluate(Some(changed)).get(layer.loss()).unwrap().data;
        y.iter().zip(upstream).map(|(y, u)| y * u).sum()
    };
    let analytic = evaluate(None);
    let mut rng = Rng::with_seed(1);
    for (&adapter, gradient) in layer.adapters.iter().zip(gradients) {
        let gradient = analytic.get(gradient).unwrap().data;
        let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        let name = &layer.graph.tensor(adapter).name;
        assert!(largest > 1e-3, "{name}: no gradient");
        for _ in 0..12 {
            let i = rng.usize(0..gradient.len());
            let h = 1e-5;
            let numeric = (loss((adapter, i, h)) - loss((adapter, i, -h))) / (2.0 * h);
            let error = (gradient[i] - numeric).abs();
            assert!(
                error <= 1e-7 * (1.0 + largest),
                "d/d{name}[{i}] is {}, central differences say {numeric}",
                gradient[i]
            );
        }
    }
}

/// The whole step, where results share memory and gradients take their operands' places.
#[test]
fn every_backend_agrees_with_the_definition() {
    let mut layer = Layer::new().unwrap();
    let mut outputs = layer.differentiate();
    outputs.push(layer.loss());
    for &id in &outputs {
        layer.graph.output(id);
    }
    let mut e = Evaluator::new(&layer.graph);
    for (leaf, values) in &layer.values {
        e.set(*leaf, values.clone()).unwrap();
    }
    e.run().unwrap();
    let graph = Arc::new(layer.graph.clone());
    let mut first: Option<Vec<Vec<u8>>> = None;
    for (name, backend) in backends::all() {
        let mut program = backend.compile(graph.clone(), &Bindings::new()).unwrap();
        for (leaf, values) in &layer.values {
            assert_eq!(graph.tensor(*leaf).source, Source::Input);
            let int = graph.desc(*leaf).ty == GgmlType::I32;
            let bytes =
                values.iter().flat_map(|&v| if int { (v as i32).to_le_bytes() } else { (v as f32).to_le_bytes() });
            program.write(*leaf, &bytes.collect::<Vec<u8>>()).unwrap();
        }
        // Twice: a second run must not see anything of the first.
        program.run().unwrap();
        program.run().unwrap();
        let mut all = Vec::new();
        for &id in &outputs {
            let mut bytes = vec![0; graph.desc(id).extent()];
            program.read(id, &mut bytes).unwrap();
            let got = bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            let want = e.get(id).unwrap().data;
            let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            for (i, (got, want)) in got.zip(want).enumerate() {
                // f16's rounding of K and V falls the other way for a few values.
                let error = (got - want).abs();
                assert!(error <= 2e-4 * largest, "{name}: {}[{i}] is {got}, not {want}", graph.tensor(id).name);
            }
            all.push(bytes);
        }
        match &first {
            None => first = Some(all),
            Some(first) => assert!(*first == all, "{name} gives other bits"),
        }
    }
}
