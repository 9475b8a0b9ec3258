//! Models whose ternary weights were repacked give the same bits, and forget nothing but the memory that the file's took.

use fabric_cpu::simd::SimdLevel;
use fabric_tests::golden::model;
use fabric_tests::models::{bits, load, load_repacked, logits};
use gguf::Gguf;

const FILES: [&str; 2] = ["tiny-bitnet-TQ1_0.gguf", "tiny-bitnet-TQ2_0.gguf"];

fn open(name: &str) -> Gguf {
    Gguf::open(model(name)).unwrap()
}

#[test]
fn logits_have_the_bits_of_the_file() {
    let tokens: Vec<u32> = (0..60).map(|i| 1 + i * 37 % 500).collect();
    for name in FILES {
        for level in SimdLevel::available() {
            let want = bits(&logits(&load(open(name), 1, level), &tokens, 64));
            for (threads, batch) in [(1, 1), (2, 7), (3, 64)] {
                let got = logits(&load_repacked(open(name), threads, level), &tokens, batch);
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
        let loaded = load_repacked(open(name), 2, SimdLevel::detect());
        for (a, b) in before.tensors().iter().zip(loaded.gguf().tensors()) {
            assert!(before.data(a) == loaded.gguf().data(b), "{name}: {}", a.name);
        }
        let repacked = loaded.weights().values().filter(|w| w.buffer.len() != w.desc.extent()).count();
        let layers = loaded.hparams().n_layer;
        // q, k, v, o, gate, up and down of each layer, or nothing at all.
        assert!(repacked == 7 * layers || repacked == 0, "{name}: {repacked} repacked in {layers} layers");
        if matches!(SimdLevel::detect(), SimdLevel::Avx2 | SimdLevel::AvxVnni) {
            assert!(repacked > 0, "{name}: nothing was repacked");
        }
        #[cfg(target_arch = "x86_64")]
        if SimdLevel::detect() >= SimdLevel::Avx512Vnni && is_x86_feature_detected!("avx512vbmi") {
            assert!(repacked > 0, "{name}: nothing was repacked");
        }
    }
}
