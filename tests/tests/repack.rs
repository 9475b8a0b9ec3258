//! Models whose ternary weights were repacked give the same bits, and forget nothing but the memory that the file's took.

use fabric_cpu::simd::SimdLevel;
use fabric_engine::{Model, ModelOptions};
use fabric_tests::backends::cpu;
use fabric_tests::models::{bits, load, logits};
use gguf::Gguf;
use std::path::Path;
use std::sync::Arc;

const FILES: [&str; 2] = ["tiny-bitnet-TQ1_0.gguf", "tiny-bitnet-TQ2_0.gguf"];

fn open(name: &str) -> Gguf {
    Gguf::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name)).unwrap()
}

fn repacked(gguf: Gguf, threads: usize, simd: SimdLevel) -> Arc<Model> {
    let options = ModelOptions { repack: true, ..ModelOptions::default() };
    Arc::new(Model::load(gguf, cpu(threads, simd), options).unwrap())
}

#[test]
fn logits_have_the_bits_of_the_file() {
    let tokens: Vec<u32> = (0..60).map(|i| 1 + i * 37 % 500).collect();
    for name in FILES {
        for level in SimdLevel::available() {
            let want = bits(&logits(&load(open(name), 1, level), &tokens, 64));
            for (threads, batch) in [(1, 1), (2, 7), (3, 64)] {
                let got = logits(&repacked(open(name), threads, level), &tokens, batch);
                assert!(bits(&got) == want, "{name}, {level}, {threads} threads, {batch} at once");
            }
        }
    }
}

/// What is written there is read again: the pages of a mapped file come back.
#[test]
fn the_file_can_still_be_read() {
    for name in FILES {
        let before = open(name);
        let model = repacked(open(name), 2, SimdLevel::detect());
        for (a, b) in before.tensors().iter().zip(model.gguf().tensors()) {
            assert!(before.data(a) == model.gguf().data(b), "{name}: {}", a.name);
        }
        let smaller = model.weights().values().filter(|w| w.buffer.len() < w.desc.extent()).count();
        let layers = model.hparams().n_layer;
        // q, k, v, o, gate, up and down of each layer, or nothing at all.
        assert!(smaller == 7 * layers || smaller == 0, "{name}: {smaller} repacked in {layers} layers");
        #[cfg(target_arch = "x86_64")]
        if SimdLevel::detect() >= SimdLevel::Avx512Vnni && is_x86_feature_detected!("avx512vbmi") {
            assert!(smaller > 0, "{name}: nothing was repacked");
        }
    }
}
