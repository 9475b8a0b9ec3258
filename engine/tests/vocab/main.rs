//! Vocabularies against llama.cpp's ids: its own test files, cases recorded from it, properties, hostile files, and the
//! packages that implement the same algorithms.

mod cases;
mod hostile;
mod offsets;
mod packages;
mod properties;

use std::path::PathBuf;

use fabric_engine::vocab::Vocab;
use gguf::{Gguf, Metadata};

/// Every vocabulary in `models/` that has cases.
const VOCABS: [&str; 8] = ["deepseek-llm", "falcon", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "starcoder"];

fn models() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models")
}

fn fixture(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/vocab").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn metadata(name: &str) -> Metadata {
    Gguf::open(models().join(format!("ggml-vocab-{name}.gguf"))).unwrap().metadata().clone()
}

fn vocab(name: &str) -> Vocab {
    Vocab::from_metadata(&metadata(name)).unwrap()
}

/// A small generator of numbers, so that a failure can be repeated.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n as u64) as usize
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A text of words, white space, punctuation, scripts and code points at random.
    fn text(&mut self) -> String {
        const PARTS: &[&str] = &[
            "a",
            "Hello",
            " world",
            "THE",
            "CamelCase",
            "don't",
            "'LL",
            "1",
            "12345",
            " ",
            "  ",
            "    ",
            "\n",
            "\r\n",
            "\t",
            "é",
            "e\u{301}",
            "Ж",
            "中文",
            "日本語",
            "한국어",
            "हिन्दी",
            "עברית",
            "🙂",
            "👩\u{200D}👧",
            "!",
            "...",
            "_",
            "(",
            "</",
            "==",
            "“",
            "…",
            "\u{A0}",
            "\u{3000}",
            "\u{2581}",
            "\u{FEFF}",
            "\0",
            "\u{7F}",
            "Ġ",
            "<s>",
            "<|endoftext|>",
            "<0x41>",
        ];
        let mut text = String::new();
        for _ in 0..1 + self.below(14) {
            match self.below(8) {
                0 => text.extend(char::from_u32(self.below(0x1_1000) as u32)),
                _ => text.push_str(self.pick(PARTS)),
            }
        }
        text
    }
}
