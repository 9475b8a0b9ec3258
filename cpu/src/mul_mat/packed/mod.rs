//! Ternary weights with one scale, stored once more in fewer bits than in the file, so that a token reads less of them: in
//! 1.6 bits each, or 1.67, where TQ2_0 has 2.06 and TQ1_0 1.69 (short rows, which end in a broken group, apart).
//!
//! For one token, what the few weights of a code sum up to is found in a table of their activations; the rows of a vector share the
//! table. For several, 64 rows are unpacked and multiplied. Sums are exact, so the bits are those of the file's blocks.

pub(super) mod fives;
mod threes;

#[cfg(target_arch = "x86_64")]
use super::{Job, act::I8Tail, amx};
use super::{QK_K, TernaryType, WeightKind};
use crate::simd::SimdLevel;
use ggml_ops::quants::{BlockTq1_0, BlockTq2_0, Ternary};
#[cfg(target_arch = "x86_64")]
use std::sync::atomic::{AtomicU64, Ordering};

/// Packed rows come in multiples of this.
pub(crate) const ROWS: usize = 64;
/// Bytes of four unpacked weights of [`ROWS`] rows.
#[cfg(target_arch = "x86_64")]
pub(super) const QUAD: usize = 4 * ROWS;
/// In front of a thread's tables: the id of their token.
#[cfg(target_arch = "x86_64")]
const ROOM: usize = 64;

/// How weights are packed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Packing {
    /// Five in a byte.
    Fives {
        /// Rows of a block.
        height: usize,
    },
    /// Three in five bits.
    Threes,
}

impl Packing {
    /// For a matrix of `rows` rows, where this level has one. Each thread makes tables of its own, which pays for many rows.
    pub(crate) fn choose(level: SimdLevel, rows: usize, threads: usize) -> Option<Packing> {
        #[cfg(target_arch = "x86_64")]
        let vbmi = is_x86_feature_detected!("avx512vbmi");
        #[cfg(not(target_arch = "x86_64"))]
        let vbmi = false;
        match level {
            _ if !rows.is_multiple_of(ROWS) || rows < threads * ROWS => None,
            SimdLevel::Avx512Vnni | SimdLevel::Amx if vbmi => {
                Some(Packing::Fives { height: fives::height(rows, threads) })
            }
            SimdLevel::Avx2 | SimdLevel::AvxVnni => Some(Packing::Threes),
            _ => None,
        }
    }

    /// Whether this level has its kernels. The processor is one that has the level.
    pub(crate) fn is_of(self, level: SimdLevel) -> bool {
        match self {
            Packing::Fives { .. } => matches!(level, SimdLevel::Avx512Vnni | SimdLevel::Amx),
            Packing::Threes => matches!(level, SimdLevel::Avx2 | SimdLevel::AvxVnni),
        }
    }

    /// Bytes of a row of `k` weights. (They do not lie together.)
    pub(crate) fn row_bytes(self, k: usize) -> usize {
        match self {
            Packing::Fives { .. } => fives::groups(k),
            Packing::Threes => threes::row_bytes(k),
        }
    }

    /// Rows of a block: what threads share are whole ones.
    pub(crate) fn height(self) -> usize {
        match self {
            Packing::Fives { height } => height,
            Packing::Threes => ROWS,
        }
    }

    /// int8 of a prepared token, with zeros behind its own.
    #[cfg(target_arch = "x86_64")]
    fn padded(self, k: usize) -> usize {
        match self {
            Packing::Fives { .. } => fives::product::padded(k),
            Packing::Threes => threes::product::padded(k),
        }
    }
}

/// Packs rows of `k` weights, a multiple of [`ROWS`] of them; `dst` has [`Packing::row_bytes`] for each, all zeros.
///
/// False, and `dst` is to be thrown away, where a weight is none of -1, 0 and 1: two bits of TQ2_0 may say 2.
pub(crate) fn pack(ty: TernaryType, packing: Packing, k: usize, src: &[u8], dst: &mut [u8]) -> bool {
    use bytemuck::cast_slice;
    match (ty, packing) {
        (TernaryType::Tq1_0, Packing::Fives { height }) => fives::pack::<BlockTq1_0>(k, height, cast_slice(src), dst),
        (TernaryType::Tq2_0, Packing::Fives { height }) => fives::pack::<BlockTq2_0>(k, height, cast_slice(src), dst),
        (TernaryType::Tq1_0, Packing::Threes) => threes::pack::<BlockTq1_0>(k, cast_slice(src), dst),
        (TernaryType::Tq2_0, Packing::Threes) => threes::pack::<BlockTq2_0>(k, cast_slice(src), dst),
    }
}

/// The weights of whole blocks, each plus 1; returns the largest.
#[inline(always)]
fn digits<B: Ternary>(blocks: &[B], digits: &mut [u8]) -> u8 {
    let mut largest = 0;
    for (digits, block) in digits.as_chunks_mut::<QK_K>().0.iter_mut().zip(blocks) {
        for (digit, w) in digits.iter_mut().zip(block.weights()) {
            *digit = (w + 1) as u8;
            largest = largest.max(*digit);
        }
    }
    largest
}

/// By number: magnitudes of its distance from `zeros`, and its sign in bit 7.
const fn codes(zeros: i32) -> [u8; 256] {
    let mut codes = [0; 256];
    let mut v = 0;
    while v < 256 {
        let code = v as i32 - zeros;
        codes[v] = code.unsigned_abs() as u8 & 0x7f | if code < 0 { 0x80 } else { 0 };
        v += 1;
    }
    codes
}

/// Digit i of v in balanced base 3, the lowest first: -1, 0 or 1.
#[cfg(target_arch = "x86_64")]
const fn digit(mut v: i32, mut i: usize) -> i32 {
    loop {
        let d = (v + 1).rem_euclid(3) - 1;
        if i == 0 {
            return d;
        }
        v = (v - d) / 3;
        i -= 1;
    }
}

/// The l and h of `x = 16 h + l`, l in -8..=7.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn apart(x: i8) -> (i8, i8) {
    // h not by x - l, which may be 128.
    ((x.wrapping_add(8) & 15) - 8, (x >> 4) + (x >> 3 & 1))
}

/// Bytes of a prepared token.
#[cfg(target_arch = "x86_64")]
pub(super) fn record_size(packing: Packing, k: usize) -> usize {
    packing.padded(k) + size_of::<I8Tail>()
}

/// Finishes one of `n` tokens, of which the int8 and the tail are there, as of unpacked weights: zeros go between them, and if the token is
/// multiplied, its int8 get the order of the product; if it is looked up, it gets an id.
///
/// # Safety
/// `dst` is aligned to 64 bytes and has room for a record, which begins with `k` int8 and an [`I8Tail`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn finish(packing: Packing, n: usize, k: usize, dst: *mut u8) {
    static IDS: AtomicU64 = AtomicU64::new(1);
    // SAFETY: the caller's promises; k is a multiple of 256.
    unsafe {
        let mut tail = dst.add(k).cast::<I8Tail>().read();
        let values = std::slice::from_raw_parts_mut(dst.cast::<i8>(), packing.padded(k));
        values[k..].fill(0);
        match packing {
            _ if is_looked_up(n) => tail.id = IDS.fetch_add(1, Ordering::Relaxed),
            Packing::Fives { .. } => fives::product::reorder(values),
            Packing::Threes => threes::product::reorder(values),
        }
        dst.add(values.len()).cast::<I8Tail>().write(tail);
    }
}

/// Whether the sums of `n` tokens are looked up. To unpack the weights pays for two already.
#[cfg(target_arch = "x86_64")]
fn is_looked_up(n: usize) -> bool {
    n == 1
}

/// Bytes that a thread keeps from one step to the next for the tables of a token; 0 if there are none.
pub(crate) fn tables_size(kind: WeightKind, k: usize, n: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if let WeightKind::TernaryPacked { packing, .. } = kind
        && is_looked_up(n)
    {
        return ROOM
            + match packing {
                Packing::Fives { .. } => fives::lookup::tables_size(k),
                Packing::Threes => threes::lookup::tables_size(k),
            };
    }
    let _ = (kind, k, n);
    0
}

/// Bytes of the scratch memory of many tokens.
#[cfg(target_arch = "x86_64")]
pub(super) fn scratch_size(level: SimdLevel, packing: Packing, k: usize) -> usize {
    let sums = if level == SimdLevel::Amx { amx::SUMS_SIZE } else { 0 };
    sums + packing.padded(k) * ROWS
}

/// `job.scratch` has [`tables_size`] bytes, zeros or what a call before left there, or if that is 0, [`scratch_size`].
///
/// # Safety
/// As [`super::mul_mat`]; the weights were packed for `job.level` ([`Packing::choose`]).
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn mul_mat(packing: Packing, d: f32, job: &Job) {
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2(d: f32, job: &Job) {
        // SAFETY: the features are enabled; the rest is the caller's promise.
        unsafe { threes::product::mul_mat::<threes::product::Pairs>(d, job) }
    }
    #[cfg(not(test))]
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    unsafe fn avx_vnni(d: f32, job: &Job) {
        // SAFETY: the features are enabled; the rest is the caller's promise.
        unsafe { threes::product::mul_mat::<super::vector_avx2::Instruction>(d, job) }
    }
    #[cfg(test)]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx_vnni(d: f32, job: &Job) {
        // SAFETY: the features are enabled; the rest is the caller's promise.
        unsafe { threes::product::mul_mat::<super::emulated::Dpbusd>(d, job) }
    }
    let one = is_looked_up(job.n);
    // SAFETY: the caller's promises.
    unsafe {
        match packing {
            Packing::Fives { height } if one => fives::lookup::mul_mat(d, height, job),
            Packing::Fives { height } if amx::takes(job.level, job.n) => amx::packed(d, height, job),
            Packing::Fives { height } => fives::product::mul_mat(d, height, job),
            Packing::Threes if one => threes::lookup::mul_mat(d, job),
            Packing::Threes if job.level == SimdLevel::AvxVnni => avx_vnni(d, job),
            Packing::Threes => avx2(d, job),
        }
    }
}
