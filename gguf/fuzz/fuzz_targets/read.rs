//! Opens bytes as a model and uses all of it. What this finds goes into `corpus/read`, which the ordinary tests replay.
#![no_main]

#[path = "../../tests/broken_files/rewrite.rs"]
mod rewrite;
#[path = "../../tests/broken_files/walk.rs"]
mod walk;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = walk::walk(bytes);
});
