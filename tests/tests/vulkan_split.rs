//! Models divided between a Vulkan device and the CPU: the bits of either alone, whatever the division.

use fabric_cpu::simd::SimdLevel;
use fabric_engine::adapter::{Adapter, LoadedAdapter};
use fabric_engine::arch::{self, ARCHITECTURES};
use fabric_engine::placement::{Placement, Wanted};
use fabric_engine::{Batch, Context, ContextOptions, Device, Model, ModelOptions};
use fabric_tests::backends::cpu;
use fabric_tests::golden::model;
use fabric_tests::models::{N_VOCAB, bits, load, logits, tiny_with};
use fabric_tests::vulkan;
use fabric_vulkan::VulkanOptions;
use ggml_ops::backend::{Backend, Bindings, Buffer, Program, SharedBytes};
use ggml_ops::{Graph, OpError, Source, TensorDesc};
use gguf::{GgmlType, Gguf, TensorRole};
use std::sync::Arc;

const ALL: Wanted = Wanted { layers: None, context: Some(context(64)), memory: u64::MAX };

const fn context(n_ctx: usize) -> ContextOptions {
    let (type_k, type_v) = (GgmlType::F16, GgmlType::F16);
    ContextOptions { n_ctx, n_seq_max: 1, n_ubatch: 32, type_k, type_v, swa_full: false }
}

fn plan(gguf: &Gguf, gpu: &Device, wanted: Wanted) -> Placement {
    Placement::plan(gguf, &[], gpu.as_ref(), wanted).unwrap()
}

fn last(layers: u64) -> Wanted {
    Wanted { layers: Some(layers), ..ALL }
}

fn split(gguf: Gguf, gpu: &Device, placement: &Placement) -> Arc<Model> {
    let device = placement.device(gpu.clone(), Arc::new(cpu_device()));
    Arc::new(Model::load(gguf, device, ModelOptions::default()).unwrap_or_else(|e| panic!("{e}")))
}

fn cpu_device() -> fabric_cpu::CpuBackend {
    fabric_cpu::CpuBackend::new(fabric_cpu::CpuOptions { threads: Some(2), ..Default::default() }).unwrap()
}

fn tokens(n: usize, n_vocab: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + 11) % n_vocab).collect()
}

/// A prompt in one piece, then token by token after it; logits of all.
fn generated(model: &Arc<Model>, tokens: &[u32], adapters: &[Arc<LoadedAdapter>]) -> Vec<u32> {
    let options = ContextOptions { n_ctx: 64, ..ContextOptions::default() };
    let mut context = Context::new(model.clone(), options).unwrap();
    context.set_adapters(adapters.to_vec());
    let (prompt, rest) = tokens.split_at(tokens.len() / 2);
    let mut out = Vec::new();
    context.decode(&Batch::of(prompt, 0, 0).with_all_logits(), |_, row| out.extend(bits(row))).unwrap();
    for (i, t) in rest.iter().enumerate() {
        context.decode(&Batch::of(&[*t], 0, prompt.len() + i), |_, row| out.extend(bits(row))).unwrap();
    }
    out
}

/// The last N layers, as llama.cpp counts them.
#[test]
fn the_last_layers_go_to_the_gpu() {
    let Some(gpu) = vulkan::device(VulkanOptions::default()) else { return };
    let gguf = Gguf::open(model("tiny-bitnet-TQ2_0.gguf")).unwrap();
    for (n, layers, rest) in [
        (0, "......", false),
        (1, ".....#", false),
        (4, "..####", false),
        (6, "######", false),
        (7, "######", true),
        (99, "######", true),
    ] {
        let placed = plan(&gguf, &gpu, last(n));
        let text: String = placed.layers.iter().map(|&l| if l { '#' } else { '.' }).collect();
        assert_eq!((text.as_str(), placed.rest, placed.notices.len()), (layers, rest, 0), "{n}");
    }
    assert!(plan(&gguf, &gpu, ALL).is_whole());
}

/// Ternary and float weights of a trained model whose embedding is its output too.
#[test]
fn a_divided_model_has_the_bits_of_one_device() {
    let Some(gpu) = vulkan::device(VulkanOptions::default()) else { return };
    for file in ["tiny-bitnet-TQ2_0.gguf", "tiny-bitnet-f16.gguf"] {
        let open = || Gguf::open(model(file)).unwrap();
        let alone = load(open(), 2, SimdLevel::detect());
        let tokens = tokens(24, alone.hparams().n_vocab as u32);
        let want = generated(&alone, &tokens, &[]);
        for n in [1, 3, 6, 7] {
            let placement = plan(&open(), &gpu, last(n));
            let divided = split(open(), &gpu, &placement);
            let name = divided.device().name();
            assert_eq!(name, if n == 7 { "vulkan" } else { "split" });
            assert!(generated(&divided, &tokens, &[]) == want, "{file}, {n} layers");
        }
        // In turn, and the ends without the middle: no flag asks for it, a GPU without a kernel does.
        for pattern in [[true, false, true, false, true, false], [false, true, true, false, false, true]] {
            for rest in [false, true] {
                let placement = Placement { layers: pattern.to_vec(), rest, notices: vec![] };
                let divided = split(open(), &gpu, &placement);
                assert!(generated(&divided, &tokens, &[]) == want, "{file}, {pattern:?}, {rest}");
            }
        }
    }
}

/// Every architecture (with an output matrix of its own, local layers, biases), and an adapter on every matrix.
#[test]
fn every_architecture_can_be_divided() {
    let Some(gpu) = vulkan::device(VulkanOptions::default()) else { return };
    let tokens = tokens(12, N_VOCAB);
    for arch in ARCHITECTURES {
        for optional in [false, true] {
            let file = tiny_with(*arch, GgmlType::Q8_0, false, 7, |spec| optional || spec.required);
            let open = || Gguf::from_bytes(file.clone()).unwrap();
            let alone = load(open(), 2, SimdLevel::detect());
            let divided = split(open(), &gpu, &plan(&open(), &gpu, last(1)));
            assert_eq!(divided.device().name(), "split");
            assert!(generated(&divided, &tokens, &[]) == generated(&alone, &tokens, &[]), "{}", arch.name());
            let roles = [TensorRole::AttnQ, TensorRole::AttnOutput, TensorRole::FfnDown, TensorRole::FfnUp];
            // Where matrices are fused there is none of some.
            let roles = roles.into_iter().filter(|r| alone.weights().keys().any(|name| name.role == *r));
            let mut adapter = Adapter::new(&alone, &roles.collect::<Vec<_>>(), 4, 8.0, 3).unwrap();
            adapter.pairs.values_mut().for_each(|p| p.b.iter_mut().enumerate().for_each(|(i, b)| *b = i as f32 * 1e-3));
            let on = |m: &Model| [Arc::new(LoadedAdapter::new(&adapter, m.device(), 1.0).unwrap())];
            let want = generated(&alone, &tokens, &on(&alone));
            assert!(generated(&divided, &tokens, &on(&divided)) == want, "{} with an adapter", arch.name());
        }
    }
}

/// So many layers as fit, the last ones; one line says so.
#[test]
fn what_does_not_fit_stays_on_the_cpu() {
    let Some(gpu) = vulkan::device(VulkanOptions::default()) else { return };
    let gguf = Gguf::open(model("tiny-bitnet-f16.gguf")).unwrap();
    let tensors = gguf.tensors();
    let of_layer =
        |il: usize| tensors.iter().filter(move |t| t.name.starts_with(&format!("blk.{il}."))).map(|t| t.n_bytes);
    let layer: u64 = of_layer(5).sum::<u64>() + 64 * 2 * 2 * kv_width(&gguf);
    let memory = |bytes: u64| Wanted { memory: bytes + bytes / 15 + 16, ..ALL };
    let whole =
        plan(&gguf, &gpu, memory(tensors.iter().map(|t| t.n_bytes).sum::<u64>() + 6 * (64 * 4 * kv_width(&gguf))));
    assert!(whole.is_whole() && whole.notices.is_empty(), "{whole:?}");
    let two = plan(&gguf, &gpu, memory(2 * layer));
    assert_eq!((two.layers.as_slice(), two.rest), (&[false, false, false, false, true, true][..], false));
    assert_eq!(two.notices.len(), 1);
    assert!(two.notices[0].ends_with(" MiB: 2 of 7 layers go there, the rest stays on the CPU"), "{:?}", two.notices);
    let none = plan(&gguf, &gpu, Wanted { memory: layer / 2, ..last(3) });
    assert_eq!(none.on_gpu(), 0);
    assert!(none.notices[0].ends_with(": the model runs on the CPU"), "{:?}", none.notices);
    // The cache counts.
    let large = Wanted { context: Some(context(1 << 30)), memory: 1 << 35, ..ALL };
    assert_eq!(plan(&gguf, &gpu, large).on_gpu(), 0);
    assert!(plan(&gguf, &gpu, Wanted { context: None, ..large }).is_whole());
}

/// What is planned with is what a context then takes: local layers hold their window, and types differ in size.
#[test]
fn the_planned_cache_is_that_of_the_context() {
    let file = tiny_with(arch::find("gemma3").unwrap(), GgmlType::F16, false, 7, |_| true);
    let open = || Gguf::from_bytes(file.clone()).unwrap();
    let model = load(open(), 1, SimdLevel::detect());
    let Some(gpu) = vulkan::device(VulkanOptions::default()) else { return };
    let weights: u64 = open().tensors().iter().map(|t| t.n_bytes).sum();
    let mut sizes = Vec::new();
    for (swa_full, type_k, n_seq_max) in
        [(true, GgmlType::F16, 1), (false, GgmlType::F16, 1), (false, GgmlType::F16, 3), (false, GgmlType::F32, 1)]
    {
        let options = ContextOptions { swa_full, type_k, n_seq_max, ..context(4096) };
        let bytes = Context::new(model.clone(), options).unwrap().cache().bytes() as u64;
        // A sixteenth is for intermediate results.
        let least = (weights + bytes).div_ceil(15) * 16;
        let of = |memory| plan(&open(), &gpu, Wanted { context: Some(options), memory, ..ALL });
        assert!(of(least).is_whole(), "{options:?}: {:?}", of(least).notices);
        assert!(!of(least - 64).is_whole(), "{options:?}");
        sizes.push(bytes);
    }
    assert!(sizes[0] > sizes[1] && sizes[2] == 3 * sizes[1] && sizes[3] > sizes[1], "{sizes:?}");
}

fn kv_width(gguf: &Gguf) -> u64 {
    gguf.tensor("blk.0.attn_k.weight").unwrap().ne[1] as u64
}

/// A device without kernels for one type of weights.
struct Without(Device, GgmlType);

impl Backend for Without {
    fn name(&self) -> &'static str {
        "without"
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn load(&self, desc: &TensorDesc, data: SharedBytes) -> Result<Arc<dyn Buffer>, OpError> {
        self.0.load(desc, data)
    }
    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Buffer>, OpError> {
        self.0.alloc(bytes)
    }
    fn owns(&self, buffer: &dyn Buffer) -> bool {
        self.0.owns(buffer)
    }
    fn of_layer(&self, _il: Option<u32>) -> &dyn Backend {
        self
    }
    fn supports(&self, graph: &Graph) -> Result<(), OpError> {
        for t in graph.tensors() {
            if let Source::Op { op, src } = &t.source
                && src.iter().any(|&s| graph.tensor(s).source == Source::Weight && graph.desc(s).ty == self.1)
            {
                let why = format!("weights of type {}", self.1);
                return Err(OpError::Unsupported { backend: "without", op: op.name(), why });
            }
        }
        self.0.supports(graph)
    }
    fn compile(&self, graph: Arc<Graph>, bindings: &Bindings) -> Result<Box<dyn Program>, OpError> {
        self.supports(&graph)?;
        self.0.compile(graph, bindings)
    }
}

/// Layers, or the output, whose type has no kernel on the GPU.
#[test]
fn what_has_no_kernel_stays_on_the_cpu() {
    let Some(gpu) = vulkan::device(VulkanOptions::default()) else { return };
    // Embedding and output are F16, the layers ternary.
    let open = || Gguf::open(model("tiny-bitnet-TQ2_0.gguf")).unwrap();
    let embedding = open().tensor("token_embd.weight").unwrap().ty;
    let without: Device = Arc::new(Without(gpu.clone(), embedding));
    let placed = plan(&open(), &without, ALL);
    assert_eq!((placed.on_gpu(), placed.rest), (6, false));
    let line = format!("weights of type {embedding}: the output stays on the CPU");
    assert!(placed.notices.len() == 1 && placed.notices[0].ends_with(&line), "{:?}", placed.notices);
    let alone = load(open(), 2, SimdLevel::detect());
    let tokens = tokens(10, alone.hparams().n_vocab as u32);
    assert!(logits_of(&split(open(), &without, &placed), &tokens) == logits_of(&alone, &tokens));
    let without: Device = Arc::new(Without(gpu, GgmlType::TQ2_0));
    let placed = plan(&open(), &without, ALL);
    assert_eq!(placed.on_gpu(), 0);
    assert!(placed.notices[0].ends_with("TQ2_0: the model runs on the CPU"), "{:?}", placed.notices);
}

fn logits_of(model: &Arc<Model>, tokens: &[u32]) -> Vec<u32> {
    bits(&logits(model, tokens, 64))
}

/// What a graph over two devices refuses, in words.
#[test]
fn buffers_of_other_devices_are_refused() {
    let Some(gpu) = vulkan::device(VulkanOptions::default()) else { return };
    let other = vulkan::device(VulkanOptions::default()).unwrap();
    let here: Device = cpu(1, SimdLevel::detect());
    let sched = ggml_ops::sched::Sched::new(vec![gpu.clone()], here.clone());
    let mut g = Graph::new();
    let desc = TensorDesc::new(GgmlType::F32, &[16, 4]).unwrap();
    let w = g.weight("w", desc);
    let x = g.input_f32("x", &[16, 2]).unwrap();
    let y = g.mul_mat(w, x).unwrap();
    let v = g.weight("v", TensorDesc::new(GgmlType::F32, &[4]).unwrap());
    let z = g.mul(y, v).unwrap();
    g.output(z);
    let g = Arc::new(g);
    let error = |w_on: &Device, v_on: &Device| {
        let bindings = Bindings::from([(w, w_on.alloc(256).unwrap()), (v, v_on.alloc(16).unwrap())]);
        sched.compile(g.clone(), &bindings).err().map(|e| e.to_string())
    };
    assert_eq!(error(&gpu, &here), None);
    assert!(error(&gpu, &other).is_some_and(|e| e.contains("'v' is bound to another backend's buffer")));
    assert!(sched.compile(g.clone(), &Bindings::new()).is_err());
}
