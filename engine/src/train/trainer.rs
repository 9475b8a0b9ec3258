//! Training step by step: windows through the graph, gradients summed, AdamW.

use super::Error;
use super::checkpoint::{Checkpoint, Progress, Settings, Summary};
use super::dataset::{Window, Windows, epoch_order};
use super::graph::{Inputs, Shape, TrainGraph};
use super::lr_schedule::LrSchedule;
use super::optimizer::{AdamWOptions, Param, adamw, global_norm};
use crate::Model;
use crate::adapter::{Adapter, BaseModel, LoadedAdapter};
use crate::split_mix::split_mix_64;
use bytemuck::{cast_slice, cast_slice_mut};
use ggml_ops::TensorId;
use ggml_ops::backend::Program;
use ggml_ops::plan::Plan;
use ggml_ops::quants::{self, QuantError};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Without recomputation, a graph may take this much memory before recomputation is worth its time.
const RECOMPUTE_ABOVE: usize = 512 << 20;

/// How to train.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOptions {
    /// Windows of an optimizer step.
    pub batch_size: usize,
    /// Tokens of a run, at most, unless one window is longer: the windows of a step run together as far as they fit.
    pub n_ubatch: usize,
    /// Learning rate, and how many steps the run has.
    pub schedule: LrSchedule,
    /// AdamW.
    pub adamw: AdamWOptions,
    /// Largest norm of all gradients together; larger ones are scaled down to it.
    pub grad_clip: Option<f32>,
    /// Fraction of an adapter's inputs that is dropped.
    pub dropout: f32,
    /// Compute each layer again in the backward pass rather than keep its inside; `None`: where memory calls for it.
    pub recompute: Option<bool>,
    /// For dropout and the order of data.
    pub seed: u64,
    /// Whether each epoch has an order of its own.
    pub shuffle: bool,
}

/// One optimizer step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Steps done, this one included.
    pub iteration: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Mean loss over the counted tokens.
    pub loss: f32,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Tokens that went through the model.
    pub tokens: usize,
}

/// Gradients by the names of the adapter's tensors.
pub type Gradients = Vec<(String, Vec<f32>)>;

/// Memory that a run needs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryNeed {
    /// The model's file, mapped.
    pub weights: u64,
    /// Results of the graph that are alive at once.
    pub graph: u64,
    /// Adapter, gradients and moments.
    pub adapter: u64,
    /// Whether layers are computed again in the backward pass.
    pub recompute: bool,
}

impl MemoryNeed {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.graph + self.adapter
    }
}

struct Ready {
    shape: Shape,
    inputs: Inputs,
    /// With their lengths.
    losses: Vec<(TensorId, usize)>,
    /// Of A and B of each tensor, in the adapter's order.
    grads: Vec<TensorId>,
    program: Box<dyn Program>,
}

/// A run of training.
pub struct Trainer {
    model: Arc<Model>,
    adapter: Adapter,
    /// One.
    loaded: Vec<Arc<LoadedAdapter>>,
    /// A and B of each tensor of the adapter, in its order.
    params: Vec<Param>,
    /// The device has other values than `params`.
    stale: bool,
    options: TrainOptions,
    /// Positions of a window at most.
    n_ctx: usize,
    /// Tokens of a run at most: of training, of validation.
    run_tokens: [usize; 2],
    schedule: LrSchedule,
    progress: Progress,
    recompute: bool,
    /// The rows of an epoch, in order.
    order: (u64, Vec<u32>),
    /// One for training and one for validation at most: their memory is large. The one in use is in front.
    ready: VecDeque<Ready>,
    host: Host,
}

/// Buffers for inputs and outputs, reused.
#[derive(Default)]
struct Host {
    tokens: Vec<i32>,
    labels: Vec<i32>,
    weights: Vec<f32>,
    span: Vec<i32>,
    rope: Vec<f32>,
    local_span: Vec<i32>,
    local_rope: Vec<f32>,
    values: Vec<f32>,
}

impl Trainer {
    /// A run from the start, with windows of `longest` tokens at most.
    ///
    /// # Errors
    /// Where the device gives no memory for the adapter.
    pub fn new(model: Arc<Model>, adapter: Adapter, options: TrainOptions, longest: usize) -> Result<Trainer, Error> {
        let loaded = LoadedAdapter::new(&adapter, model.device(), 1.0)?;
        let params = params(&adapter);
        let run_tokens = padded(longest.max(options.n_ubatch.min(longest.saturating_mul(options.batch_size))));
        let val_tokens = padded(longest.max(options.n_ubatch));
        let mut trainer = Trainer {
            model,
            adapter,
            loaded: vec![Arc::new(loaded)],
            params,
            stale: false,
            schedule: options.schedule,
            options,
            n_ctx: longest,
            run_tokens: [run_tokens, val_tokens],
            progress: Progress::default(),
            recompute: false,
            order: (0, Vec::new()),
            ready: VecDeque::new(),
            host: Host::default(),
        };
        trainer.recompute = match trainer.options.recompute {
            Some(choice) => choice,
            None => trainer.graph_bytes(run_tokens, true, false)? > RECOMPUTE_ABOVE,
        };
        Ok(trainer)
    }

    /// Says which model the adapter is made for: what its files will name.
    pub fn set_base(&mut self, base: BaseModel) {
        self.adapter.base = Some(base);
    }

    /// Steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.schedule.total_steps
    }

    /// How far it has come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The adapter as it is now.
    pub fn adapter(&mut self) -> &Adapter {
        self.sync_adapter();
        &self.adapter
    }

    fn sync_adapter(&mut self) {
        for (pair, ab) in self.adapter.pairs.values_mut().zip(self.params.chunks_exact(2)) {
            pair.a.copy_from_slice(&ab[0].value);
            pair.b.copy_from_slice(&ab[1].value);
        }
    }

    /// The memory that training and validation will need at most.
    ///
    /// # Errors
    /// Where a graph cannot be built.
    pub fn memory_need(&self) -> Result<MemoryNeed, Error> {
        let [train, val] = self.run_tokens;
        let n_params: usize = self.params.iter().map(|p| p.value.len()).sum();
        let graph = self.graph_bytes(train, true, self.recompute)? + self.graph_bytes(val, false, false)?;
        Ok(MemoryNeed {
            weights: self.model.gguf().file_bytes(),
            graph: graph as u64,
            // On the host: value, gradient, m, v and the adapter; on the device: value.
            adapter: 6 * 4 * n_params as u64,
            recompute: self.recompute,
        })
    }

    fn graph_bytes(&self, n_tokens: usize, gradients: bool, recompute: bool) -> Result<usize, Error> {
        let dropout = if gradients { self.options.dropout } else { 0.0 };
        let built = TrainGraph::build(&self.model, &self.loaded, Shape { n_tokens, gradients, recompute, dropout })?;
        Ok(Plan::new(&built.graph, 64).arena)
    }

    /// Goes on from a checkpoint of a run with these settings.
    ///
    /// # Errors
    /// Where a setting or a tensor is another than in the checkpoint.
    pub fn resume(&mut self, checkpoint: Checkpoint, settings: &Settings) -> Result<(), Error> {
        let bad = |what: String| Error::Checkpoint { path: checkpoint.dir.clone(), what };
        for (key, value) in checkpoint.settings.iter().flatten() {
            if let Some((_, now)) = settings.iter().find(|(k, now)| k == key && now != value) {
                return Err(bad(format!("it was made with {key} {value}, this run has {now}")));
            }
        }
        let adapter = Adapter::read(&checkpoint.adapter, &self.model)?;
        let mut params = params(&adapter);
        let names = |params: &[Param]| params.iter().map(|p| (p.name.clone(), p.ne.clone())).collect::<Vec<_>>();
        if names(&params) != names(&self.params) {
            return Err(bad("its adapter has other tensors or ranks than this run".into()));
        }
        for p in &mut params {
            let Some([m, v]) = checkpoint.moments.get(&p.name) else {
                return Err(bad(format!("optimizer.gguf has no moments for '{}'", p.name)));
            };
            if m.len() != p.value.len() || v.len() != p.value.len() {
                let (got, expected) = (m.len().min(v.len()), p.value.len());
                return Err(bad(format!("the moments of '{}' have {got} values, expected {expected}", p.name)));
            }
            (p.m, p.v) = (m.clone(), v.clone());
        }
        self.params = params;
        self.progress = checkpoint.progress;
        self.stale = true;
        Ok(())
    }

    /// Goes on on the device that this copy of the model is on, from what the host has: adapter, moments and position. For when
    /// the other device has failed.
    ///
    /// # Errors
    /// Where the new device gives no memory for the adapter.
    pub fn move_to(&mut self, model: Arc<Model>) -> Result<(), Error> {
        self.sync_adapter();
        self.loaded = vec![Arc::new(LoadedAdapter::new(&self.adapter, model.device(), 1.0)?)];
        self.stale = false;
        self.ready.clear();
        self.params.iter_mut().for_each(|p| p.grad.fill(0.0));
        self.model = model;
        Ok(())
    }

    /// Writes a checkpoint beside the others in `root`, and keeps the newest `keep`.
    ///
    /// # Errors
    /// Where it cannot be written; older ones are then untouched.
    pub fn save(&mut self, root: &Path, keep: usize, settings: &Settings, summary: Summary) -> Result<PathBuf, Error> {
        self.sync_adapter();
        let (adapter, progress, params) = (&self.adapter, &self.progress, &self.params);
        super::checkpoint::save(root, keep, progress, settings, summary, params, adapter)
    }

    /// One optimizer step on the next windows; `None` when the run is complete.
    ///
    /// # Errors
    /// [`Error::NotFinite`] where the loss or a gradient is: the adapter is then as it was before the step.
    pub fn step(&mut self, data: &Windows) -> Result<Option<StepReport>, Error> {
        let n = data.len() as usize;
        if self.progress.iteration >= self.total_steps() || n == 0 {
            return Ok(None);
        }
        // QVAC Fabric's checkpoints count the windows of all epochs.
        let whole = self.progress.position / n as u64;
        (self.progress.epoch, self.progress.position) =
            (self.progress.epoch.saturating_add(whole), self.progress.position % n as u64);
        let (epoch, from) = (self.progress.epoch, self.progress.position as usize);
        let to = n.min(from + self.options.batch_size.max(1));
        if self.order.0 != epoch || self.order.1.len() != n {
            self.order = (epoch, epoch_order(data.len(), self.options.shuffle, self.options.seed, epoch));
        }
        let rows = self.order.1.get(from..to).unwrap_or_default();
        let windows: Vec<Window> = rows.iter().filter_map(|&i| data.window(i)).collect();
        let report = self.fit(&windows)?;
        (self.progress.epoch, self.progress.position) = if to == n { (epoch + 1, 0) } else { (epoch, to as u64) };
        Ok(Some(report))
    }

    /// One optimizer step on these rows, wherever they come from.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn fit(&mut self, windows: &[Window]) -> Result<StepReport, Error> {
        let tokens = windows.iter().map(Window::len).sum();
        let loss = self.forward_backward(windows)?;
        let grad_norm = self.check_finite(loss)?;
        let clip = self.options.grad_clip.filter(|&c| grad_norm > f64::from(c));
        let scale = clip.map_or(1.0, |c| (f64::from(c) / grad_norm) as f32);
        let lr = self.schedule.at(self.progress.iteration);
        let iteration = self.progress.iteration + 1;
        adamw(&mut self.params, &self.options.adamw, lr, iteration, scale);
        // Copied when they are next used: a device that fails then leaves a whole step behind.
        self.stale = true;
        self.progress.iteration = iteration;
        self.progress.losses.push(loss);
        Ok(StepReport { iteration, epoch: self.progress.epoch, loss, grad_norm, lr, tokens })
    }

    /// Mean loss over the counted tokens of all windows, without training on them. It is noted in the history. `None`, and
    /// nothing is noted, if `stop` says so before the end.
    ///
    /// # Errors
    /// Where the model cannot be run.
    pub fn validate(&mut self, data: &Windows, stop: impl Fn() -> bool) -> Result<Option<f32>, Error> {
        let (mut sum, mut count) = (0f64, 0usize);
        let mut rows = data.iter().peekable();
        while let Some(first) = rows.next() {
            if stop() {
                return Ok(None);
            }
            let mut group = vec![first];
            let mut tokens = group[0].len();
            while let Some(next) = rows.next_if(|w| tokens + w.len() <= self.options.n_ubatch) {
                tokens += next.len();
                group.push(next);
            }
            sum += f64::from(self.run(&group, 0, 1.0, false)?);
            count += group.iter().map(Window::n_labels).sum::<usize>();
        }
        let loss = (sum / count.max(1) as f64) as f32;
        self.progress.val_losses.push((self.progress.iteration, loss));
        Ok(Some(loss))
    }

    /// The mean loss over the counted tokens of these rows and its gradients, by the names of the adapter's tensors. Nothing
    /// is trained.
    ///
    /// # Errors
    /// Where the model cannot be run.
    pub fn gradients(&mut self, windows: &[Window]) -> Result<(f32, Gradients), Error> {
        let loss = self.forward_backward(windows)?;
        let taken = self.params.iter_mut().map(|p| {
            let zeros = vec![0.0; p.grad.len()];
            (p.name.clone(), std::mem::replace(&mut p.grad, zeros))
        });
        Ok((loss, taken.collect()))
    }

    /// The mean loss; adds its gradients to those of the parameters.
    fn forward_backward(&mut self, windows: &[Window]) -> Result<f32, Error> {
        let count: usize = windows.iter().map(Window::n_labels).sum();
        let weight = 1.0 / count.max(1) as f32;
        let mut loss = 0f32;
        let mut first = 0;
        for run in self.runs(windows) {
            loss += self.run(run, first, weight, true)?;
            first += run.len();
        }
        Ok(loss)
    }

    /// Windows that run together.
    fn runs<'w>(&self, windows: &'w [Window]) -> Vec<&'w [Window]> {
        let mut runs = Vec::new();
        let (mut from, mut tokens) = (0, 0);
        for (i, w) in windows.iter().enumerate() {
            if i > from && tokens + w.len() > self.options.n_ubatch {
                runs.push(&windows[from..i]);
                (from, tokens) = (i, 0);
            }
            tokens += w.len();
        }
        if from < windows.len() {
            runs.push(&windows[from..]);
        }
        runs
    }

    /// Sum of losses, each times `weight`. `first` tells the first window's place among those of the step.
    fn run(&mut self, windows: &[Window], first: usize, weight: f32, gradients: bool) -> Result<f32, Error> {
        let tokens = windows.iter().map(Window::len).sum();
        let n_tokens = padded(tokens);
        let dropout = if gradients { self.options.dropout } else { 0.0 };
        let recompute = gradients && self.recompute;
        self.upload()?;
        self.make_ready(Shape { n_tokens, gradients, recompute, dropout })?;
        let Some(ready) = self.ready.front_mut() else { return Ok(0.0) };
        let host = &mut self.host;
        host.fill(windows, weight, n_tokens, &self.model, self.n_ctx);
        let (program, inputs) = (&mut ready.program, &ready.inputs);
        program.write(inputs.tokens, cast_slice(&host.tokens))?;
        program.write(inputs.labels, cast_slice(&host.labels))?;
        program.write(inputs.weights, cast_slice(&host.weights))?;
        program.write(inputs.span, cast_slice(&host.span))?;
        program.write(inputs.rope, cast_slice(&host.rope))?;
        if let Some(local) = inputs.local {
            program.write(local.span, cast_slice(&host.local_span))?;
            program.write(local.rope, cast_slice(&host.local_rope))?;
        }
        if let Some(ones) = inputs.ones {
            host.values.clear();
            host.values.resize(n_tokens, 1.0);
            program.write(ones, cast_slice(&host.values))?;
        }
        if let Some(seed) = inputs.seed {
            let seeds = [self.options.seed, self.progress.iteration, first as u64];
            let mixed = seeds.iter().fold(0, |h, &x| split_mix_64(h ^ x));
            program.write(seed, cast_slice(&[mixed as u32, (mixed >> 32) as u32]))?;
        }
        program.run()?;
        let mut loss = 0f32;
        for &(id, len) in &ready.losses {
            loss += read(program.as_mut(), id, len, &mut host.values)?.iter().sum::<f32>();
        }
        for (p, &id) in self.params.iter_mut().zip(&ready.grads) {
            let grad = read(program.as_mut(), id, p.grad.len(), &mut host.values)?;
            p.grad.iter_mut().zip(grad).for_each(|(sum, g)| *sum += g);
        }
        Ok(loss)
    }

    /// Puts the program of this shape in front.
    fn make_ready(&mut self, shape: Shape) -> Result<(), Error> {
        if let Some(at) = self.ready.iter().position(|r| r.shape == shape) {
            self.ready.swap(0, at);
            return Ok(());
        }
        self.ready.retain(|r| r.shape.gradients != shape.gradients);
        let built = TrainGraph::build(&self.model, &self.loaded, shape)?;
        let losses = built.losses.iter().map(|&id| (id, built.graph.desc(id).elements())).collect();
        let grads = built.grads.iter().flat_map(|(_, ids)| *ids).collect::<Vec<_>>();
        if shape.gradients && grads.len() != self.params.len() {
            let what = format!("{} of {} adapter tensors have a gradient", grads.len(), self.params.len());
            return Err(ggml_ops::OpError::Backend { backend: "train", what }.into());
        }
        let program = self.model.device().compile(Arc::new(built.graph), &built.bindings)?;
        self.ready.push_front(Ready { shape, inputs: built.inputs, losses, grads, program });
        Ok(())
    }

    /// The norm of all gradients, if that and the loss are numbers. Otherwise gradients are forgotten.
    fn check_finite(&mut self, loss: f32) -> Result<f64, Error> {
        let norm = global_norm(&self.params);
        if loss.is_finite() && norm.is_finite() {
            return Ok(norm);
        }
        let bad = |values: &[f32]| values.iter().any(|x| !x.is_finite());
        let what = if loss.is_finite() {
            let name = self.params.iter().find(|p| bad(&p.grad)).map_or("an adapter", |p| &p.name);
            format!("the gradient of {name}")
        } else if let Some(p) = self.params.iter().find(|p| bad(&p.value)) {
            format!("the loss, like the adapter's {},", p.name)
        } else if let Some((tensor, why)) = self.broken_weight() {
            return Err(Error::BrokenModel { step: self.progress.iteration + 1, tensor, why });
        } else {
            let largest = |p: &Param| p.value.iter().fold(0f32, |max, x| max.max(x.abs()));
            let name = |p: &Param| {
                format!("the loss (of the adapter, {} has the largest values, up to {:.1e})", p.name, largest(p))
            };
            let most = self.params.iter().max_by(|a, b| largest(a).total_cmp(&largest(b)));
            most.map_or_else(|| "the loss".into(), name)
        };
        for p in &mut self.params {
            p.grad.fill(0.0);
        }
        Err(Error::NotFinite { step: self.progress.iteration + 1, what })
    }

    /// A weight of the model that is no number. Reads the whole file, so only when something is wrong.
    fn broken_weight(&self) -> Option<(String, QuantError)> {
        let file = self.model.gguf();
        file.tensors().iter().find_map(|t| match quants::validate(t.ty, file.data(t)) {
            Err(why @ QuantError::NotFinite { .. }) => Some((t.name.clone(), why)),
            _ => None,
        })
    }

    /// Copies the parameters to the device, if they have changed.
    fn upload(&mut self) -> Result<(), Error> {
        if !self.stale {
            return Ok(());
        }
        let buffers = self.loaded.iter().flat_map(|l| l.pairs().values()).flat_map(|p| [&p.a_buffer, &p.b_buffer]);
        for (p, buffer) in self.params.iter().zip(buffers) {
            buffer.write(0, cast_slice(&p.value))?;
        }
        self.stale = false;
        Ok(())
    }
}

/// The first `len` values of an output.
fn read<'v>(program: &mut dyn Program, id: TensorId, len: usize, values: &'v mut Vec<f32>) -> Result<&'v [f32], Error> {
    values.resize(len, 0.0);
    program.read(id, cast_slice_mut(values))?;
    Ok(values)
}

impl Host {
    fn fill(&mut self, windows: &[Window], weight: f32, n_tokens: usize, model: &Model, n_ctx: usize) {
        let Host { tokens, labels, weights, span, rope, local_span, local_rope, values: _ } = self;
        for list in [&mut *tokens, labels, span, local_span] {
            list.clear();
        }
        weights.clear();
        rope.clear();
        local_rope.clear();
        let window = model.hparams().sliding_window.as_ref();
        let (angles, local_angles) = (model.rope(n_ctx), model.local_rope(n_ctx));
        // Token ids and lengths are far below 2^31.
        for w in windows {
            let base = tokens.len() as i32;
            for i in 0..w.len() {
                tokens.push(w.tokens[i] as i32);
                labels.push(w.labels[i] as i32);
                weights.push(w.weights[i] * weight);
                span.extend([0, base + w.first[i] as i32, base + i as i32 + 1]);
                angles.push(w.positions[i] as usize, rope);
                if let Some(window) = window {
                    let first = (w.first[i] as usize).max((i + 1).saturating_sub(window.n_swa));
                    local_span.extend([0, base + first as i32, base + i as i32 + 1]);
                    local_angles.push(w.positions[i] as usize, local_rope);
                }
            }
        }
        // What is left sees nothing, and counts for nothing.
        for _ in tokens.len()..n_tokens {
            tokens.push(0);
            labels.push(0);
            weights.push(0.0);
            span.extend([0, 0, 0]);
            angles.push(0, rope);
            if window.is_some() {
                local_span.extend([0, 0, 0]);
                local_angles.push(0, local_rope);
            }
        }
    }
}

/// A number of tokens for which a graph is built: few different ones, at most a third more than asked for.
fn padded(n: usize) -> usize {
    let step = (n.next_power_of_two() / 4).max(32);
    n.next_multiple_of(step)
}

/// Of each tensor of an adapter A, then B.
fn params(adapter: &Adapter) -> Vec<Param> {
    let both = adapter.pairs.iter().flat_map(|(name, pair)| {
        let a = Param::new(format!("{name}.lora_a"), pair.a_ne(name).to_vec(), pair.a.clone());
        [a, Param::new(format!("{name}.lora_b"), pair.b_ne().to_vec(), pair.b.clone())]
    });
    both.collect()
}
