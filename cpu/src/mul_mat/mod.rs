//! Matrix multiplication `y[t][o] = sum_i w[o][i] x[t][i]` for every weight type.
//!
//! The activations of all tokens are first made ready ([`prepare`]), then threads multiply ranges of rows
//! ([`mul_mat`]). Results have the same bits at every level and for every split into tokens and rows
//! (`docs/numerics.md`).
//!
//! One token reads the file's blocks directly, at the speed of memory. Several tokens share rows that are unpacked
//! once into scratch memory, which fits the L2 cache unless rows are very long: blocks with scales of their own side by side ([`side_by_side`]), others one after the
//! other ([`panel`]). Ternary weights may be packed anew before ([`packed`]).
//!
//! To add a weight type of blocks: a variant of [`WeightKind`], its plain loop in `scalar.rs`, and how it is unpacked
//! (`blocks_of_32::Block32` or `k_quants::KBlock`).

mod scalar;

#[cfg(target_arch = "x86_64")]
mod act;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod blocks;
#[cfg(target_arch = "x86_64")]
mod blocks_of_32;
#[cfg(all(test, target_arch = "x86_64"))]
mod emulated;
mod fetch;
#[cfg(target_arch = "x86_64")]
mod float;
#[cfg(target_arch = "x86_64")]
mod k_quants;
#[cfg(target_arch = "x86_64")]
mod one_token;
pub(crate) mod packed;
#[cfg(target_arch = "x86_64")]
mod panel;
#[cfg(target_arch = "x86_64")]
mod side_by_side;
#[cfg(target_arch = "x86_64")]
mod super_blocks;
#[cfg(target_arch = "x86_64")]
mod ternary;
#[cfg(target_arch = "x86_64")]
mod tiled;
#[cfg(target_arch = "x86_64")]
mod unpack;
#[cfg(target_arch = "x86_64")]
pub(crate) mod vector;
#[cfg(target_arch = "x86_64")]
pub(crate) mod vector_avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod vector_avx512;

pub use fetch::Fetch;
pub use packed::Packing;

use crate::simd::SimdLevel;
use gguf::GgmlType;
use std::cell::Cell;

/// Block of the ternary types and the K-quants.
const QK_K: usize = GgmlType::Q6_K.block_size();
/// Block of Q8_0 and its like.
const QK: usize = GgmlType::Q8_0.block_size();

/// What becomes of activations before they are multiplied, decided by the weights ([`WeightKind::act_format`]).
///
/// Weights of equal format can share prepared activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActFormat {
    /// Unchanged.
    F32,
    /// Rounded to 13 bits (`ggml_ops::numerics::round13`), for F16 weights.
    Round13,
    /// Rounded to 16 bits (`ggml_ops::numerics::bf16_activation`), for BF16 weights.
    Round16,
    /// int8 with one scale per token, for TQ1_0 weights.
    I8Tq1,
    /// int8 with one scale per token, for TQ2_0 weights.
    I8Tq2,
    /// int8 with a scale per 32.
    Q8_0,
    /// int8 with a scale per 256.
    Q8K,
    /// The same, in the layout of `Q8_0`, for IQ4_XS weights.
    Q8KIn32,
    /// int8 with one scale per token, for ternary weights packed in fives.
    Fives,
    /// The same for those packed in threes.
    Threes,
}

/// How ternary weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TernaryType {
    /// Five weights a byte, 54 bytes a block of 256.
    Tq1_0,
    /// Four weights a byte, 66 bytes a block of 256.
    Tq2_0,
}

/// The storage of a weight matrix, and what is known of its scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WeightKind {
    /// 32-bit floats.
    F32,
    /// IEEE half floats.
    F16,
    /// The upper half of 32-bit floats.
    Bf16,
    /// Ternary blocks that all have the scale `d` (or hold zeros only): the scales in the blocks are not read.
    TernaryUniform {
        /// The storage of the blocks.
        ty: TernaryType,
        /// The scale.
        d: f32,
    },
    /// Packed ternary weights of one scale.
    TernaryPacked {
        /// How.
        packing: Packing,
        /// The scale.
        d: f32,
    },
    /// Ternary blocks with scales of their own.
    Ternary(TernaryType),
    /// Blocks of 32 int8.
    Q8_0,
    /// Blocks of 32 4-bit integers.
    Q4_0,
    /// Blocks of 32 4-bit integers with a minimum.
    Q4_1,
    /// Blocks of 32 5-bit integers.
    Q5_0,
    /// Blocks of 32 5-bit integers with a minimum.
    Q5_1,
    /// Blocks of 32 4-bit codes.
    Iq4Nl,
    /// Blocks of 256 4-bit codes.
    Iq4Xs,
    /// Blocks of 32 4-bit floats.
    Mxfp4,
    /// Blocks of 256 2-bit integers.
    Q2K,
    /// Blocks of 256 3-bit integers.
    Q3K,
    /// Blocks of 256 4-bit integers.
    Q4K,
    /// Blocks of 256 5-bit integers.
    Q5K,
    /// Blocks of 256 6-bit integers.
    Q6K,
}

impl WeightKind {
    /// What the activations become.
    pub fn act_format(self) -> ActFormat {
        match self {
            Self::F32 => ActFormat::F32,
            Self::F16 => ActFormat::Round13,
            Self::Bf16 => ActFormat::Round16,
            Self::TernaryUniform { ty: TernaryType::Tq1_0, .. } => ActFormat::I8Tq1,
            Self::TernaryUniform { ty: TernaryType::Tq2_0, .. } => ActFormat::I8Tq2,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Iq4Nl | Self::Mxfp4 => {
                ActFormat::Q8_0
            }
            Self::Iq4Xs => ActFormat::Q8KIn32,
            Self::TernaryPacked { packing: Packing::Fives { .. }, .. } => ActFormat::Fives,
            Self::TernaryPacked { packing: Packing::Threes, .. } => ActFormat::Threes,
            Self::Ternary(_) | Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => ActFormat::Q8K,
        }
    }

    /// The file's type of weights that are stored as in a file.
    pub fn ggml_type(self) -> Option<GgmlType> {
        Some(match self {
            Self::TernaryPacked { .. } => return None,
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::Bf16 => GgmlType::BF16,
            Self::TernaryUniform { ty, .. } | Self::Ternary(ty) => ty.ggml_type(),
            Self::Q8_0 => GgmlType::Q8_0,
            Self::Q4_0 => GgmlType::Q4_0,
            Self::Q4_1 => GgmlType::Q4_1,
            Self::Q5_0 => GgmlType::Q5_0,
            Self::Q5_1 => GgmlType::Q5_1,
            Self::Iq4Nl => GgmlType::IQ4_NL,
            Self::Iq4Xs => GgmlType::IQ4_XS,
            Self::Mxfp4 => GgmlType::MXFP4,
            Self::Q2K => GgmlType::Q2_K,
            Self::Q3K => GgmlType::Q3_K,
            Self::Q4K => GgmlType::Q4_K,
            Self::Q5K => GgmlType::Q5_K,
            Self::Q6K => GgmlType::Q6_K,
        })
    }

    /// The kind of a tensor of type `ty`; `uniform` is the one scale of a ternary tensor, if it has one
    /// (`ggml_ops::quants::uniform_ternary_scale`). None: the type cannot be multiplied.
    pub fn new(ty: GgmlType, uniform: Option<f32>) -> Option<Self> {
        let ternary = |ty| match uniform {
            Some(d) => Self::TernaryUniform { ty, d },
            None => Self::Ternary(ty),
        };
        Some(match ty {
            GgmlType::F32 => Self::F32,
            GgmlType::F16 => Self::F16,
            GgmlType::BF16 => Self::Bf16,
            GgmlType::TQ1_0 => ternary(TernaryType::Tq1_0),
            GgmlType::TQ2_0 => ternary(TernaryType::Tq2_0),
            GgmlType::Q8_0 => Self::Q8_0,
            GgmlType::Q4_0 => Self::Q4_0,
            GgmlType::Q4_1 => Self::Q4_1,
            GgmlType::Q5_0 => Self::Q5_0,
            GgmlType::Q5_1 => Self::Q5_1,
            GgmlType::IQ4_NL => Self::Iq4Nl,
            GgmlType::IQ4_XS => Self::Iq4Xs,
            GgmlType::MXFP4 => Self::Mxfp4,
            GgmlType::Q2_K => Self::Q2K,
            GgmlType::Q3_K => Self::Q3K,
            GgmlType::Q4_K => Self::Q4K,
            GgmlType::Q5_K => Self::Q5K,
            GgmlType::Q6_K => Self::Q6K,
            _ => return None,
        })
    }

    /// Bytes of a row of `k` elements, a multiple of the type's block size. (Those of packed rows do not lie together.)
    pub fn row_bytes(self, k: usize) -> usize {
        match (self, self.ggml_type()) {
            (Self::TernaryPacked { packing, .. }, _) => packing.row_bytes(k),
            (_, ty) => ty.map_or(0, |ty| k / ty.block_size() * ty.type_size()),
        }
    }
}

impl TernaryType {
    fn ggml_type(self) -> GgmlType {
        match self {
            Self::Tq1_0 => GgmlType::TQ1_0,
            Self::Tq2_0 => GgmlType::TQ2_0,
        }
    }
}

/// Bytes of a prepared token: those used, and the distance to the next, a multiple of 64.
fn record_size(level: SimdLevel, fmt: ActFormat, k: usize, n: usize) -> (usize, usize) {
    let used = match level {
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx2 | SimdLevel::AvxVnni | SimdLevel::Avx512 | SimdLevel::Avx512Vnni | SimdLevel::Amx => {
            act::record_size(level, fmt, k, n)
        }
        _ => {
            let _ = n;
            scalar::record_size(fmt, k)
        }
    };
    (used, used.next_multiple_of(64))
}

/// Bytes from one prepared token of `n` to the next.
pub fn act_stride(level: SimdLevel, fmt: ActFormat, k: usize, n: usize) -> usize {
    record_size(level, fmt, k, n).1
}

/// Bytes of the buffer for the activations of `n` tokens of `k` elements.
pub fn act_size(level: SimdLevel, fmt: ActFormat, k: usize, n: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    let records = if amx::takes(level, n) { n.next_multiple_of(amx::TOKENS) } else { n };
    #[cfg(not(target_arch = "x86_64"))]
    let records = n;
    act_stride(level, fmt, k, n) * records
}

/// Bytes of the scratch memory that each thread needs.
pub fn scratch_size(level: SimdLevel, kind: WeightKind, k: usize) -> usize {
    match level {
        SimdLevel::Scalar => match kind {
            WeightKind::TernaryUniform { .. } => k,
            _ => 0,
        },
        #[cfg(target_arch = "x86_64")]
        _ => match kind {
            WeightKind::TernaryPacked { packing, .. } => packed::scratch_size(level, packing, k),
            WeightKind::F32 | WeightKind::F16 | WeightKind::Bf16 => float::scratch_size(k),
            WeightKind::TernaryUniform { .. } if level == SimdLevel::Amx => {
                amx::scratch_size(k).max(panel::size(ternary::Uniform::unpacked_size(k)))
            }
            WeightKind::TernaryUniform { .. } => panel::size(ternary::Uniform::unpacked_size(k)),
            WeightKind::Ternary(_) => panel::size(ternary::Scaled::unpacked_size(k)),
            WeightKind::Q8_0 => blocks::scratch_size::<blocks_of_32::Q8_0>(level, k),
            WeightKind::Q4_0 => blocks::scratch_size::<blocks_of_32::Q4_0>(level, k),
            WeightKind::Q4_1 => blocks::scratch_size::<blocks_of_32::Q4_1>(level, k),
            WeightKind::Q5_0 => blocks::scratch_size::<blocks_of_32::Q5_0>(level, k),
            WeightKind::Q5_1 => blocks::scratch_size::<blocks_of_32::Q5_1>(level, k),
            WeightKind::Iq4Nl => blocks::scratch_size::<blocks_of_32::Iq4Nl>(level, k),
            WeightKind::Iq4Xs => blocks::scratch_size::<blocks_of_32::Iq4Xs>(level, k),
            WeightKind::Mxfp4 => blocks::scratch_size::<blocks_of_32::Mxfp4>(level, k),
            WeightKind::Q2K => super_blocks::scratch_size::<k_quants::Q2K>(level, k),
            WeightKind::Q3K => super_blocks::scratch_size::<k_quants::Q3K>(level, k),
            WeightKind::Q4K => super_blocks::scratch_size::<k_quants::Q4K>(level, k),
            WeightKind::Q5K => super_blocks::scratch_size::<k_quants::Q5K>(level, k),
            WeightKind::Q6K => super_blocks::scratch_size::<k_quants::Q6K>(level, k),
        },
        #[cfg(not(target_arch = "x86_64"))]
        _ => 0,
    }
}

/// Prepares tokens `t0..t1` of `n`, so that threads can share the work. All `n` must be prepared, at one level, before
/// [`mul_mat`] reads any; the layout depends on `level`, `fmt` and `n`.
///
/// # Safety
/// - `level` is supported by the CPU ([`SimdLevel::supported`]).
/// - `k` is a multiple of the block size of the weights; `t0 <= t1 <= n`.
/// - `x` points to `n` rows of `k` floats, `x_stride` floats apart.
/// - `act` is aligned to 64 bytes and has [`act_size`] bytes; no other thread uses the parts of these tokens.
#[expect(clippy::too_many_arguments)]
pub unsafe fn prepare(
    level: SimdLevel,
    fmt: ActFormat,
    k: usize,
    x: *const f32,
    x_stride: usize,
    n: usize,
    t0: usize,
    t1: usize,
    act: *mut u8,
) {
    let size = act_stride(level, fmt, k, n);
    for t in t0..t1 {
        // SAFETY: t < n, so both are inside what the caller promises.
        unsafe {
            let row = std::slice::from_raw_parts(x.add(t * x_stride), k);
            let dst = act.add(t * size);
            #[cfg(target_arch = "x86_64")]
            if level != SimdLevel::Scalar {
                act::token(level, fmt, n, row, dst);
                continue;
            }
            scalar::token(fmt, row, dst);
        }
    }
}

/// A multiplication: rows `r0..r1` of `w` for `n` tokens.
#[derive(Clone, Copy)]
struct Job<'a> {
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "one level only"))]
    level: SimdLevel,
    k: usize,
    row_bytes: usize,
    w: *const u8,
    r0: usize,
    r1: usize,
    n: usize,
    act: *const u8,
    /// Bytes of a prepared token, and the distance to the next.
    act_len: usize,
    act_stride: usize,
    y: *mut f32,
    y_stride: usize,
    scratch: *mut u8,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "no fetching"))]
    fetch: &'a Cell<Fetch>,
}

impl Job<'_> {
    unsafe fn row(&self, r: usize) -> *const u8 {
        // SAFETY: the caller has r < r1, and the matrix has r1 rows.
        unsafe { self.w.add(r * self.row_bytes) }
    }

    unsafe fn token(&self, t: usize) -> *const u8 {
        // SAFETY: the caller has t < n, and `act` has n records.
        unsafe { self.act.add(t * self.act_stride) }
    }

    unsafe fn set(&self, t: usize, r: usize, v: f32) {
        // SAFETY: the caller has t < n and r0 <= r < r1: inside `y`, and this call's own part of it.
        unsafe { self.y.add(t * self.y_stride + r).write(v) }
    }

    /// Sets rows `r..r + R`, R of at most 4.
    #[cfg(target_arch = "x86_64")]
    unsafe fn set_rows<const R: usize>(&self, t: usize, r: usize, v: &[f32; 4]) {
        // SAFETY: as `set`, for all these rows; `v` holds R.
        unsafe { self.y.add(t * self.y_stride + r).cast::<[f32; R]>().write_unaligned(*v.as_ptr().cast()) }
    }
}

/// Computes rows `r0..r1` for all `n` tokens: `y[t * y_stride + r]`.
///
/// # Safety
/// - `level` is supported by the CPU ([`SimdLevel::supported`]).
/// - `k` is a multiple of the type's block size; `r0 <= r1`.
/// - `w` points to row 0 of a matrix of at least `r1` rows of [`WeightKind::row_bytes`]; any bytes will do, aligned to
///   nothing. If packed, it is aligned to 64 and was packed for this level; `r0` and `r1` are the first rows of blocks, or `r1` is
///   the number of rows.
/// - `act` holds `n` tokens from [`prepare`] with the same `level`, `k`, `n` and the kind's format, [`act_stride`] bytes apart. In
///   [`ActFormat::F32`] they may as well be any tokens of those prepared together, or rows of floats at any distance if k is a
///   multiple of 16, or 8 and n above 1.
/// - `y` has room for `n` rows `y_stride` apart with `r1` columns; no other thread uses columns `r0..r1` of it.
/// - `scratch` is aligned to 64 bytes, has [`scratch_size`] bytes and is this thread's own. Where packed weights have tables
///   (`packed::tables_size` is above 0), it has that many bytes, zeros or what a call with tables left there.
///
/// `fetch` says which weights to fetch from memory when; rows that it does not name are read all the same.
#[expect(clippy::too_many_arguments)]
pub unsafe fn mul_mat(
    level: SimdLevel,
    kind: WeightKind,
    k: usize,
    w: *const u8,
    r0: usize,
    r1: usize,
    n: usize,
    act: *const u8,
    act_stride: usize,
    y: *mut f32,
    y_stride: usize,
    scratch: *mut u8,
    fetch: &Cell<Fetch>,
) {
    let row_bytes = kind.row_bytes(k);
    let (act_len, _) = record_size(level, kind.act_format(), k, n);
    let job = Job { level, k, row_bytes, w, r0, r1, n, act, act_len, act_stride, y, y_stride, scratch, fetch };
    if n == 0 || r0 >= r1 {
        return;
    }
    // SAFETY: the caller's promises, passed on in the job.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if level != SimdLevel::Scalar {
            return vector(kind, &job);
        }
        scalar::mul_mat(kind, &job);
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn vector(kind: WeightKind, job: &Job) {
    // SAFETY: the caller's promises.
    unsafe {
        match kind {
            WeightKind::F32 => float::mul_mat::<float::F32>(job),
            WeightKind::F16 => float::mul_mat::<float::F16>(job),
            WeightKind::Bf16 => float::mul_mat::<float::Bf16>(job),
            WeightKind::TernaryPacked { packing, d } => packed::mul_mat(packing, d, job),
            WeightKind::TernaryUniform { ty, d } if amx::takes(job.level, job.n) => amx::uniform(ty, d, job),
            WeightKind::TernaryUniform { ty, d } => ternary::uniform(ty, d, job),
            WeightKind::Ternary(ty) => ternary::scaled(ty, job),
            WeightKind::Q8_0 => blocks::mul_mat::<blocks_of_32::Q8_0>(job),
            WeightKind::Q4_0 => blocks::mul_mat::<blocks_of_32::Q4_0>(job),
            WeightKind::Q4_1 => blocks::mul_mat::<blocks_of_32::Q4_1>(job),
            WeightKind::Q5_0 => blocks::mul_mat::<blocks_of_32::Q5_0>(job),
            WeightKind::Q5_1 => blocks::mul_mat::<blocks_of_32::Q5_1>(job),
            WeightKind::Iq4Nl => blocks::mul_mat::<blocks_of_32::Iq4Nl>(job),
            WeightKind::Iq4Xs => blocks::mul_mat::<blocks_of_32::Iq4Xs>(job),
            WeightKind::Mxfp4 => blocks::mul_mat::<blocks_of_32::Mxfp4>(job),
            WeightKind::Q2K => super_blocks::mul_mat::<k_quants::Q2K>(job),
            WeightKind::Q3K => super_blocks::mul_mat::<k_quants::Q3K>(job),
            WeightKind::Q4K => super_blocks::mul_mat::<k_quants::Q4K>(job),
            WeightKind::Q5K => super_blocks::mul_mat::<k_quants::Q5K>(job),
            WeightKind::Q6K => super_blocks::mul_mat::<k_quants::Q6K>(job),
        }
    }
}
