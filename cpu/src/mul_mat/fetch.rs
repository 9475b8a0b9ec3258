//! Fetching weights from memory before they are needed.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::{Job, vector::Simd};
#[cfg(target_arch = "x86_64")]
use std::cell::Cell;

/// How far the fetches run ahead, in bytes. They go to the L2 cache, once for every line: on a Zen 4 core this reads
/// at the full 32 GB/s, but 14 GB/s where one line in 33 is left out, and 15 GB/s where it runs 2 KB ahead to L1.
#[cfg(target_arch = "x86_64")]
const DISTANCE: usize = 16 * 1024;
/// How much of its next weights a thread fetches while it waits for others: what stays in a small L2 cache.
const WAITING: usize = 96 * 1024;
const LINE: usize = 64;

/// Addresses, of which those before `next` have been asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    start: usize,
    next: usize,
    end: usize,
}

impl Stretch {
    fn new(Range { start, end }: Range<usize>) -> Self {
        Stretch { start, next: start, end }
    }

    fn is(&self, range: &Range<usize>) -> bool {
        (self.start, self.end) == (range.start, range.end)
    }
}

/// The weights that a thread reads now, and those that it will read after them. Memory must never rest: while the last of
/// the one arrive and are multiplied, the first of the other are on their way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fetch {
    now: Stretch,
    then: Stretch,
}

impl Fetch {
    /// The addresses `now` are read, then `then`. What had been asked for before is remembered.
    pub fn go_on(&mut self, now: Range<usize>, then: Range<usize>) {
        self.now = if self.then.is(&now) { self.then } else { Stretch::new(now) };
        self.then = Stretch::new(then);
    }

    /// Fetches one line of what is read next, unless enough of it has been.
    #[inline]
    pub(crate) fn while_waiting(&mut self) -> bool {
        let then = &mut self.then;
        if then.next >= then.end.min(then.start.saturating_add(WAITING)) {
            return false;
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE is there on every x86-64, and fetching does nothing where nothing is mapped.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(then.next as *const i8);
        }
        then.next += LINE;
        true
    }
}

/// Fetches the rows of a job, each line once, and the beginning of what comes after it.
#[cfg(target_arch = "x86_64")]
pub(super) struct Ahead<'a> {
    next: usize,
    end: usize,
    of: &'a Cell<Fetch>,
}

#[cfg(target_arch = "x86_64")]
impl<'a> Ahead<'a> {
    pub(super) fn new(job: &Job<'a>) -> Self {
        let Stretch { next, end, .. } = job.fetch.get().now;
        Ahead { next, end, of: job.fetch }
    }

    /// To be called before `p` is read.
    ///
    /// # Safety
    /// The CPU has the features of `S`.
    #[inline(always)]
    pub(super) unsafe fn of<S: Simd>(&mut self, p: *const u8) {
        // SAFETY: the caller's promise.
        unsafe { self.up_to::<S>(p.wrapping_add(DISTANCE)) }
    }

    /// Fetches what lies before `p`.
    ///
    /// # Safety
    /// The CPU has the features of `S`.
    #[inline(always)]
    pub(super) unsafe fn up_to<S: Simd>(&mut self, p: *const u8) {
        let p = p as usize;
        while self.next < p {
            if self.next >= self.end {
                // SAFETY: the caller's promise.
                return unsafe { self.beyond::<S>(p - self.end) };
            }
            // SAFETY: the caller's promise; only an address: fetching what is not there does nothing.
            unsafe { S::prefetch(self.next as *const u8) };
            self.next += LINE;
        }
    }

    /// Fetches the first `bytes` of what comes after the job.
    #[inline(always)]
    unsafe fn beyond<S: Simd>(&mut self, bytes: usize) {
        let mut fetch = self.of.get();
        let then = &mut fetch.then;
        let end = then.end.min(then.start.saturating_add(bytes));
        while then.next < end {
            // SAFETY: as in `up_to`.
            unsafe { S::prefetch(then.next as *const u8) };
            then.next += LINE;
        }
        self.of.set(fetch);
    }
}
