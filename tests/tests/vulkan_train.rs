//! LoRA training on a Vulkan device: the CPU's losses and adapters, bit for bit.

use fabric_cpu::simd::SimdLevel;
use fabric_engine::adapter::{Adapter, fused_role};
use fabric_engine::arch::ARCHITECTURES;
use fabric_engine::placement::Placement;
use fabric_engine::train::dataset::Window;
use fabric_engine::train::lr_schedule::{LrSchedule, LrShape};
use fabric_engine::train::optimizer::{AdamWOptions, Param, adamw, adamw_step};
use fabric_engine::train::{TrainOptions, Trainer};
use fabric_engine::{Model, ModelOptions, device};
use fabric_tests::golden::model;
use fabric_tests::models::{N_VOCAB, bits, load, tiny};
use fabric_tests::{backends, vulkan};
use ggml_ops::backend::Bindings;
use ggml_ops::{Graph, TensorDesc};
use gguf::{GgmlType, Gguf, TensorRole};
use std::sync::Arc;

/// `limit`: bytes of a binding and of an allocation.
fn on_gpu(gguf: Gguf, limit: Option<u64>) -> Arc<Model> {
    let options = device::VulkanOptions { max_binding: limit, max_allocation: limit, ..Default::default() };
    let device = device::vulkan(options).unwrap();
    Arc::new(Model::load(gguf, device, ModelOptions::default()).unwrap())
}

fn window(n: u32, n_vocab: u32, seed: u32) -> Window {
    let tokens: Vec<u32> = (0..=n).map(|i| (i * i * 31 + i * 7 + seed * 13) % n_vocab).collect();
    let n = n as usize;
    Window {
        labels: tokens[1..].to_vec(),
        tokens: tokens[..n].to_vec(),
        weights: (0..n).map(|i| if i % 5 == 0 { 0.0 } else { 1.0 }).collect(),
        positions: (0..n as u32).collect(),
        first: vec![0; n],
    }
}

/// Losses and the adapter after some steps, as integers.
fn train(model: &Arc<Model>, windows: &[Window], steps: usize) -> (Vec<u32>, Vec<u32>) {
    let options = TrainOptions {
        batch_size: windows.len(),
        n_ubatch: 64,
        schedule: LrSchedule { lr: 2e-3, lr_min: 0.0, shape: LrShape::Constant, warmup_steps: 0, total_steps: 0 },
        adamw: AdamWOptions::default(),
        grad_clip: Some(1.0),
        dropout: 0.1,
        recompute: Some(false),
        seed: 1,
        shuffle: false,
    };
    let roles = [TensorRole::AttnQ, TensorRole::AttnV, TensorRole::FfnDown];
    let roles = roles.map(|r| fused_role(r, |r| model.weights().contains_key(&r.weight(0))));
    let adapter = Adapter::new(model, &roles, 8, 16.0, 3).unwrap();
    let mut trainer = Trainer::new(model.clone(), adapter, options, 128).unwrap();
    let losses: Vec<f32> = (0..steps).map(|_| trainer.fit(windows).unwrap().loss).collect();
    let values: Vec<f32> = trainer.adapter().pairs.values().flat_map(|p| p.a.iter().chain(&p.b)).copied().collect();
    (bits(&losses), bits(&values))
}

/// The trained ternary model: every step's loss is the CPU's, and so is the adapter in the end.
#[test]
fn a_real_model_trains_with_the_cpus_bits() {
    let Some(_) = vulkan::with_binding(None) else { return };
    let open = || Gguf::open(model("tiny-bitnet-TQ2_0.gguf")).unwrap();
    let cpu = load(open(), 2, SimdLevel::detect());
    let n_vocab = cpu.hparams().n_vocab as u32;
    let windows = [window(24, n_vocab, 1), window(17, n_vocab, 2)];
    let (losses, adapter) = train(&cpu, &windows, 6);
    assert!(f32::from_bits(losses[5]) < f32::from_bits(losses[0]), "the loss does not fall");
    let (gpu_losses, gpu_adapter) = train(&on_gpu(open(), None), &windows, 6);
    assert_eq!(gpu_losses, losses);
    assert!(gpu_adapter == adapter);
}

/// Every architecture, float and quantized weights, and one of them in small pieces.
#[test]
fn every_architecture_trains_with_the_cpus_bits() {
    let Some(_) = vulkan::with_binding(None) else { return };
    let windows = [window(13, N_VOCAB, 4)];
    for (i, arch) in ARCHITECTURES.iter().enumerate() {
        for (ty, uniform) in [(GgmlType::F16, false), (GgmlType::Q4_K, false), (GgmlType::TQ1_0, true)] {
            let open = || Gguf::from_bytes(tiny(*arch, ty, uniform, 3)).unwrap();
            let limit = (i == 0).then_some(256 << 10);
            let want = train(&load(open(), 2, SimdLevel::detect()), &windows, 2);
            assert!(train(&on_gpu(open(), limit), &windows, 2) == want, "{} {ty}", arch.name());
        }
    }
}

/// Layers on the GPU, the others and the loss on the CPU: gradients travel both ways.
#[test]
fn a_divided_model_trains_with_the_cpus_bits() {
    let Some(gpu) = vulkan::device(device::VulkanOptions::default()) else { return };
    let open = || Gguf::open(model("tiny-bitnet-TQ2_0.gguf")).unwrap();
    let cpu = load(open(), 2, SimdLevel::detect());
    let windows = [window(19, cpu.hparams().n_vocab as u32, 5)];
    let want = train(&cpu, &windows, 3);
    for layers in [vec![false, false, false, false, true, true], vec![true, false, true, true, false, false]] {
        let placement = Placement { layers, rest: false, notices: Vec::new() };
        let device = placement.device(gpu.clone(), cpu.device().clone());
        let divided = Arc::new(Model::load(open(), device, ModelOptions::default()).unwrap());
        assert_eq!(divided.device().name(), "split");
        assert!(train(&divided, &windows, 3) == want, "{placement:?}");
    }
}

/// opt_step_adamw on the CPU and on the GPU changes parameters and moments as the host's optimizer does.
#[test]
fn the_operation_is_the_hosts_optimizer() {
    let Some(gpu) = vulkan::device(device::VulkanOptions::default()) else { return };
    let n = 777;
    let mut rng = fastrand::Rng::with_seed(4);
    let mut draw = |scale: f32| (0..n).map(|_| scale * (rng.f32() - 0.5)).collect::<Vec<f32>>();
    let options = AdamWOptions { weight_decay: 0.1, ..AdamWOptions::default() };
    let mut param = Param::new("p".into(), vec![n], draw(1.0));
    let gradients = [draw(1e-3), draw(10.0), vec![0.0; n], draw(1e-12)];

    let mut g = Graph::new();
    let state = g.state("state", TensorDesc::new(GgmlType::F32, &[n, 3]).unwrap());
    let (grad, step) = (g.input_f32("grad", &[n]).unwrap(), g.input_f32("step", &[7]).unwrap());
    g.opt_step_adamw(state, grad, step).unwrap();
    let g = Arc::new(g);
    let mut programs = [gpu, backends::cpu(2, SimdLevel::detect())].map(|device| {
        let buffer = device.alloc(12 * n).unwrap();
        buffer.write(0, bytemuck::cast_slice(&param.value)).unwrap();
        let bindings = Bindings::from([(state, buffer.clone())]);
        (device.compile(g.clone(), &bindings).unwrap(), buffer)
    });
    for (i, gradient) in gradients.iter().enumerate() {
        let (lr, iteration, scale) = (3e-3, i as u64 + 1, 0.75);
        let s = adamw_step(&options, lr, iteration, scale);
        param.grad.copy_from_slice(gradient);
        adamw(std::slice::from_mut(&mut param), &options, lr, iteration, scale);
        let want = [&param.value, &param.m, &param.v].map(|v| bits(v)).concat();
        for (program, buffer) in &mut programs {
            let values = [s.grad_scale, s.beta1, s.beta2, s.eps, s.step, s.root, s.keep];
            program.write(grad, bytemuck::cast_slice(gradient)).unwrap();
            program.write(step, bytemuck::cast_slice(&values)).unwrap();
            program.run().unwrap();
            let mut got = vec![0f32; 3 * n];
            buffer.read(0, bytemuck::cast_slice_mut(&mut got)).unwrap();
            assert!(bits(&got) == want, "step {iteration}");
        }
    }
}
