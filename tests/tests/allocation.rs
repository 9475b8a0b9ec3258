//! Generating allocates nothing once it is under way. This test is a program of its own: the allocator is the whole
//! process's.

use fabric_cpu::simd::SimdLevel;
use fabric_engine::{Batch, Context, ContextOptions};
use fabric_tests::counting::{ALLOCATIONS, Counting};
use fabric_tests::golden::model;
use fabric_tests::models::{load, load_repacked};
use gguf::Gguf;
use std::sync::atomic::Ordering::Relaxed;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_token_allocates_nothing() {
    let models = [("tiny-bitnet-TQ2_0.gguf", false), ("tiny-bitnet-TQ2_0.gguf", true), ("tiny-bitnet-f16.gguf", false)];
    for (name, repack) in models {
        let load = if repack { load_repacked } else { load };
        let m = load(Gguf::open(model(name)).unwrap(), 2, SimdLevel::detect());
        let mut context = Context::new(m, ContextOptions::default()).unwrap();
        let batches: Vec<Batch> = (0..40).map(|pos| Batch::of(&[5 + pos as u32], 0, pos)).collect();
        let mut sum = 0.0;
        let mut before = 0;
        for (i, batch) in batches.iter().enumerate() {
            if i == 8 {
                before = ALLOCATIONS.load(Relaxed);
            }
            context.decode(batch, |_, logits| sum += logits[0]).unwrap();
        }
        let count = ALLOCATIONS.load(Relaxed) - before;
        assert_eq!(count, 0, "{name}, repacked: {repack}: {count} allocations in 32 tokens ({sum})");
    }
}
