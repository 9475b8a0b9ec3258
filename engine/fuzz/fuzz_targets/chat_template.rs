//! Takes text as a chat template and uses all of it. What this finds becomes a test.
#![no_main]

#[allow(dead_code)]
#[path = "../../tests/mutations/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|text: &str| exercise::chat_template(text));
