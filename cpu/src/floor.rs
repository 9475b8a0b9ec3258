//! What this machine could do at best: how fast its memory can be read, and how many int8 products it computes.
//!
//! The time of a generated token cannot fall below that of reading the weights, nor the time of a prompt below that of
//! its products. Benchmarks hold the engine to both.

use crate::memory::Memory;
use crate::simd::SimdLevel;
use crate::{CpuBackend, CpuOptions};
use ggml_ops::OpError;
use ggml_ops::backend::Backend;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

#[cfg(target_arch = "x86_64")]
use crate::mul_mat::vector::Simd;

/// What a thread reads before it asks for more.
const PORTION: usize = 2 << 20;
/// How long each measurement takes, at least.
const DURATION: Duration = Duration::from_millis(200);
/// Passes of a measurement, at least; the fastest counts, as what disturbs a pass only makes it slower.
const PASSES: usize = 6;
/// Two operations (a product and a sum) for each of the bytes that a dot product takes at once.
const OPS_PER_DOT: usize = 2 * 64;

/// A set of threads at a SIMD level whose limits can be measured.
pub struct Floor {
    backend: CpuBackend,
}

impl Floor {
    /// Starts the threads.
    ///
    /// # Errors
    /// As [`CpuBackend::new`].
    pub fn new(options: CpuOptions) -> Result<Floor, OpError> {
        Ok(Floor { backend: CpuBackend::new(options)? })
    }

    /// The threads and the level, for people.
    pub fn describe(&self) -> String {
        self.backend.describe()
    }

    /// Bytes per second that all threads together read from `bytes` of fresh memory. Those should be more than the
    /// caches hold.
    ///
    /// # Errors
    /// Where the memory cannot be had.
    pub fn memory_bandwidth(&self, bytes: usize) -> Result<f64, OpError> {
        let memory = Memory::new(bytes)?;
        // SAFETY: the memory has that many bytes, and is nobody else's. Writing gives it pages of its own.
        let data = unsafe {
            memory.as_ptr().write_bytes(1, bytes);
            std::slice::from_raw_parts(memory.as_ptr(), bytes)
        };
        Ok(self.read_bandwidth(&[data]))
    }

    /// Bytes per second that all threads together read from these bytes, such as the weights of a mapped file; the
    /// first pass brings them into memory.
    pub fn read_bandwidth(&self, data: &[&[u8]]) -> f64 {
        let portions: Vec<&[u8]> = data.iter().flat_map(|d| d.chunks(PORTION)).collect();
        let bytes: usize = portions.iter().map(|p| p.len()).sum();
        let (mut level, mut other) = (self.backend.level, SimdLevel::Scalar);
        let held = self.backend.pool.hold();
        best(|| {
            // Fetching ahead, and leaving that to the processor: which is faster depends on it.
            std::mem::swap(&mut level, &mut other);
            let (level, next) = (level, AtomicUsize::new(0));
            held.run(&|_| {
                while let Some(portion) = portions.get(next.fetch_add(1, Relaxed)) {
                    read(level, portion);
                }
            });
            bytes
        })
    }

    /// int8 operations per second (two for each product) of all threads together, with operands at hand: in the
    /// instructions that the kernels for ternary weights are made of, exact sums included.
    pub fn int8_peak(&self) -> f64 {
        let (level, held) = (self.backend.level, self.backend.pool.hold());
        let measure = |dots: &(dyn Fn() -> usize + Sync)| {
            best(|| {
                let sum = AtomicUsize::new(0);
                held.run(&|_| {
                    sum.fetch_add(dots(), Relaxed);
                });
                sum.into_inner() * OPS_PER_DOT
            })
        };
        #[cfg(target_arch = "x86_64")]
        if level == SimdLevel::Amx {
            // SAFETY: a backend only takes a level that the processor has.
            return measure(&|| unsafe { crate::amx::multiply_in_registers() });
        }
        #[cfg(target_arch = "x86_64")]
        if level != SimdLevel::Scalar {
            // Which tile keeps the units busiest depends on the processor.
            let rates = [
                measure(&|| at_level(level, &Dots::<4, 4>)),
                measure(&|| at_level(level, &Dots::<2, 4>)),
                measure(&|| at_level(level, &Dots::<4, 2>)),
                measure(&|| at_level(level, &Dots::<2, 2>)),
                measure(&|| at_level(level, &Dots::<1, 4>)),
            ];
            return rates.into_iter().fold(0.0, f64::max);
        }
        let _ = level;
        measure(&scalar_dots)
    }
}

/// The best rate per second of passes that return how much they did.
fn best(mut pass: impl FnMut() -> usize) -> f64 {
    let start = Instant::now();
    let (mut best, mut passes) = (0f64, 0);
    while passes < PASSES || start.elapsed() < DURATION {
        let begin = Instant::now();
        let amount = pass();
        best = best.max(amount as f64 / begin.elapsed().as_secs_f64().max(1e-9));
        passes += 1;
    }
    best
}

fn read(level: SimdLevel, data: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if level != SimdLevel::Scalar {
        return at_level(level, &Read(data));
    }
    let _ = level;
    let words = data.as_chunks::<8>().0;
    black_box(words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)));
}

fn scalar_dots() -> usize {
    const ROUNDS: usize = 4000;
    let (weights, x) = (vec![1i8; 1024], vec![-3i8; 1024]);
    for _ in 0..ROUNDS {
        let (weights, x) = (black_box(&*weights), black_box(&*x));
        let products = weights.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x));
        black_box(products.fold(0, i32::wrapping_add));
    }
    ROUNDS * 1024 / 64
}

/// Work that is compiled for each level.
#[cfg(target_arch = "x86_64")]
trait Work {
    type Output;
    /// # Safety
    /// The CPU has the features of `S`.
    unsafe fn run<S: Simd>(&self) -> Self::Output;
}

/// Runs it at a level other than `Scalar`, which the processor has.
#[cfg(target_arch = "x86_64")]
fn at_level<W: Work>(level: SimdLevel, work: &W) -> W::Output {
    use crate::mul_mat::vector_avx2::{Avx2, AvxVnni, Instruction};
    use crate::mul_mat::vector_avx512::{Avx512, Avx512Vnni};

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<W: Work>(work: &W) -> W::Output {
        // SAFETY: the features are enabled.
        unsafe { work.run::<Avx2>() }
    }
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    unsafe fn avx_vnni<W: Work>(work: &W) -> W::Output {
        // SAFETY: the features are enabled.
        unsafe { work.run::<AvxVnni<Instruction>>() }
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn avx512<W: Work>(work: &W) -> W::Output {
        // SAFETY: the features are enabled.
        unsafe { work.run::<Avx512>() }
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn avx512_vnni<W: Work>(work: &W) -> W::Output {
        // SAFETY: the features are enabled.
        unsafe { work.run::<Avx512Vnni>() }
    }
    // SAFETY: a backend only takes a level that the processor has.
    unsafe {
        match level {
            SimdLevel::Scalar => unreachable!("plain loops are no vector work"),
            SimdLevel::Avx2 => avx2(work),
            SimdLevel::Avx512 => avx512(work),
            SimdLevel::AvxVnni => avx_vnni(work),
            SimdLevel::Avx512Vnni | SimdLevel::Amx => avx512_vnni(work),
        }
    }
}

/// Reads bytes once, in order, with the fetches that the kernels use.
#[cfg(target_arch = "x86_64")]
struct Read<'a>(&'a [u8]);

#[cfg(target_arch = "x86_64")]
impl Work for Read<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(&self) {
        const AHEAD: usize = 16 * 1024;
        // SAFETY: the features are the caller's promise; a chunk has 256 bytes, and fetching beyond the end does nothing.
        unsafe {
            let mut all = [S::zero(); 4];
            for chunk in self.0.as_chunks::<256>().0 {
                let p = chunk.as_ptr();
                for (i, all) in all.iter_mut().enumerate() {
                    S::prefetch(p.wrapping_add(AHEAD + 64 * i));
                    *all = S::or(*all, S::load(p.add(64 * i)));
                }
            }
            let mut out = [0u8; 64];
            S::store(out.as_mut_ptr(), S::or(S::or(all[0], all[1]), S::or(all[2], all[3])));
            black_box(out);
        }
    }
}

/// Tiles of R rows of codes and T tokens that stay in the L1 cache.
#[cfg(target_arch = "x86_64")]
struct Dots<const R: usize, const T: usize>;

#[cfg(target_arch = "x86_64")]
impl<const R: usize, const T: usize> Work for Dots<R, T> {
    type Output = usize;

    /// Returns the number of dot products of 64 bytes.
    #[inline(always)]
    unsafe fn run<S: Simd>(&self) -> usize {
        const BYTES: usize = 1024;
        const ROUNDS: usize = 4000;
        let steps = S::RUN.min(256);
        let (codes, x) = ([[2u8; BYTES]; R], [[3u8; BYTES]; T]);
        // SAFETY: the features are the caller's promise; every load is within its row of BYTES.
        unsafe {
            let mut totals = [[S::acc_zero(); T]; R];
            for _ in 0..ROUNDS {
                // So that no round can be left out.
                let (codes, x) = (black_box(&codes), black_box(&x));
                let mut acc = [[S::acc_zero(); T]; R];
                for step in 0..steps {
                    let at = step * 64 % BYTES;
                    let mut rows = [S::zero(); R];
                    for r in 0..R {
                        rows[r] = S::load(codes[r].as_ptr().add(at));
                    }
                    for t in 0..T {
                        let x = S::load(x[t].as_ptr().add(at));
                        for r in 0..R {
                            acc[r][t] = S::acc_dot(acc[r][t], rows[r], x);
                        }
                    }
                }
                for r in 0..R {
                    for t in 0..T {
                        totals[r][t] = S::acc_flush(totals[r][t], acc[r][t]);
                    }
                }
            }
            for total in totals.as_flattened() {
                black_box(S::acc_sum4([*total; 4]));
            }
        }
        ROUNDS * steps * R * T
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bounds that no machine of this decade leaves: a loop that the compiler threw away would.
    #[test]
    fn rates_are_those_of_a_machine() {
        for level in SimdLevel::available() {
            let floor =
                Floor::new(CpuOptions { threads: Some(1), simd: Some(level), ..CpuOptions::default() }).unwrap();
            let bandwidth = floor.memory_bandwidth(64 << 20).unwrap();
            assert!((1e8..1e12).contains(&bandwidth), "{level}: {bandwidth} bytes/s");
            let peak = floor.int8_peak();
            assert!((1e8..4e13).contains(&peak), "{level}: {peak} ops/s");
            println!("{level}: {:.1} GB/s, {:.3} TOPS", bandwidth / 1e9, peak / 1e12);
        }
        let floor = Floor::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
        assert_eq!(floor.read_bandwidth(&[]), 0.0);
    }
}
