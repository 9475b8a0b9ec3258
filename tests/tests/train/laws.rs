//! What holds for every run of training.

use crate::{adapter, options, relative_error, shakespeare, trainer};
use fabric_cpu::simd::SimdLevel;
use fabric_cpu::{CpuBackend, CpuOptions};
use fabric_engine::adapter::Adapter;
use fabric_engine::arch::ARCHITECTURES;
use fabric_engine::train::checkpoint::{self, Summary};
use fabric_engine::train::dataset::Window;
use fabric_engine::train::{Error, TrainOptions, Trainer};
use fabric_engine::{Model, ModelOptions};
use fabric_tests::golden::model;
use fabric_tests::models::{N_VOCAB, bits, load, logits, tiny};
use ggml_ops::quants;
use gguf::{GgmlType, Gguf, Metadata, TensorInfo, TensorRole, Writer};
use std::sync::Arc;

fn bitnet(threads: usize, simd: SimdLevel) -> Arc<Model> {
    load(Gguf::open(model("tiny-bitnet-TQ2_0.gguf")).unwrap(), threads, simd)
}

/// Every value of the adapter, in order.
fn values(trainer: &mut Trainer) -> Vec<f32> {
    trainer.adapter().pairs.values().flat_map(|p| p.a.iter().chain(&p.b)).copied().collect()
}

/// The adapter after a few steps.
fn trained(model: &Arc<Model>, options: TrainOptions, steps: usize) -> Vec<u32> {
    let data = shakespeare(model);
    let mut t = trainer(model, adapter(model, "lora/adapter-initial.gguf"), options, &data);
    for _ in 0..steps {
        t.step(&data.train).unwrap().unwrap();
    }
    bits(&values(&mut t))
}

#[test]
fn the_same_bits_on_any_number_of_threads_and_at_every_simd_level() {
    let options = TrainOptions { batch_size: 2, dropout: 0.1, shuffle: true, ..options() };
    let want = trained(&bitnet(2, SimdLevel::detect()), options.clone(), 2);
    for threads in [1, 3] {
        assert_eq!(want, trained(&bitnet(threads, SimdLevel::detect()), options.clone(), 2), "{threads} threads");
    }
    for simd in SimdLevel::available() {
        assert_eq!(want, trained(&bitnet(2, simd), options.clone(), 2), "{simd:?}");
    }
}

#[test]
fn computing_layers_again_changes_nothing() {
    let m = bitnet(2, SimdLevel::detect());
    let options = TrainOptions { batch_size: 1, dropout: 0.1, ..options() };
    let keep = trained(&m, TrainOptions { recompute: Some(false), ..options.clone() }, 2);
    assert_eq!(keep, trained(&m, TrainOptions { recompute: Some(true), ..options.clone() }, 2));
    let need = |recompute| {
        let data = shakespeare(&m);
        let options = TrainOptions { recompute: Some(recompute), ..options.clone() };
        trainer(&m, adapter(&m, "lora/adapter-initial.gguf"), options, &data).memory_need().unwrap().graph
    };
    assert!(need(true) < need(false) / 2, "{} and {} bytes", need(true), need(false));
}

#[test]
fn a_batch_is_the_mean_over_its_tokens() {
    let m = bitnet(2, SimdLevel::detect());
    let data = shakespeare(&m);
    let windows: Vec<Window> = (0..3).map(|i| data.train.window(i).unwrap()).collect();
    let gradients = |n_ubatch| {
        let options = TrainOptions { n_ubatch, ..options() };
        let mut t = trainer(&m, adapter(&m, "lora/adapter-final.gguf"), options, &data);
        t.gradients(&windows).unwrap()
    };
    let (together, apart) = (gradients(512), gradients(1));
    assert!((together.0 - apart.0).abs() < 1e-5, "{} and {}", together.0, apart.0);
    for ((name, a), (_, b)) in together.1.iter().zip(&apart.1) {
        let error = relative_error(a, b);
        assert!(error < 1e-4, "{name}: {error:.1e}");
    }
}

/// `--backward-type bf16`, on processors that have it (elsewhere there is nothing to differ).
#[test]
fn gradients_in_bf16_are_within_a_hundredth() {
    let file = Gguf::open(model("tiny-bitnet-TQ2_0.gguf")).unwrap();
    // Through the output matrix alone, and through every matrix.
    for (what, file) in [("ternary", as_type(&file, GgmlType::TQ2_0)), ("F16", as_type(&file, GgmlType::F16))] {
        let gradients = |bf16_gradients| {
            let cpu = CpuOptions { threads: Some(2), bf16_gradients, ..CpuOptions::default() };
            let device = Arc::new(CpuBackend::new(cpu).unwrap());
            let there = device.bf16_gradients();
            let file = Gguf::from_bytes(file.clone()).unwrap();
            let m = Arc::new(Model::load(file, device, ModelOptions::default()).unwrap());
            let data = shakespeare(&m);
            let windows: Vec<Window> = (0..2).map(|i| data.train.window(i).unwrap()).collect();
            let mut t = trainer(&m, adapter(&m, "lora/adapter-final.gguf"), options(), &data);
            (t.gradients(&windows).unwrap(), there)
        };
        let ((f32, _), (bf16, there)) = (gradients(false), gradients(true));
        assert_eq!(f32.0, bf16.0, "{what}: the loss is that of f32");
        for ((name, want), (_, got)) in f32.1.iter().zip(&bf16.1) {
            let error = relative_error(got, want);
            assert!(error < 1e-2 && (error > 0.0) == there, "{what}: {name}: {error:.1e}");
        }
    }
}

/// The same model with its ternary matrices in another type.
fn as_type(file: &Gguf, ty: GgmlType) -> Vec<u8> {
    let type_of = |t: &TensorInfo| if t.ty == GgmlType::TQ2_0 { ty } else { t.ty };
    let mut writer = Writer::new(file.metadata().clone()).unwrap();
    for t in file.tensors() {
        writer.add_tensor(&t.name, type_of(t), &t.ne[..t.n_dims as usize]).unwrap();
    }
    let mut out = writer.start(Vec::new()).unwrap();
    for t in file.tensors() {
        let mut values = vec![0.0; t.ne.iter().product()];
        let mut bytes = file.data(t).to_vec();
        if t.ty != type_of(t) {
            quants::dequantize(t.ty, &bytes, &mut values).unwrap();
            bytes.resize(type_of(t).row_size(values.len()).unwrap(), 0);
            quants::quantize(ty, &values, &mut bytes).unwrap();
        }
        out.write_tensor(&t.name, &bytes).unwrap();
    }
    out.into_inner().unwrap()
}

#[test]
fn what_is_masked_or_in_another_sample_has_no_gradient() {
    let m = bitnet(2, SimdLevel::detect());
    let data = shakespeare(&m);
    let first = Window { weights: [vec![1.0; 20], vec![0.0; 108]].concat(), ..data.train.window(0).unwrap() };
    let mut t = trainer(&m, adapter(&m, "lora/adapter-final.gguf"), options(), &data);
    let want = t.gradients(std::slice::from_ref(&first)).unwrap();
    // Other labels and other tokens where nothing counts.
    let mut other = first.clone();
    other.labels[20..].fill(7);
    other.tokens[21..].fill(9);
    let got = t.gradients(&[other]).unwrap();
    assert_eq!(want.0.to_bits(), got.0.to_bits());
    for ((name, a), (_, b)) in want.1.iter().zip(&got.1) {
        assert_eq!(bits(a), bits(b), "{name}");
    }
    // A packed row: the second sample restarts, and the first does not reach it.
    let second = data.train.window(1).unwrap();
    let join = |a: &[u32], b: &[u32]| [&a[..40], &b[..60]].concat();
    let packed = |first: &Window| Window {
        tokens: join(&first.tokens, &second.tokens),
        labels: join(&first.labels, &second.labels),
        weights: [vec![0.0; 40], vec![1.0; 60]].concat(),
        positions: (0..40).chain(0..60).collect(),
        first: [vec![0; 40], vec![40; 60]].concat(),
    };
    let third = data.train.window(2).unwrap();
    let (a, b) = (t.gradients(&[packed(&first)]).unwrap(), t.gradients(&[packed(&third)]).unwrap());
    assert_eq!(a.0.to_bits(), b.0.to_bits(), "the loss of a sample depends on the one packed before it");
    for ((name, a), (_, b)) in a.1.iter().zip(&b.1) {
        assert_eq!(bits(a), bits(b), "{name}");
    }
}

#[test]
fn one_batch_is_learned_by_heart() {
    let m = bitnet(2, SimdLevel::detect());
    let data = shakespeare(&m);
    let options = TrainOptions { batch_size: 1, ..options() };
    let mut t = Trainer::new(m.clone(), adapter(&m, "lora/adapter-initial.gguf"), options, 128).unwrap();
    let window = data.train.window(0).unwrap();
    let first = t.gradients(std::slice::from_ref(&window)).unwrap().0;
    let last = (0..60).map(|_| t.fit(std::slice::from_ref(&window)).unwrap().loss).last().unwrap();
    assert!(last < 0.5 * first, "from {first} to {last}");
}

/// Every architecture, with every matrix that can be adapted, learns.
#[test]
fn every_architecture_trains() {
    for arch in ARCHITECTURES {
        for ty in [GgmlType::F32, GgmlType::Q8_0, GgmlType::TQ2_0] {
            let m = load(Gguf::from_bytes(tiny(*arch, ty, ty == GgmlType::TQ2_0, 5)).unwrap(), 2, SimdLevel::detect());
            let has = |role: TensorRole| m.weights().keys().any(|n| n.role == role);
            let tied = !has(TensorRole::Output);
            let roles: Vec<_> = TensorRole::ALL
                .iter()
                .copied()
                .filter(|&r| has(r) && (r.takes_lora() || r == TensorRole::TokenEmbd && !tied))
                .collect();
            let adapter = Adapter::new(&m, &roles, 4, 8.0, 3).unwrap();
            let options = TrainOptions { batch_size: 1, ..options() };
            let mut t = Trainer::new(m.clone(), adapter, options, 128).unwrap();
            let tokens: Vec<u32> = (0..33).map(|i| 3 + i * 7 % 50).collect();
            let window = Window {
                tokens: tokens[..32].to_vec(),
                labels: tokens[1..].to_vec(),
                weights: vec![1.0; 32],
                positions: (0..32).collect(),
                first: vec![0; 32],
            };
            let first = t.fit(std::slice::from_ref(&window)).unwrap().loss;
            let last = (0..15).map(|_| t.fit(std::slice::from_ref(&window)).unwrap().loss).last().unwrap();
            assert!(last < first, "{} {ty}: from {first} to {last}", arch.name());
            // The first step's loss is that of the model alone, which inference computes with a cache.
            let rows = logits(&m, &window.tokens, 32);
            let loss = |(row, &label): (&[f32], &u32)| {
                let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                sum.ln() - f64::from(row[label as usize])
            };
            let want = rows.chunks_exact(N_VOCAB as usize).zip(&window.labels).map(loss).sum::<f64>() / 32.0;
            assert!((f64::from(first) - want).abs() < 1e-4 * want, "{} {ty}: {first}, not {want}", arch.name());
        }
    }
}

#[test]
fn resuming_is_never_having_stopped() {
    let m = bitnet(2, SimdLevel::detect());
    let data = shakespeare(&m);
    let dir = tempfile::tempdir().unwrap();
    let (settings, summary) = (vec![("--x".into(), "1".into())], Summary { rank: 8, alpha: 16.0, target_modules: 127 });
    let options = TrainOptions { batch_size: 2, dropout: 0.1, shuffle: true, ..options() };
    let start = || trainer(&m, adapter(&m, "lora/adapter-initial.gguf"), options.clone(), &data);
    let mut t = start();
    for step in 1..=6 {
        t.step(&data.train).unwrap();
        if step == 3 {
            t.save(dir.path(), 2, &settings, summary).unwrap();
        }
    }
    let mut resumed = start();
    let latest = checkpoint::latest(dir.path()).unwrap().unwrap();
    resumed.resume(checkpoint::load(&latest).unwrap(), &settings).unwrap();
    while resumed.progress().iteration < 6 {
        resumed.step(&data.train).unwrap();
    }
    assert_eq!(t.progress(), resumed.progress());
    assert_eq!(bits(&values(&mut t)), bits(&values(&mut resumed)));

    let other = vec![("--x".into(), "2".into())];
    let refused = start().resume(checkpoint::load(&latest).unwrap(), &other);
    assert!(matches!(refused, Err(Error::Checkpoint { ref what, .. }) if what.contains("--x 1")), "{refused:?}");
}

/// QVAC Fabric's checkpoints are ours without the keys `fabric.*`: adapter, moments and step count are taken over.
#[test]
fn a_checkpoint_of_qvac_fabric_is_resumed_from() {
    let m = bitnet(2, SimdLevel::detect());
    let data = shakespeare(&m);
    let dir = tempfile::tempdir().unwrap();
    let (settings, summary) = (vec![("--x".into(), "1".into())], Summary { rank: 8, alpha: 16.0, target_modules: 127 });
    let options = TrainOptions { batch_size: 1, ..options() };
    let start = || trainer(&m, adapter(&m, "lora/adapter-initial.gguf"), options.clone(), &data);
    let mut t = start();
    for _ in 0..2 {
        t.step(&data.train).unwrap();
    }
    let folder = t.save(dir.path(), 1, &settings, summary).unwrap();
    let text = std::fs::read_to_string(folder.join("metadata.txt")).unwrap();
    assert_eq!(text, "epoch=0\nlora_rank=8\nlora_alpha=16\ntarget_modules=127\n");
    let ours = Gguf::read(folder.join("optimizer.gguf")).unwrap();
    let mut keys = Metadata::new();
    for (key, value) in ours.metadata().iter().filter(|(key, _)| !key.starts_with("fabric.")) {
        keys.insert(key, value.clone());
    }
    assert_eq!(keys.require_i64("optimizer.iteration").unwrap(), 3, "the step that is to come");
    let mut writer = Writer::new(keys).unwrap();
    for t in ours.tensors() {
        writer.add_tensor(&t.name, t.ty, &t.ne[..t.n_dims as usize]).unwrap();
    }
    let mut out = writer.create(folder.join("optimizer.gguf")).unwrap();
    for t in ours.tensors() {
        out.write_tensor(&t.name, ours.data(t)).unwrap();
    }
    out.finish().unwrap();

    let theirs = checkpoint::load(&folder).unwrap();
    assert!(theirs.settings.is_none());
    let mut resumed = start();
    resumed.resume(theirs, &settings).unwrap();
    t.step(&data.train).unwrap();
    resumed.step(&data.train).unwrap();
    assert_eq!(bits(&values(&mut t)), bits(&values(&mut resumed)));

    // It counts the steps of all epochs.
    let mut theirs = checkpoint::load(&folder).unwrap();
    theirs.progress.position = u64::from(data.train.len()) * 2 + 1;
    let mut resumed = start();
    resumed.resume(theirs, &settings).unwrap();
    let step = resumed.step(&data.train).unwrap().unwrap();
    let progress = resumed.progress();
    assert_eq!((step.epoch, step.tokens, progress.epoch, progress.position), (2, 128, 2, 2));
}

#[test]
fn a_gradient_that_is_no_number_stops_the_run() {
    let m = bitnet(1, SimdLevel::detect());
    let data = shakespeare(&m);
    let mut adapter = adapter(&m, "lora/adapter-final.gguf");
    let name = TensorRole::FfnDown.weight(5);
    adapter.pairs.get_mut(&name).unwrap().a[3] = f32::MAX;
    let mut t = trainer(&m, adapter, options(), &data);
    let before = bits(&values(&mut t));
    let error = t.step(&data.train).unwrap_err();
    assert!(matches!(error, Error::NotFinite { step: 1, .. }), "{error}");
    assert_eq!(before, bits(&values(&mut t)), "the adapter was changed");
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let file = Gguf::open(model("tiny-bitnet-TQ2_0.gguf")).unwrap();
    let mut writer = Writer::new(file.metadata().clone()).unwrap();
    for t in file.tensors() {
        writer.add_tensor(&t.name, t.ty, &t.ne[..t.n_dims as usize]).unwrap();
    }
    let mut out = writer.start(Vec::new()).unwrap();
    for t in file.tensors() {
        let mut bytes = file.data(t).to_vec();
        if t.name == "blk.3.ffn_norm.weight" {
            bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        out.write_tensor(&t.name, &bytes).unwrap();
    }
    let m = load(Gguf::from_bytes(out.into_inner().unwrap()).unwrap(), 1, SimdLevel::detect());
    let data = shakespeare(&m);
    let mut t = trainer(&m, adapter(&m, "lora/adapter-final.gguf"), options(), &data);
    let error = t.step(&data.train).unwrap_err();
    assert!(
        matches!(&error, Error::BrokenModel { step: 1, tensor, .. } if tensor == "blk.3.ffn_norm.weight"),
        "{error}"
    );
}
