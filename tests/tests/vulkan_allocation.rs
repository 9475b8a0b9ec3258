//! Generating on a Vulkan device is one submission a token once it is under way: nothing is allocated, recorded or built. This test is a program of
//! its own: the allocator is the whole process's.

use fabric_engine::{Batch, Context, ContextOptions, Model, ModelOptions};
use fabric_tests::counting::{ALLOCATIONS, Counting};
use fabric_tests::golden::model;
use fabric_tests::vulkan;
use fabric_vulkan::{Counts, VulkanOptions};
use gguf::Gguf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_token_is_one_submission() {
    for name in ["tiny-bitnet-TQ2_0.gguf", "tiny-bitnet-f16.gguf"] {
        let Some(gpu) = vulkan::open(VulkanOptions::default()) else { return };
        let gpu = Arc::new(gpu);
        let m = Model::load(Gguf::open(model(name)).unwrap(), gpu.clone(), ModelOptions::default()).unwrap();
        let mut context = Context::new(Arc::new(m), ContextOptions::default()).unwrap();
        let batches: Vec<Batch> = (0..40).map(|pos| Batch::of(&[5 + pos as u32], 0, pos)).collect();
        let mut sum = 0.0;
        let (mut before, mut allocated) = (Counts::default(), 0);
        for (i, batch) in batches.iter().enumerate() {
            if i == 8 {
                (before, allocated) = (gpu.counts(), ALLOCATIONS.load(Relaxed));
            }
            context.decode(batch, |_, logits| sum += logits[0]).unwrap();
        }
        let allocated = ALLOCATIONS.load(Relaxed) - allocated;
        let expected = Counts { submissions: before.submissions + 32, ..before };
        assert_eq!(gpu.counts(), expected, "{name}: 32 tokens ({sum})");
        // By the driver, which has an allocator of its own, they are not counted.
        assert_eq!(allocated, 0, "{name}: allocations on the host in 32 tokens");
    }
}
