//! Sums of outer products `y[j][i] = sum_r a[r][i] b[j][r]`: the gradients of a matrix multiplication.
//!
//! An item of work is a few tiles of 64 columns of `a` for some tokens j ([`Split`]). Rows of a tile are decoded a block
//! at a time to a panel that fits the L2 cache ([`decode`]) and multiplied in registers ([`tile`]). Every result is one sum in order of
//! r (`docs/numerics.md`), so its bits depend neither on the SIMD level nor on how the work is shared.
//!
//! To add a weight type: its arm in [`decode::to_f32`].

pub(crate) mod decode;
mod product;
mod round;
mod tile;

use crate::memory::ALIGN;
use crate::simd::SimdLevel;
use decode::Rows;
use gguf::GgmlType;
use std::ops::Range;
use tile::Block;

/// Columns of a tile.
const COLUMNS: usize = 64;
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

/// Bytes of a token's rounded gradient: its scale and padding, then an even number of i16.
pub(crate) fn record_size(rows: usize) -> usize {
    rows.saturating_mul(2).saturating_add(2 * ALIGN) / ALIGN * ALIGN
}

/// How the result of a batch is cut into items of work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Split {
    /// Tiles of 64 columns of an item, which read the same rows and gradients together.
    pub tiles: usize,
    /// Tokens of an item.
    pub tokens: usize,
}

impl Split {
    /// The split that keeps all threads busy and decodes the least.
    pub(crate) fn new(m: usize, tokens: usize, batches: usize, threads: usize) -> Split {
        /// Decoding takes about as long as the products of so many tokens.
        const DECODING: usize = 12;
        /// Tiles of an item, and what reading more often adds to the time, in percent.
        const TILES: [(usize, usize); 3] = [(4, 0), (2, 2), (1, 5)];
        let most = (4 * threads).min(tokens.div_ceil(tile::MAX_TOKENS)).max(1);
        let splits = TILES.iter().flat_map(|&(tiles, extra)| {
            (1..=most).map(move |parts| {
                let tokens = tokens.div_ceil(parts).next_multiple_of(tile::MAX_TOKENS);
                (Split { tiles, tokens }, extra)
            })
        });
        let cost = |(split, extra): &(Split, usize)| {
            let rounds = (split.items(m, tokens).saturating_mul(batches)).div_ceil(threads);
            let tiles = split.tiles.min(m.div_ceil(COLUMNS));
            rounds.saturating_mul(tiles * (split.tokens + DECODING) * (100 + extra))
        };
        splits.min_by_key(cost).map_or(Split { tiles: 1, tokens: tile::MAX_TOKENS }, |(split, _)| split)
    }

    /// Items of a batch.
    pub(crate) fn items(&self, m: usize, tokens: usize) -> usize {
        self.groups(m) * tokens.div_ceil(self.tokens)
    }

    /// Item `i` of a batch: its tiles and tokens. Neighbours have other columns of the same tokens.
    pub(crate) fn item(&self, i: usize, m: usize, tokens: usize) -> (Range<usize>, Range<usize>) {
        let (tile, token) = (i % self.groups(m) * self.tiles, i / self.groups(m) * self.tokens);
        (tile..(tile + self.tiles).min(m.div_ceil(COLUMNS)), token..(token + self.tokens).min(tokens))
    }

    fn groups(&self, m: usize) -> usize {
        m.div_ceil(self.tiles * COLUMNS)
    }
}

/// The matrices of one batch.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    pub level: SimdLevel,
    /// Type of `a`.
    pub ty: GgmlType,
    /// Columns of `a`.
    pub m: usize,
    /// Rows of `a`.
    pub rows: usize,
    pub a: *const u8,
    /// Bytes between rows of `a`.
    pub a_stride: usize,
    /// f32, or records of rounded gradients.
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
/// As [`float`]; the level has products of bf16.
pub(crate) unsafe fn bf16(job: &Job, tiles: Range<usize>, tokens: Range<usize>) {
    for r0 in (0..job.rows.max(1)).step_by(STEPS) {
        let rows = r0..(r0 + STEPS).min(job.rows);
        let steps = rows.len().div_ceil(2);
        for tile in tiles.clone() {
            let columns = job.columns(tile);
            // SAFETY: the caller's promises; the scratch memory holds a panel, of f32 first and then of pairs in its first
            // half; a record has its values behind 64 bytes.
            unsafe {
                let panel = std::slice::from_raw_parts_mut(job.scratch.cast::<[f32; COLUMNS]>(), STEPS);
                decode::to_f32(job.level, job.ty, &job.rows(rows.clone()), columns.start, columns.len(), panel);
                if rows.len() % 2 == 1 {
                    panel[rows.len()].fill(0.0);
                }
                round::pair_bf16(job.level, bytemuck::cast_slice_mut(panel), steps);
                let block = job.block(tile, &tokens, r0 == 0);
                let b = block.b.add(ALIGN + 2 * r0);
                product::add_bf16(&Block { steps, a: job.scratch, b, ..block });
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

/// The i32 sums over at most [`MAX_I32_ROWS`] rows, the first of which is even, as bits in `y`.
unsafe fn add_codes(job: &Job, tiles: &Range<usize>, tokens: &Range<usize>, rows: Range<usize>) {
    // Once where there are no rows, for zeros.
    for r0 in (rows.start..rows.end.max(rows.start + 1)).step_by(2 * STEPS) {
        let r1 = (r0 + 2 * STEPS).min(rows.end);
        for tile in tiles.clone() {
            // SAFETY: the callers' promises; the scratch memory holds a panel; a record has its values behind 64 bytes.
            unsafe {
                let panel = std::slice::from_raw_parts_mut(job.scratch.cast(), STEPS);
                decode::to_pairs(job.level, job.ty, &job.rows(r0..r1), tile * COLUMNS, panel);
                let block = job.block(tile, tokens, r0 == rows.start);
                let (a, b) = (job.scratch, block.b.add(ALIGN + 2 * r0));
                product::add_i16(job.level, &Block { steps: (r1 - r0).div_ceil(2), a, b, ..block });
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

/// Rounds a token's gradient: `n` values `step` bytes apart, to a record of [`record_size`] bytes.
///
/// # Safety
/// The level is supported; the values exist and nobody writes them; the record is aligned to 64 and nobody else's.
pub(crate) unsafe fn round_token(level: SimdLevel, to: Rounding, x: *const u8, n: usize, step: usize, record: *mut u8) {
    // SAFETY: the caller's promises; the memory behind the record is initialized, and any bits are a u16.
    unsafe {
        let q = std::slice::from_raw_parts_mut(record.add(ALIGN).cast::<u16>(), n.next_multiple_of(2));
        q[n..].fill(0);
        let q = &mut q[..n];
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_belongs_to_one_item() {
        for (m, tokens) in [(1, 1), (8, 2048), (64, 7), (768, 128), (770, 13), (4096, 512), (1536, 1)] {
            for (batches, threads) in [(1, 1), (1, 2), (3, 4), (1, 16)] {
                let split = Split::new(m, tokens, batches, threads);
                let mut seen = vec![0; m.div_ceil(COLUMNS) * tokens];
                for i in 0..split.items(m, tokens) {
                    let (tiles, range) = split.item(i, m, tokens);
                    for tile in tiles {
                        range.clone().for_each(|t| seen[tile * tokens + t] += 1);
                    }
                }
                assert!(seen.iter().all(|&n| n == 1), "{m} x {tokens} on {threads}: {split:?}");
            }
        }
    }

    #[test]
    fn threads_have_equal_shares() {
        for threads in [1, 2, 3, 4, 8, 16] {
            for (m, tokens) in [(768, 128), (2048, 128), (1536, 512), (8, 2048)] {
                let split = Split::new(m, tokens, 1, threads);
                let items = split.items(m, tokens);
                let rounds = items.div_ceil(threads);
                let shares = rounds * threads * split.tiles.min(m.div_ceil(COLUMNS)) * split.tokens;
                let work = m.div_ceil(COLUMNS) * tokens;
                assert!(shares * 100 <= work * 140, "{m} x {tokens} on {threads}: {items} items of {split:?}");
            }
        }
    }
}
