//! Training rows: windows of samples, alone or packed.

use std::collections::VecDeque;

use super::DatasetError;

/// A text as tokens, and which of them are to be predicted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// The tokens, BOS and EOS included.
    pub tokens: Vec<u32>,
    /// One per token: whether it counts in the loss. The first never does: nothing comes before it.
    pub loss: Vec<bool>,
}

/// One training row of at most `n_ctx` positions. All vectors have one element per position.
///
/// A row holds one window of a sample, or with packing several, one after another: then positions restart at each, and
/// attention must not reach from one into another.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Window {
    /// The tokens that go in.
    pub tokens: Vec<u32>,
    /// The token to be predicted at each position: the next one of the sample.
    pub labels: Vec<u32>,
    /// 1 where the label counts in the loss, else 0. Every row has a 1.
    pub weights: Vec<f32>,
    /// Position for RoPE, from 0 in each packed window.
    pub positions: Vec<u32>,
    /// Index in the row of the first position that this one may attend to; it attends to all from there to itself.
    pub first: Vec<u32>,
}

impl Window {
    /// Number of positions.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no positions, which is so for no row of a dataset.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Number of labels that count in the loss.
    pub fn n_labels(&self) -> usize {
        self.weights.iter().filter(|&&weight| weight != 0.0).count()
    }

    fn clear(&mut self) {
        let Window { tokens, labels, weights, positions, first } = self;
        tokens.clear();
        labels.clear();
        weights.clear();
        positions.clear();
        first.clear();
    }
}

/// The inputs are tokens `start..start + len`, the labels those one further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    start: usize,
    len: u32,
}

/// Rows for training or for validation. Tokens are kept once, however much their windows overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Windows {
    /// The tokens of all samples, one after another.
    tokens: Vec<u32>,
    /// One per token.
    loss: Vec<bool>,
    segments: Vec<Segment>,
    /// For each row the end of its segments.
    rows: Vec<usize>,
}

impl Windows {
    /// Number of rows.
    pub fn len(&self) -> u32 {
        // `shrink` sees to it that there are no more.
        self.rows.len() as u32
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Tokens of all samples, each counted once.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Positions of the longest row.
    pub fn longest(&self) -> usize {
        let len = |row| self.segments_of(row).iter().map(|segment| segment.len as usize).sum::<usize>();
        (0..self.rows.len()).map(len).max().unwrap_or(0)
    }

    /// Row `index`, or `None` past the last.
    pub fn window(&self, index: u32) -> Option<Window> {
        let mut window = Window::default();
        self.fill(index, &mut window).then_some(window)
    }

    /// Puts row `index` into `window`, whose memory is used again. Past the last row `window` is left empty and the
    /// result is `false`.
    pub fn fill(&self, index: u32, window: &mut Window) -> bool {
        window.clear();
        let index = index as usize;
        if index >= self.rows.len() {
            return false;
        }
        for &Segment { start, len } in self.segments_of(index) {
            let (first, n) = (window.tokens.len() as u32, len as usize);
            window.tokens.extend_from_slice(&self.tokens[start..start + n]);
            window.labels.extend_from_slice(&self.tokens[start + 1..start + 1 + n]);
            window.weights.extend(self.loss[start + 1..start + 1 + n].iter().map(|&l| f32::from(u8::from(l))));
            window.positions.extend(0..len);
            window.first.extend(std::iter::repeat_n(first, n));
        }
        true
    }

    /// All rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = Window> {
        (0..self.len()).filter_map(|index| self.window(index))
    }

    /// The memory that rows and tokens take, in bytes.
    pub fn n_bytes(&self) -> usize {
        size_of_val(&self.tokens[..])
            + size_of_val(&self.loss[..])
            + size_of_val(&self.segments[..])
            + size_of_val(&self.rows[..])
    }

    /// Gives everything that decides the rows to `hash`.
    pub(super) fn hash_into(&self, mut hash: impl FnMut(&[u8])) {
        let mut number = |n: u64| hash(&n.to_le_bytes());
        number(self.tokens.len() as u64);
        for (&token, &loss) in self.tokens.iter().zip(&self.loss) {
            number(u64::from(token) << 1 | u64::from(loss));
        }
        number(self.segments.len() as u64);
        for segment in &self.segments {
            number(segment.start as u64);
            number(u64::from(segment.len));
        }
        number(self.rows.len() as u64);
        for &end in &self.rows {
            number(end as u64);
        }
    }

    fn segments_of(&self, row: usize) -> &[Segment] {
        let start = if row == 0 { 0 } else { self.rows[row - 1] };
        &self.segments[start..self.rows[row]]
    }
}

/// Samples, one after another in the same memory.
#[derive(Debug, Default)]
pub(super) struct Samples {
    tokens: Vec<u32>,
    /// One per token.
    loss: Vec<bool>,
    /// Where each sample ends.
    ends: Vec<usize>,
}

impl Samples {
    /// A single sample in which every token counts.
    pub fn text(tokens: Vec<u32>) -> Self {
        Samples { loss: vec![true; tokens.len()], ends: vec![tokens.len()], tokens }
    }

    pub fn push(&mut self, sample: &Sample) {
        self.tokens.extend_from_slice(&sample.tokens);
        self.loss.extend_from_slice(&sample.loss);
        self.ends.push(self.tokens.len());
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Takes away all samples from the `at`th on, which is less than their number.
    pub fn split_off(&mut self, at: usize) -> Samples {
        let base = if at == 0 { 0 } else { self.ends[at - 1] };
        let ends = self.ends.split_off(at).into_iter().map(|end| end - base).collect();
        Samples { tokens: self.tokens.split_off(base), loss: self.loss.split_off(base), ends }
    }

    /// Cuts a single sample in two before token `at`, which is less than their number.
    pub fn split_text(&mut self, at: usize) -> Samples {
        let tail = Samples::text(self.tokens.split_off(at));
        self.loss.truncate(at);
        self.ends = vec![at];
        tail
    }

    /// Makes rows of at most `n_ctx` positions, with `1 <= stride <= n_ctx` positions from one window of a long sample to the
    /// next; `pack` puts several short windows in one row.
    ///
    /// The last window of a sample ends with it and may be shorter than the others: no label is left out. Windows in which no
    /// label counts are.
    pub fn into_windows(self, n_ctx: u32, stride: u32, pack: bool) -> Result<Windows, DatasetError> {
        let mut windows = Windows { tokens: self.tokens, loss: self.loss, ..Windows::default() };
        let mut packer = pack.then(|| Packer { n_ctx: n_ctx as usize, open: VecDeque::new() });
        let mut base = 0;
        for end in self.ends {
            if let Some(first) = windows.loss[base..end].first_mut() {
                *first = false;
            }
            // The last token is a label only.
            let last = end.saturating_sub(1);
            let mut start = base;
            while start < last {
                let len = (last - start).min(n_ctx as usize);
                if windows.loss[start + 1..=start + len].contains(&true) {
                    // `len` is at most `n_ctx`, which has 32 bits.
                    let segment = Segment { start, len: len as u32 };
                    match &mut packer {
                        Some(packer) => packer.add(segment).iter().for_each(|row| windows.push_row(row)),
                        None => windows.push_row(&[segment]),
                    }
                }
                if start + len == last {
                    break;
                }
                start += stride as usize;
            }
            base = end;
        }
        packer.iter().flat_map(|packer| &packer.open).for_each(|row| windows.push_row(&row.segments));
        windows.shrink()?;
        Ok(windows)
    }
}

impl Windows {
    fn push_row(&mut self, segments: &[Segment]) {
        self.segments.extend_from_slice(segments);
        self.rows.push(self.segments.len());
    }

    /// Gives back memory that was set aside but not used.
    fn shrink(&mut self) -> Result<(), DatasetError> {
        const MAX: usize = u32::MAX as usize;
        if self.rows.len() > MAX {
            return Err(DatasetError::TooManyRows { max: MAX });
        }
        self.tokens.shrink_to_fit();
        self.loss.shrink_to_fit();
        self.segments.shrink_to_fit();
        self.rows.shrink_to_fit();
        Ok(())
    }
}

/// First fit: a segment goes into the oldest of the rows still open that has room for it.
struct Packer {
    n_ctx: usize,
    open: VecDeque<OpenRow>,
}

struct OpenRow {
    len: usize,
    segments: Vec<Segment>,
}

impl Packer {
    /// Most rows that are open at a time, so that time is linear in the number of segments.
    const MAX_OPEN: usize = 64;

    /// Takes a segment; gives a row that is closed, if there is one.
    fn add(&mut self, segment: Segment) -> Option<Vec<Segment>> {
        let len = segment.len as usize;
        let fits = self.open.iter().position(|row| row.len + len <= self.n_ctx);
        let index = fits.unwrap_or(self.open.len());
        if fits.is_none() {
            self.open.push_back(OpenRow { len: 0, segments: Vec::new() });
        }
        let row = &mut self.open[index];
        row.len += len;
        row.segments.push(segment);
        let full = row.len == self.n_ctx;
        if full {
            self.open.remove(index).map(|row| row.segments)
        } else if self.open.len() > Self::MAX_OPEN {
            self.open.pop_front().map(|row| row.segments)
        } else {
            None
        }
    }
}
