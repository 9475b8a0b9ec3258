//! The tiny model as bitnet.cpp would store it: packed by the description of I2_S, with the bits of the TQ2_0 file.

use fabric_cpu::simd::SimdLevel;
use fabric_engine::arch::{self, HParams};
use fabric_engine::{Model, ModelOptions};
use fabric_tests::backends::cpu;
use fabric_tests::models::{bits, load, logits};
use ggml_ops::ops::GluKind;
use ggml_ops::quants;
use gguf::{GgmlType, Gguf, Metadata, Value, Writer};

fn tiny() -> Gguf {
    Gguf::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-bitnet-TQ2_0.gguf")).unwrap()
}

/// Ternary tensors as I2_S, their scales times `factor`.
fn as_i2_s(model: &Gguf, factor: f32) -> Gguf {
    let is_ternary = |ty| ty == GgmlType::TQ2_0;
    let mut writer = Writer::new(model.metadata().clone()).unwrap();
    for t in model.tensors() {
        let ty = if is_ternary(t.ty) { GgmlType::I2_S } else { t.ty };
        writer.add_tensor(&t.name, ty, &t.ne).unwrap();
    }
    let mut out = writer.start(Vec::new()).unwrap();
    for t in model.tensors() {
        let data = model.data(t);
        if !is_ternary(t.ty) {
            out.write_tensor(&t.name, data).unwrap();
            continue;
        }
        let scale = quants::uniform_ternary_scale(t.ty, data).unwrap();
        let mut w = vec![0.0; t.n_elements()];
        quants::dequantize(t.ty, data, &mut w).unwrap();
        let mut packed = vec![0u8; w.len() / 4];
        for (i, w) in w.iter().enumerate() {
            let code = if *w < 0.0 {
                0
            } else if *w > 0.0 {
                2
            } else {
                1
            };
            packed[i / 128 * 32 + i % 32] |= code << (6 - i % 128 / 32 * 2);
        }
        packed.extend((scale * factor).to_le_bytes());
        packed.extend([0xa5; 28]);
        out.write_tensor(&t.name, &packed).unwrap();
    }
    Gguf::from_bytes(out.into_inner().unwrap()).unwrap()
}

#[test]
fn the_same_weights_give_the_same_bits() {
    let tokens: Vec<u32> = (0..40).map(|i| (i * 97 + 5) % 4096).collect();
    let run = |file: Gguf, level| {
        let model = load(file, 2, level);
        assert_eq!(model.notices().len(), usize::from(model.gguf().tensors().iter().any(|t| t.ty == GgmlType::I2_S)));
        logits(&model, &tokens, 16)
    };
    let want = run(tiny(), SimdLevel::detect());
    for level in SimdLevel::available() {
        assert!(bits(&run(as_i2_s(&tiny(), 1.0), level)) == bits(&want), "{level}");
    }
    // The scale is used as it is in the file, not as f16: this is less than half a step of f16 away, and shows.
    let finer = run(as_i2_s(&tiny(), 1.0 + 1.0 / 16384.0), SimdLevel::detect());
    assert!(bits(&finer) != bits(&want));
    let largest = finer.iter().zip(&want).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(largest < 0.5, "{largest}");
}

/// Hyperparameters of BitNet-b1.58-2B-4T, with these keys besides.
fn read_2b_4t(n_layer: u32, arch_name: &str, more: &[(&str, Value)]) -> (HParams, Vec<String>) {
    let mut m = Metadata::new();
    for (key, value) in [
        ("embedding_length", 2560),
        ("feed_forward_length", 6912),
        ("block_count", n_layer),
        ("attention.head_count", 20),
        ("attention.head_count_kv", 5),
        ("context_length", 4096),
    ] {
        m.insert(format!("{arch_name}.{key}"), value);
    }
    m.insert(format!("{arch_name}.attention.layer_norm_rms_epsilon"), 1e-5f32);
    for (key, value) in more {
        m.insert(*key, value.clone());
    }
    let arch = arch::find(arch_name).unwrap();
    let hp = HParams::read(&m, arch, 128256).unwrap();
    let notices = hp.notices(&m, arch);
    (hp, notices)
}

#[test]
fn bitnet_2b_4t_is_known_by_its_shape() {
    let (hp, notices) = read_2b_4t(30, "bitnet", &[]);
    assert_eq!(hp.activation, GluKind::Reglu2);
    assert!(notices.len() == 1 && notices[0].contains("BitNet-b1.58-2B-4T"), "{notices:?}");
    assert!(!notices[0].contains('\n'));
    // The metadata decides, either way.
    for (name, kind) in [("silu", GluKind::Swiglu), ("relu2", GluKind::Reglu2)] {
        let (hp, notices) = read_2b_4t(30, "bitnet", &[("bitnet.hidden_activation", name.into())]);
        assert_eq!((hp.activation, notices), (kind, Vec::new()));
    }
    // Another shape, and the architecture that says so itself.
    assert_eq!(read_2b_4t(29, "bitnet", &[]).0.activation, GluKind::Swiglu);
    let (hp, notices) = read_2b_4t(30, "bitnet-b1.58", &[]);
    assert_eq!((hp.activation, notices), (GluKind::Reglu2, Vec::new()));
}

#[test]
fn a_type_that_is_not_computed_is_named() {
    let tiny = tiny();
    let mut writer = Writer::new(tiny.metadata().clone()).unwrap();
    for t in tiny.tensors() {
        let ty = if t.name == "blk.3.ffn_up.weight" { GgmlType::IQ2_XS } else { t.ty };
        writer.add_tensor(&t.name, ty, &t.ne).unwrap();
    }
    let mut out = writer.start(Vec::new()).unwrap();
    for t in tiny.tensors() {
        if t.name == "blk.3.ffn_up.weight" {
            out.write_tensor(&t.name, &vec![0; t.n_elements() / 256 * 74]).unwrap();
        } else {
            out.write_tensor(&t.name, tiny.data(t)).unwrap();
        }
    }
    let file = Gguf::from_bytes(out.into_inner().unwrap()).unwrap();
    let error = Model::load(file, cpu(1, SimdLevel::detect()), ModelOptions::default()).err().unwrap().to_string();
    assert_eq!(error, "tensor 'blk.3.ffn_up.weight' has type IQ2_XS, expected one of those that Fabric computes with");
}
