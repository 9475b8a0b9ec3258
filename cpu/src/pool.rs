//! A pool of threads that run one job together, step by step, with a spinning barrier between steps.
//!
//! An own pool and not rayon's, because a token of a small model is a few hundred steps of some ten microseconds: one
//! fork and join per matrix costs a fifth of the memory bandwidth (docs/decisions.md).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// A job: called on every thread with its number.
type Job<'a> = &'a (dyn Fn(usize) + Sync);

/// Rounds of `spin_loop` before a waiting thread offers its core to others: a few microseconds, the time of the
/// steps that thread 0 does alone. More would be worse
/// where cores are shared: with both threads of a job on one core, each would wait this long for the other at every
/// barrier (measured: 100 microseconds of spinning make generation 40 times as slow beside a compiler).
const SPINS_BEFORE_YIELD: u32 = 200;
/// Yields before an idle worker goes to sleep, some 300 microseconds. Between the tokens of a text a worker waits for the
/// sampler, which takes up to that; waking it by the system would cost about as much.
const YIELDS_BEFORE_SLEEP: u32 = 500;

struct Shared {
    /// Counts jobs; a worker whose own count is behind has work.
    epoch: AtomicUsize,
    /// The job of the current epoch: a borrowed closure, valid until all workers have checked out.
    job: Mutex<Option<JobPtr>>,
    wake: Condvar,
    sleepers: AtomicUsize,
    running: AtomicUsize,
    stop: AtomicBool,
}

#[derive(Clone, Copy)]
struct JobPtr(*const (dyn Fn(usize) + Sync));
// SAFETY: it points to a closure that is Sync, and `Pool::run` does not return before all workers are done with it.
unsafe impl Send for JobPtr {}

/// Threads that run jobs together. The caller of [`run`](Held::run) is thread 0.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    held: Mutex<()>,
    barrier: Barrier,
}

/// The pool, held: nobody else runs jobs or touches states.
pub(crate) struct Held<'p> {
    pool: &'p Pool,
    _guard: MutexGuard<'p, ()>,
}

impl Pool {
    /// A pool of `threads` threads, the caller's included.
    pub(crate) fn new(threads: usize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: Mutex::new(None),
            wake: Condvar::new(),
            sleepers: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let threads = threads.max(1);
        let mut pool = Pool { shared, workers: Vec::new(), held: Mutex::new(()), barrier: Barrier::new(threads) };
        for i in 1..threads {
            let shared = pool.shared.clone();
            // If one cannot be started, dropping the pool ends the others.
            pool.workers
                .push(std::thread::Builder::new().name(format!("fabric-cpu-{i}")).spawn(move || shared.work(i))?);
        }
        Ok(pool)
    }

    /// Threads, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Waits until nobody else holds the pool.
    pub(crate) fn hold(&self) -> Held<'_> {
        Held { pool: self, _guard: self.held.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

impl Held<'_> {
    /// Calls `job` once on every thread, with the thread's number, and waits for all.
    pub(crate) fn run(&self, job: Job) {
        let shared = &self.pool.shared;
        if self.pool.workers.is_empty() {
            return job(0);
        }
        let pointer: *const (dyn Fn(usize) + Sync) = job;
        // SAFETY: only the lifetime changes. This function returns after `running` has come down to 0, that is after
        // the last worker's last use of the pointer, so the closure outlives every use.
        let pointer: *const (dyn Fn(usize) + Sync + 'static) = unsafe { std::mem::transmute(pointer) };
        shared.running.store(self.pool.workers.len(), Relaxed);
        *lock(&shared.job) = Some(JobPtr(pointer));
        shared.epoch.fetch_add(1, SeqCst);
        if shared.sleepers.load(SeqCst) > 0 {
            let _guard = lock(&shared.job);
            shared.wake.notify_all();
        }
        // A panic of thread 0 must not unwind past the workers that still use the closure. They wait for thread 0 at
        // the job's barriers, so there is no way on: like a panic in a worker, it ends the process.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(0)));
        if done.is_err() {
            std::process::abort();
        }
        let mut spins = 0;
        while shared.running.load(Acquire) > 0 {
            wait_a_little(&mut spins);
        }
    }

    /// Threads of a job.
    pub(crate) fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// A barrier for the job's threads.
    pub(crate) fn barrier(&self) -> &Barrier {
        &self.pool.barrier
    }
}

impl Shared {
    fn work(&self, thread: usize) {
        let mut seen = 0;
        loop {
            self.wait_for_job(seen);
            if self.stop.load(Acquire) {
                return;
            }
            seen += 1;
            let Some(JobPtr(job)) = *lock(&self.job) else { continue };
            // SAFETY: `run` waits for this worker (`running`) before the closure goes out of scope.
            let job = unsafe { &*job };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(thread))).is_err() {
                std::process::abort();
            }
            self.running.fetch_sub(1, Release);
        }
    }

    fn wait_for_job(&self, seen: usize) {
        let ready = || self.epoch.load(SeqCst) != seen || self.stop.load(Acquire);
        for _ in 0..YIELDS_BEFORE_SLEEP {
            if ready() {
                return;
            }
            std::thread::yield_now();
        }
        let mut guard = lock(&self.job);
        self.sleepers.fetch_add(1, SeqCst);
        while !ready() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Release);
        {
            let _guard = lock(&self.shared.job);
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait_a_little(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS_BEFORE_YIELD {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// A barrier that spins: its threads arrive within microseconds of each other.
pub(crate) struct Barrier {
    threads: usize,
    arrived: AtomicUsize,
    generation: AtomicUsize,
}

impl Barrier {
    fn new(threads: usize) -> Barrier {
        Barrier { threads, arrived: AtomicUsize::new(0), generation: AtomicUsize::new(0) }
    }

    /// Waits for all threads; what each wrote before is seen by all after. Meanwhile calls `idle`, until it says that
    /// it has nothing left to do.
    pub(crate) fn wait(&self, mut idle: impl FnMut() -> bool) {
        if self.threads == 1 {
            return;
        }
        let generation = self.generation.load(Acquire);
        if self.arrived.fetch_add(1, AcqRel) + 1 == self.threads {
            self.arrived.store(0, Relaxed);
            self.generation.store(generation.wrapping_add(1), Release);
            return;
        }
        let mut spins = 0;
        while self.generation.load(Acquire) == generation {
            if !idle() {
                wait_a_little(&mut spins);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_every_job_and_barriers_order_steps() {
        for threads in 1..=5 {
            let pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            for _ in 0..200 {
                let (first, second) = (AtomicUsize::new(0), AtomicUsize::new(0));
                let held = pool.hold();
                held.run(&|_| {
                    first.fetch_add(1, Relaxed);
                    held.barrier().wait(|| false);
                    assert_eq!(first.load(Relaxed), threads);
                    second.fetch_add(1, Relaxed);
                    held.barrier().wait(|| false);
                    assert_eq!(second.load(Relaxed), threads);
                });
            }
        }
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = Pool::new(3).unwrap();
        for pause in [0, 1, 30, 60] {
            std::thread::sleep(std::time::Duration::from_millis(pause));
            let count = AtomicUsize::new(0);
            pool.hold().run(&|_| {
                count.fetch_add(1, Relaxed);
            });
            assert_eq!(count.load(Relaxed), 3);
        }
    }
}
