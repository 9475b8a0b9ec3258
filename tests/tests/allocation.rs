//! Generating allocates nothing once it is under way. This test is a program of its own: the allocator is the whole
//! process's.

use fabric_cpu::simd::SimdLevel;
use fabric_engine::{Batch, Context, ContextOptions};
use fabric_tests::golden::model;
use fabric_tests::models::load;
use gguf::Gguf;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_token_allocates_nothing() {
    for name in ["tiny-bitnet-TQ2_0.gguf", "tiny-bitnet-f16.gguf"] {
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
        assert_eq!(count, 0, "{name}: {count} allocations in 32 tokens ({sum})");
    }
}
