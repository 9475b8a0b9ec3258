//! Cuts the work of an operation into parts whose operands each fit into one binding.
//!
//! Devices limit the bytes that a storage buffer binding covers, to as little as 128 MiB, and a large tensor may lie in
//! several buffers. The work is a box of coordinates; an operand depends on some of them. Nothing here knows Vulkan.

use std::ops::Range;

/// Bindings start at multiples of this many bytes: the most that Vulkan lets a device ask for.
pub const BINDING_ALIGN: u64 = 256;

/// How an operand follows one coordinate of the work: at `i` it is `i / div % modulo` strides from where it is at 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Bytes.
    pub stride: u64,
    /// Neighbouring coordinates that share a place (repeated heads); at least 1.
    pub div: u64,
    /// Places after which it starts again (repeated rows); at least 1.
    pub modulo: u64,
}

impl Follow {
    /// The operand does not depend on the coordinate.
    pub const NOT: Follow = Follow { stride: 0, div: 1, modulo: 1 };

    /// One stride for each step.
    pub const fn each(stride: u64) -> Follow {
        Follow { stride, div: 1, modulo: u64::MAX }
    }

    /// The first and the last place over a range of coordinates.
    fn places(&self, from: u64, len: u64) -> (u64, u64) {
        let (first, last) = (from / self.div, (from + len - 1) / self.div);
        if first / self.modulo == last / self.modulo {
            (first % self.modulo, last % self.modulo)
        } else {
            (0, self.modulo - 1)
        }
    }
}

/// An operand of the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Where the tensor starts in its storage.
    pub offset: u64,
    /// Bytes that every place takes.
    pub item: u64,
    /// For each coordinate of the work.
    pub follows: Vec<Follow>,
    /// Where the tensor ends: places at its end may be shorter than the others.
    pub end: u64,
    /// The parts of the storage that are one buffer each, in order.
    pub segments: Vec<Range<u64>>,
}

/// Why work cannot be cut small enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("operand {operand} takes {bytes} bytes at least, and one binding covers {limit}")]
pub struct TooLarge {
    /// Which operand.
    pub operand: usize,
    /// The least that it takes.
    pub bytes: u64,
    /// What a binding covers.
    pub limit: u64,
}

/// A part of the work: its first coordinates, and how many follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// First coordinates.
    pub start: Vec<u64>,
    /// Coordinates in each direction.
    pub len: Vec<u64>,
}

/// A place for a binding: a segment, and the bytes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Which segment.
    pub segment: usize,
    /// Bytes of the segment; starts at a multiple of [`BINDING_ALIGN`], ends at a multiple of 4.
    pub bytes: Range<u64>,
    /// Where in the storage the window starts.
    pub base: u64,
}

impl Operand {
    /// The bytes of the storage that the tile touches.
    pub fn span(&self, tile: &Tile) -> Range<u64> {
        let (mut first, mut last) = (self.offset, self.offset);
        for (follow, (&from, &len)) in self.follows.iter().zip(tile.start.iter().zip(&tile.len)) {
            let (low, high) = follow.places(from, len);
            first = first.saturating_add(follow.stride.saturating_mul(low));
            last = last.saturating_add(follow.stride.saturating_mul(high));
        }
        first..last.saturating_add(self.item).min(self.end)
    }

    /// The binding for the tile, if one segment holds all of it within the limit.
    pub fn window(&self, tile: &Tile, limit: u64) -> Option<Window> {
        let span = self.span(tile);
        let segment = self.segments.iter().position(|s| s.start <= span.start && span.end <= s.end)?;
        let start = self.segments[segment].start;
        let first = (span.start - start) / BINDING_ALIGN * BINDING_ALIGN;
        let end = (span.end - start).next_multiple_of(4).max(first + 4);
        (end - first <= limit).then_some(Window { segment, bytes: first..end, base: start + first })
    }

    /// The coordinate that stretches the operand most over this tile, if any does.
    fn longest(&self, tile: &Tile) -> Option<usize> {
        let stretch = |&d: &usize| {
            let (low, high) = self.follows[d].places(tile.start[d], tile.len[d]);
            self.follows[d].stride.saturating_mul(high - low)
        };
        (0..self.follows.len()).filter(|&d| tile.len[d] > 1 && stretch(&d) > 0).max_by_key(|d| (stretch(d), *d))
    }
}

/// Cuts the box `ne` into tiles for each of which every operand has a [`Window`].
///
/// Tiles come in order: coordinate by coordinate, none before another that it continues.
///
/// # Errors
/// [`TooLarge`] where a single place of an operand is more than a binding covers.
pub fn tiles(ne: &[u64], operands: &[Operand], limit: u64) -> Result<Vec<Tile>, TooLarge> {
    cut(Tile { start: vec![0; ne.len()], len: ne.to_vec() }, operands, limit)
}

/// As [`tiles`], of a part of the work.
///
/// # Errors
/// As [`tiles`].
pub fn cut(whole: Tile, operands: &[Operand], limit: u64) -> Result<Vec<Tile>, TooLarge> {
    if whole.len.contains(&0) {
        return Ok(Vec::new());
    }
    let mut done = Vec::new();
    let mut open = vec![whole];
    while let Some(tile) = open.pop() {
        let Some(operand) = operands.iter().position(|o| o.window(&tile, limit).is_none()) else {
            done.push(tile);
            continue;
        };
        let o = &operands[operand];
        let Some(d) = o.longest(&tile) else {
            let span = o.span(&tile);
            let longest = o.segments.iter().map(|s| s.end - s.start).max().unwrap_or(0);
            return Err(TooLarge { operand, bytes: span.end - span.start, limit: limit.min(longest) });
        };
        // As much as fits, at least one step: what is left over is cut again.
        let prefix = |n: u64| {
            let mut part = tile.clone();
            part.len[d] = n;
            part
        };
        let (mut fits, mut fails) = (1, tile.len[d]);
        while fails - fits > 1 {
            let middle = fits + (fails - fits) / 2;
            if o.window(&prefix(middle), limit).is_some() { fits = middle } else { fails = middle }
        }
        let mut rest = tile.clone();
        rest.start[d] += fits;
        rest.len[d] -= fits;
        open.push(rest);
        open.push(prefix(fits));
    }
    Ok(done)
}

/// Rows that a sum over rows takes at a time (docs/numerics.md): they must lie in one segment.
pub const PART: u64 = 256;

/// Cuts a tensor's bytes into segments of whole [parts](PART), of whole rows where a part is too large; none is larger than the limit.
///
/// # Errors
/// [`TooLarge`] where a row is.
pub fn segments(bytes: u64, row: u64, limit: u64) -> Result<Vec<Range<u64>>, TooLarge> {
    if bytes <= limit {
        return Ok(std::iter::once(0..bytes).collect());
    }
    if row == 0 || row > limit {
        return Err(TooLarge { operand: 0, bytes: row, limit });
    }
    let unit = row.checked_mul(PART).filter(|&part| part <= limit).unwrap_or(row);
    let step = limit / unit * unit;
    Ok((0..bytes.div_ceil(step)).map(|i| i * step..((i + 1) * step).min(bytes)).collect())
}

/// Cuts the bytes of a cache (bytes of a row, rows of a sequence, sequences) into segments that are no larger than the limit. A sequence's
/// chunks of 256 rows, over which attention sums, stay whole where they fit.
///
/// # Errors
/// [`TooLarge`] where a row does not fit.
pub fn cache_segments([row, rows, n_seq]: [u64; 3], limit: u64) -> Result<Vec<Range<u64>>, TooLarge> {
    let bytes = row.saturating_mul(rows).saturating_mul(n_seq);
    if bytes <= limit {
        return Ok(std::iter::once(0..bytes).collect());
    }
    if row > limit {
        return Err(TooLarge { operand: 0, bytes: row, limit });
    }
    let unit = if row.saturating_mul(PART) <= limit { PART } else { 1 };
    let mut segments = Vec::new();
    let mut from = 0;
    for seq in 0..n_seq {
        let mut at = 0;
        while at < rows {
            // As many units of this sequence as there is room for, its last rows included.
            let used = (seq * rows + at) * row - from;
            let fits = (limit - used) / row;
            let step = if fits >= rows - at { rows - at } else { fits / unit * unit };
            if step == 0 {
                segments.push(from..from + used);
                from += used;
            }
            at += step;
        }
    }
    segments.push(from..bytes);
    Ok(segments)
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // a storage of one segment
mod tests {
    use super::*;

    /// Small pseudo-random numbers.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) % n
        }
    }

    fn contains(tile: &Tile, at: &[u64]) -> bool {
        at.iter().zip(tile.start.iter().zip(&tile.len)).all(|(a, (s, l))| (*s..s + l).contains(a))
    }

    /// Random work: the tiles cover every coordinate once, in order, and each operand has a window that holds its bytes.
    #[test]
    fn tiles_cover_the_work_once_and_fit() {
        let mut r = Random(7);
        let mut divided = 0;
        for _ in 0..2000 {
            let ne: Vec<u64> = (0..1 + r.below(5)).map(|_| 1 + r.below(6)).collect();
            let operands: Vec<Operand> = (0..1 + r.below(3))
                .map(|_| {
                    let item = 4 * (1 + r.below(40));
                    let mut stride = item;
                    let follows: Vec<Follow> = ne
                        .iter()
                        .map(|&n| {
                            let f = match r.below(4) {
                                0 => return Follow::NOT,
                                1 => Follow { stride, div: 1 + r.below(3), modulo: 1 + r.below(n) },
                                _ => Follow::each(stride),
                            };
                            stride += stride * n + 4 * r.below(5);
                            f
                        })
                        .collect();
                    let offset = 4 * r.below(100);
                    Operand { offset, item, follows, end: u64::MAX, segments: vec![0..1 << 40] }
                })
                .collect();
            let limit = 4 * BINDING_ALIGN + 4 * r.below(4000);
            let tiles = tiles(&ne, &operands, limit).unwrap();
            divided += usize::from(tiles.len() > 1);
            for i in 0..ne.iter().product::<u64>() {
                let mut rest = i;
                let at: Vec<u64> = ne.iter().map(|n| (rest % n, rest /= n).0).collect();
                assert_eq!(tiles.iter().filter(|t| contains(t, &at)).count(), 1, "{at:?} of {ne:?}");
                let tile = tiles.iter().find(|t| contains(t, &at)).unwrap();
                for o in &operands {
                    let place = |(f, i): (&Follow, &u64)| i / f.div % f.modulo * f.stride;
                    let byte = o.offset + o.follows.iter().zip(&at).map(place).sum::<u64>();
                    let w = o.window(tile, limit).unwrap();
                    assert!(w.bytes.end - w.bytes.start <= limit && w.bytes.start % BINDING_ALIGN == 0);
                    assert!(w.bytes.start <= byte && byte + o.item <= w.bytes.end);
                }
            }
        }
        assert!(divided > 500, "only {divided} were divided");
    }

    /// Operands in several segments: no window crosses from one to another.
    #[test]
    fn windows_stay_in_their_segment() {
        let mut r = Random(3);
        for _ in 0..500 {
            let (rows, row) = (1 + r.below(1000), 66 * (1 + r.below(20)));
            let limit = 4096 + r.below(20_000);
            let segments = segments(rows * row, row, limit).unwrap();
            let whole = if row * PART <= limit { row * PART } else { row };
            assert!(segments.iter().all(|s| s.end - s.start <= limit && s.start % whole == 0));
            assert_eq!(segments.iter().map(|s| s.end - s.start).sum::<u64>(), rows * row);
            let weights = Operand { offset: 0, item: row, follows: vec![Follow::each(row)], end: u64::MAX, segments };
            let tiles = tiles(&[rows], std::slice::from_ref(&weights), limit + BINDING_ALIGN).unwrap();
            assert_eq!(tiles.iter().map(|t| t.len[0]).sum::<u64>(), rows);
            for tile in &tiles {
                let w = weights.window(tile, limit + BINDING_ALIGN).unwrap();
                assert_eq!(w.base - w.bytes.start, weights.segments[w.segment].start);
            }
        }
    }

    #[test]
    fn caches_are_cut_between_chunks() {
        let mut r = Random(9);
        for _ in 0..500 {
            let (row, rows, n_seq) = (34 * (1 + r.below(9)), 1 + r.below(1200), 1 + r.below(4));
            let limit = 256 * row + r.below(100_000);
            let segments = cache_segments([row, rows, n_seq], limit).unwrap();
            let mut end = 0;
            for s in &segments {
                assert_eq!(s.start, end);
                assert!(s.end > s.start && s.end - s.start <= limit);
                assert_eq!(s.start % row, 0);
                assert_eq!(s.start / row % rows % PART, 0, "{rows} rows: {segments:?}");
                end = s.end;
            }
            assert_eq!(end, row * rows * n_seq);
        }
        assert_eq!(cache_segments([100, 10, 1], 350).unwrap(), [0..300, 300..600, 600..900, 900..1000]);
        assert_eq!(cache_segments([100, 0, 2], 350).unwrap(), [0..0]);
        assert!(cache_segments([100, 10, 1], 99).is_err());
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        let o = |item| Operand {
            offset: 0,
            item,
            follows: vec![Follow::each(item)],
            end: u64::MAX,
            segments: vec![0..1 << 40],
        };
        assert_eq!(tiles(&[10], &[o(256), o(5000)], 4096), Err(TooLarge { operand: 1, bytes: 5000, limit: 4096 }));
        assert_eq!(tiles(&[0, 3], &[o(5000)], 4096), Ok(vec![]));
        assert!(segments(10_000, 5000, 4096).is_err());
        assert_eq!(segments(100, 5000, 4096), Ok(vec![0..100]));
    }

    /// The embedding of a 128k vocabulary in F16 under the limit that mobile GPUs have.
    #[test]
    fn a_large_embedding_under_128_mib() {
        let (rows, row, limit) = (128_256, 5120, 128 << 20);
        let segments = segments(rows * row, row, limit).unwrap();
        assert_eq!(segments.len(), 5);
        let table =
            Operand { offset: 0, item: row, follows: vec![Follow::each(row), Follow::NOT], end: u64::MAX, segments };
        let y = Operand {
            offset: 0,
            item: 4,
            follows: vec![Follow::each(4), Follow::each(4 * rows)],
            end: u64::MAX,
            segments: vec![0..1 << 40],
        };
        let tiles = tiles(&[rows, 512], &[table, y], limit).unwrap();
        assert!(tiles.len() <= 15, "{}", tiles.len());
    }
}
