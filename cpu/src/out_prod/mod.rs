//! Sums of outer products `y[j][i] = sum_r a[r][i] b[j][r]`: the gradients of a matrix multiplication.
//!
//! An item of work is a few tiles of 64 columns of `a` for some tokens j ([`Split`]). Rows of a tile are decoded a block
//! at a time to a panel that fits the L2 cache ([`decode`]) and multiplied in registers ([`tile`]). Every result is one sum in order of
//! r (`docs/numerics.md`), so its bits depend neither on the SIMD level nor on how the work is shared.
//!
//! Where the processor has AMX, [`amx`] multiplies in its tiles.
//!
//! To add a weight type: its arm in [`decode::to_f32`].

#[cfg(target_arch = "x86_64")]
mod amx;
mod codes;
pub(crate) mod decode;
#[cfg(all(test, target_arch = "x86_64"))]
mod emulated;
mod product;
mod round;
mod split;
mod tile;

use crate::memory::ALIGN;
use crate::simd::SimdLevel;
use decode::Rows;
use gguf::GgmlType;
pub(crate) use split::Split;
use std::ops::Range;
use tile::Block;

/// Columns of a tile.
pub(crate) const COLUMNS: usize = 64;
/// A row of a panel.
type Row<T> = [T; COLUMNS];
/// Rows of f32 of a partial sum, and steps of any panel: 64 KiB.
const STEPS: usize = 256;
const PANEL: usize = STEPS * COLUMNS * 4;
/// Rows whose sum cannot leave an i32: weights are at most 2 (a code 3 in a hostile file), gradients 32512.
const MAX_I32_ROWS: usize = 32768;
const _: () = assert!(MAX_I32_ROWS as u64 * 2 * 32512 <= i32::MAX as u64);
/// Tokens that share sums of 64 bits, where there are more rows than that.
const WIDE_TOKENS: usize = 64;

/// Bytes of scratch for each thread.
pub(crate) fn scratch_size(rows: usize, uniform: bool) -> usize {
    let wide = if uniform && rows > MAX_I32_ROWS { WIDE_TOKENS * COLUMNS * size_of::<i64>() } else { 0 };
    PANEL + wide
}

/// Values of a record that follow each other in the layout of AMX's tiles: 64 high bytes, then 64 low bytes.
const GROUP: usize = 64;
/// Tokens whose records AMX's tiles read together.
const TILE_TOKENS: usize = 16;

/// Bytes of a token's rounded gradient: its scale and padding, then groups of 16-bit values.
pub(crate) fn record_size(rows: usize) -> usize {
    rows.div_ceil(GROUP).saturating_mul(2 * GROUP).saturating_add(ALIGN)
}

/// Bytes of the records of so many tokens, and of what AMX's tiles read after them to no effect.
pub(crate) fn records_size(rows: usize, tokens: usize, amx: bool) -> usize {
    record_size(rows).saturating_mul(tokens.saturating_add(if amx { TILE_TOKENS - 1 } else { 0 }))
}

/// The matrices of one batch.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    pub level: SimdLevel,
    /// AMX's tiles multiply ([`Rounding::takes_tiles`]).
    pub amx: bool,
    /// Type of `a`.
    pub ty: GgmlType,
    /// Columns of `a`.
    pub m: usize,
    /// Rows of `a`.
    pub rows: usize,
    pub a: *const u8,
    /// Bytes between rows of `a`.
    pub a_stride: usize,
    /// f32, or records of rounded gradients; for AMX's tiles, those of 16 tokens can be read wherever one can.
    pub b: *const u8,
    /// Bytes between tokens of `b`.
    pub b_token: usize,
    /// Bytes between values of a token.
    pub b_step: usize,
    pub y: *mut u8,
    /// Bytes between tokens of `y`.
    pub y_token: usize,
    /// [`scratch_size`] bytes, aligned to 64, this thread's own.
    pub scratch: *mut u8,
}

impl Job {
    fn columns(&self, tile: usize) -> Range<usize> {
        tile * COLUMNS..((tile + 1) * COLUMNS).min(self.m)
    }

    /// # Safety
    /// The rows exist, and nobody writes `a` as long as this lives.
    unsafe fn rows<'a>(&self, rows: Range<usize>) -> Rows<'a> {
        let bytes = self.m / self.ty.block_size() * self.ty.type_size();
        // SAFETY: the caller's promise.
        unsafe { Rows::new(self.a.add(rows.start * self.a_stride), self.a_stride, bytes, rows.len()) }
    }

    /// # Safety
    /// The tile and the token exist, and the row of the tile is nobody else's.
    unsafe fn result<'a>(&self, tile: usize, token: usize) -> &'a mut [f32] {
        let columns = self.columns(tile);
        // SAFETY: the caller's promise.
        unsafe {
            let y = self.y.add(token * self.y_token).cast::<f32>().add(columns.start);
            std::slice::from_raw_parts_mut(y, columns.len())
        }
    }

    /// The block of these tokens and columns; `a`, `b` and `steps` are to be filled in.
    unsafe fn block(&self, tile: usize, tokens: &Range<usize>, first: bool) -> Block {
        // SAFETY: the callers have the tile and the tokens.
        let (b, y) = unsafe { (self.b.add(tokens.start * self.b_token), self.result(tile, tokens.start).as_mut_ptr()) };
        Block {
            steps: 0,
            a: std::ptr::null(),
            a_stride: 4 * COLUMNS,
            b,
            b_token: self.b_token,
            b_step: self.b_step,
            tokens: tokens.len(),
            y: y.cast(),
            y_token: self.y_token,
            columns: self.columns(tile).len(),
            first,
        }
    }
}

/// Tiles of the result for some tokens, in f32.
///
/// # Safety
/// The level is supported; the job's matrices have the rows, the tiles and the tokens; nobody writes `a` and `b`, and
/// nobody else touches these columns and tokens of `y`.
pub(crate) unsafe fn float(job: &Job, tiles: Range<usize>, tokens: Range<usize>) {
    // Once where there are no rows, for zeros.
    for r0 in (0..job.rows.max(1)).step_by(STEPS) {
        for tile in tiles.clone() {
            // SAFETY: the caller's promises.
            unsafe { add_floats(job, tile, &tokens, r0..(r0 + STEPS).min(job.rows)) }
        }
    }
}

/// The partial sums over at most [`STEPS`] rows.
unsafe fn add_floats(job: &Job, tile: usize, tokens: &Range<usize>, rows: Range<usize>) {
    let columns = job.columns(tile);
    // SAFETY: the callers' promises; the scratch memory holds a panel.
    unsafe {
        let block = Block { steps: rows.len(), ..job.block(tile, tokens, rows.start == 0) };
        let b = block.b.add(rows.start * job.b_step);
        if job.ty == GgmlType::F32 && columns.len() == COLUMNS {
            let a = job.a.add(rows.start * job.a_stride + 4 * columns.start);
            product::add_f32(job.level, &Block { a, a_stride: job.a_stride, b, ..block });
        } else {
            let panel = std::slice::from_raw_parts_mut(job.scratch.cast(), STEPS);
            decode::to_f32(job.level, job.ty, &job.rows(rows), columns.start, columns.len(), panel);
            product::add_f32(job.level, &Block { a: job.scratch, b, ..block });
        }
    }
}

/// Tiles of the result for some tokens, of weights rounded to bf16; `b` are records of bf16.
///
/// # Safety
/// As [`float`]; the processor has products of bf16, in tiles where the job wants them.
pub(crate) unsafe fn bf16(job: &Job, tiles: Range<usize>, tokens: Range<usize>) {
    for r0 in (0..job.rows.max(1)).step_by(STEPS) {
        let rows = r0..(r0 + STEPS).min(job.rows);
        // Whole tiles, or pairs.
        let padded = rows.len().next_multiple_of(if job.amx { GROUP / 2 } else { 2 });
        for tile in tiles.clone() {
            let columns = job.columns(tile);
            // SAFETY: the caller's promises; the scratch memory holds a panel, of f32 first and then of pairs in its first
            // half; a record has its values behind 64 bytes.
            unsafe {
                let panel = std::slice::from_raw_parts_mut(job.scratch.cast::<[f32; COLUMNS]>(), STEPS);
                decode::to_f32(job.level, job.ty, &job.rows(rows.clone()), columns.start, columns.len(), panel);
                panel[rows.len()..padded].as_flattened_mut().fill(0.0);
                round::pair_bf16(job.level, bytemuck::cast_slice_mut(panel), padded / 2);
                let block = job.block(tile, &tokens, r0 == 0);
                let b = block.b.add(ALIGN + 2 * r0);
                let block = Block { steps: padded / 2, a: job.scratch, b, ..block };
                if job.amx { product::add_bf16_tiles(&block) } else { product::add_bf16(&block) }
            }
        }
    }
}

/// Tiles of the result for some tokens, of ternary weights with the one scale `d`; `b` are records.
///
/// # Safety
/// As [`float`].
pub(crate) unsafe fn uniform(job: &Job, d: f32, tiles: Range<usize>, tokens: Range<usize>) {
    // SAFETY: the caller's promises.
    unsafe {
        if job.rows <= MAX_I32_ROWS {
            add_codes(job, &tiles, &tokens, 0..job.rows);
            for t in tokens {
                let scale = d * record_scale(job, t);
                tiles.clone().for_each(|tile| round::finish(job.level, job.result(tile, t), scale));
            }
        } else {
            for start in tokens.clone().step_by(WIDE_TOKENS) {
                for tile in tiles.clone() {
                    wide(job, d, tile, start..(start + WIDE_TOKENS).min(tokens.end));
                }
            }
        }
    }
}

/// As [`uniform`], for at most [`WIDE_TOKENS`] tokens and sums that may leave an i32.
unsafe fn wide(job: &Job, d: f32, tile: usize, tokens: Range<usize>) {
    // SAFETY: the caller's promises; the scratch memory has these sums behind the panel.
    unsafe {
        let sums = job.scratch.add(PANEL).cast::<[i64; COLUMNS]>();
        let sums = std::slice::from_raw_parts_mut(sums, WIDE_TOKENS);
        sums.as_flattened_mut().fill(0);
        for r0 in (0..job.rows).step_by(MAX_I32_ROWS) {
            add_codes(job, &(tile..tile + 1), &tokens, r0..(r0 + MAX_I32_ROWS).min(job.rows));
            for (sums, t) in sums.iter_mut().zip(tokens.clone()) {
                for (sum, y) in sums.iter_mut().zip(job.result(tile, t)) {
                    *sum += i64::from(y.to_bits().cast_signed());
                }
            }
        }
        for (sums, t) in sums.iter().zip(tokens) {
            let scale = d * record_scale(job, t);
            job.result(tile, t).iter_mut().zip(sums).for_each(|(y, &sum)| *y = sum as f32 * scale);
        }
    }
}

/// The i32 sums over at most [`MAX_I32_ROWS`] rows, the first of which is a multiple of 64, as bits in `y`.
unsafe fn add_codes(job: &Job, tiles: &Range<usize>, tokens: &Range<usize>, rows: Range<usize>) {
    // Once where there are no rows, for zeros.
    for r0 in (rows.start..rows.end.max(rows.start + 1)).step_by(2 * STEPS) {
        let r1 = (r0 + 2 * STEPS).min(rows.end);
        for tile in tiles.clone() {
            // SAFETY: the callers' promises; the scratch memory holds a panel; a record has its values behind 64 bytes.
            unsafe {
                let panel = std::slice::from_raw_parts_mut(job.scratch.cast(), STEPS);
                let block = job.block(tile, tokens, r0 == rows.start);
                let (a, b) = (job.scratch, block.b.add(ALIGN + 2 * r0));
                if job.amx {
                    codes::to_quads(job.level, job.ty, &job.rows(r0..r1), tile * COLUMNS, panel);
                    product::add_i8_tiles(&Block { steps: (r1 - r0).div_ceil(4), a, b, ..block });
                } else {
                    codes::to_pairs(job.level, job.ty, &job.rows(r0..r1), tile * COLUMNS, panel);
                    product::add_i16(job.level, &Block { steps: (r1 - r0).div_ceil(2), a, b, ..block });
                }
            }
        }
    }
}

unsafe fn record_scale(job: &Job, token: usize) -> f32 {
    // SAFETY: the callers have the token.
    unsafe { job.b.add(token * job.b_token).cast::<f32>().read() }
}

/// What gradients are rounded to before they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rounding {
    /// 16 bits with a scale for each token, for ternary weights with this scale.
    Int16(f32),
    /// bf16, as the weights are.
    Bf16,
}

impl Rounding {
    /// Whether AMX's tiles multiply this many tokens. The layout of records depends on it.
    pub(crate) fn takes_tiles(self, level: SimdLevel, tokens: usize) -> bool {
        /// Tokens that pay for the order of the weights.
        const MIN_TOKENS: usize = 8;
        tokens >= MIN_TOKENS
            && match self {
                Rounding::Int16(_) => level == SimdLevel::Amx,
                Rounding::Bf16 => level.has_bf16_tiles(),
            }
    }
}

/// Rounds a token's gradient: `n` values `step` bytes apart, to a record of [`record_size`] bytes, for AMX's tiles or not.
///
/// # Safety
/// The level is supported; the values exist and nobody writes them; the record is aligned to 64 and nobody else's.
pub(crate) unsafe fn round_token(
    level: SimdLevel,
    to: Rounding,
    amx: bool,
    x: *const u8,
    n: usize,
    step: usize,
    record: *mut u8,
) {
    // SAFETY: the caller's promises; the memory behind the record is initialized, and any bits are a u16.
    unsafe {
        let groups = std::slice::from_raw_parts_mut(record.add(ALIGN).cast::<[u16; GROUP]>(), n.div_ceil(GROUP));
        let (q, rest) = groups.as_flattened_mut().split_at_mut(n);
        rest.fill(0);
        let strided = (0..n).map(|r| x.add(r * step).cast::<f32>().read());
        let row = (step == 4).then(|| std::slice::from_raw_parts(x.cast(), n));
        match (to, row) {
            (Rounding::Int16(_), Some(row)) => {
                record.cast::<f32>().write(round::round(level, row, bytemuck::cast_slice_mut(q)));
            }
            (Rounding::Int16(_), None) => {
                record.cast::<f32>().write(round::round_strided(strided, bytemuck::cast_slice_mut(q)));
            }
            (Rounding::Bf16, Some(row)) => round::round_bf16(level, row, q),
            (Rounding::Bf16, None) => round::round_bf16_strided(strided, q),
        }
        if amx && matches!(to, Rounding::Int16(_)) {
            round::split(level, groups);
        }
    }
}
