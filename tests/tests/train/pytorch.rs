//! Against PyTorch: `fixtures/lora` is a run of its AdamW on the tiny BitNet with int8 activations, `fixtures/train` has
//! gradients of its autograd in f64.

use crate::{adapter, options, relative_error, shakespeare, tensor, trainer};
use fabric_cpu::simd::SimdLevel;
use fabric_engine::train::dataset::Window;
use fabric_engine::train::{TrainOptions, Trainer};
use fabric_tests::golden::{fixture, model};
use fabric_tests::models::load;
use gguf::{Gguf, Metadata, Writer};

/// The bitnet-b1.58 file as architecture `bitnet`, whose activation is SiLU.
fn as_bitnet(file: &Gguf) -> Gguf {
    let mut m = Metadata::new();
    for (key, value) in file.metadata().iter().filter(|(key, _)| !key.ends_with("hidden_activation")) {
        m.insert(key.replace("bitnet-b1.58.", "bitnet."), value.clone());
    }
    m.insert(gguf::key::GENERAL_ARCHITECTURE, "bitnet");
    let mut writer = Writer::new(m).unwrap();
    for t in file.tensors() {
        writer.add_tensor(&t.name, t.ty, &t.ne[..t.n_dims as usize]).unwrap();
    }
    let mut out = writer.start(Vec::new()).unwrap();
    for t in file.tensors() {
        out.write_tensor(&t.name, file.data(t)).unwrap();
    }
    Gguf::from_bytes(out.into_inner().unwrap()).unwrap()
}

#[test]
fn gradients_of_float_models() {
    for arch in ["llama", "phi3", "bitnet-b1.58", "bitnet"] {
        let base = if arch == "bitnet" { "bitnet-b1.58" } else { arch };
        let file = Gguf::open(fixture(&format!("archs/{base}-f32.gguf"))).unwrap();
        let file = if arch == "bitnet" { as_bitnet(&file) } else { file };
        // The window is of 128 positions, for which phi3 has its factors of long contexts.
        let text = if arch == "phi3" { "phi3.long" } else { base };
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(fixture(&format!("archs/{text}.json"))).unwrap()).unwrap();
        let tokens: Vec<u32> = json["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
        let n = tokens.len() - 1;
        let window = Window {
            labels: tokens[1..].to_vec(),
            tokens: tokens[..n].to_vec(),
            weights: vec![1.0; n],
            positions: (0..n as u32).collect(),
            first: vec![0; n],
        };
        let m = load(file, 2, SimdLevel::detect());
        let want = Gguf::open(fixture(&format!("train/{arch}-grads.gguf"))).unwrap();
        for recompute in [false, true] {
            let options = TrainOptions { recompute: Some(recompute), ..options() };
            let adapter = adapter(&m, &format!("train/{arch}-adapter.gguf"));
            let mut t = Trainer::new(m.clone(), adapter, options, 128).unwrap();
            let (loss, grads) = t.gradients(std::slice::from_ref(&window)).unwrap();
            let expected = want.metadata().require_f64("loss").unwrap();
            assert!((f64::from(loss) - expected).abs() < 1e-4 * expected, "{arch}: loss {loss}, expected {expected}");
            assert_eq!(grads.len(), want.tensors().len(), "{arch}");
            for (name, grad) in grads {
                let error = relative_error(&grad, &tensor(&want, &name));
                assert!(error < 1e-4, "{arch}: {name} is off by {error:.1e}");
            }
        }
    }
}

#[test]
fn the_reference_run() {
    let run: serde_json::Value = serde_json::from_slice(&std::fs::read(fixture("lora/run.json")).unwrap()).unwrap();
    let m = load(Gguf::open(model("tiny-bitnet-TQ2_0.gguf")).unwrap(), 2, SimdLevel::detect());
    let data = shakespeare(&m);
    let mut t = trainer(&m, adapter(&m, "lora/adapter-initial.gguf"), options(), &data);

    // B is zero, so A has no gradient yet.
    let want = Gguf::open(fixture("lora/step0-grads.gguf")).unwrap();
    let windows: Vec<Window> = (0..4).map(|i| data.train.window(i).unwrap()).collect();
    let (_, grads) = t.gradients(&windows).unwrap();
    for (name, grad) in grads {
        if name.ends_with(".lora_a") {
            assert!(grad.iter().all(|&g| g == 0.0), "{name}");
            continue;
        }
        let error = relative_error(&grad, &tensor(&want, &name));
        assert!(error < 0.02, "{name} is off by {error:.1e}");
    }

    // The same run with norms in f64 is up to 2.6e-3 away: int8 rounding makes BitNet chaotic.
    for i in 0..50 {
        let step = t.step(&data.train).unwrap().unwrap();
        let want = run["losses"][i].as_f64().unwrap();
        assert!((f64::from(step.loss) - want).abs() < 1e-2, "step {i}: loss {}, expected {want}", step.loss);
    }
}
