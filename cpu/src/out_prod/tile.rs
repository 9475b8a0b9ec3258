//! A register tile of results: columns by tokens, all rows of a block.

/// Most tokens of a tile.
pub(super) const MAX_TOKENS: usize = 6;

/// A product and a sum over 32-bit lanes: of f32, or of pairs of i16.
///
/// # Safety
/// All methods: the CPU has the instructions of the implementation; pointers are valid for a register, or for 4 bytes
/// in `splat` (no alignment needed).
pub(super) trait Product {
    /// A register.
    type V: Copy;
    /// 32-bit lanes of a register.
    const LANES: usize;

    unsafe fn zero() -> Self::V;
    unsafe fn load(p: *const u8) -> Self::V;
    /// 4 bytes in every lane.
    unsafe fn splat(p: *const u8) -> Self::V;
    unsafe fn store(p: *mut u8, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `acc + a * b`, as docs/numerics.md has it.
    unsafe fn mul_add(acc: Self::V, a: Self::V, b: Self::V) -> Self::V;
}

/// A block of rows of `a` times all tokens of an item: `y[t][c] += sum over steps of a[step][c] * b[t][step]`.
///
/// A step is a row of f32, or two rows of i16: 4 bytes for each column and for each token.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub steps: usize,
    /// Columns of step 0. Readable up to the next 64 columns.
    pub a: *const u8,
    /// Bytes between steps of `a`.
    pub a_stride: usize,
    /// Step 0 of token 0.
    pub b: *const u8,
    /// Bytes between tokens of `b`.
    pub b_token: usize,
    /// Bytes between steps of `b`.
    pub b_step: usize,
    pub tokens: usize,
    /// Column 0 of token 0.
    pub y: *mut u8,
    /// Bytes between tokens of `y`.
    pub y_token: usize,
    /// At most 64.
    pub columns: usize,
    /// `y` holds nothing yet.
    pub first: bool,
}

/// Tiles of `C` registers by at most `T` tokens.
///
/// # Safety
/// The CPU has the instructions of `P`; the pointers of the block are valid, and `y` is nobody else's.
#[inline(always)]
pub(super) unsafe fn block<P: Product, const C: usize, const T: usize>(block: &Block) {
    let width = C * P::LANES;
    for c in (0..block.columns).step_by(width) {
        let mut t = 0;
        while t < block.tokens {
            // SAFETY: the tokens of the tile are below block.tokens, its first column is below block.columns.
            unsafe {
                t += match (block.tokens - t).min(T) {
                    1 => add_tile::<P, C, 1>(block, t, c),
                    2 => add_tile::<P, C, 2>(block, t, c),
                    3 => add_tile::<P, C, 3>(block, t, c),
                    4 => add_tile::<P, C, 4>(block, t, c),
                    5 => add_tile::<P, C, 5>(block, t, c),
                    _ => add_tile::<P, C, MAX_TOKENS>(block, t, c),
                };
            }
        }
    }
}

/// One tile; returns T.
#[inline(always)]
unsafe fn add_tile<P: Product, const C: usize, const T: usize>(block: &Block, t: usize, c: usize) -> usize {
    // SAFETY: the caller's promises.
    unsafe {
        let mut b = [std::ptr::null(); T];
        for (i, b) in b.iter_mut().enumerate() {
            *b = block.b.add((t + i) * block.b_token);
        }
        let acc = tile::<P, C, T>(block, block.a.add(4 * c), b);
        for (i, acc) in acc.iter().enumerate() {
            let y = block.y.add((t + i) * block.y_token + 4 * c);
            if c + C * P::LANES <= block.columns {
                add_row::<P, C>(y, acc, block.first);
            } else {
                // By way of a whole row: what follows the last column is not ours.
                let mut row = [0u32; 64];
                let (whole, bytes) = (row.as_mut_ptr().cast::<u8>(), 4 * (block.columns - c));
                y.copy_to_nonoverlapping(whole, if block.first { 0 } else { bytes });
                add_row::<P, C>(whole, acc, block.first);
                y.copy_from_nonoverlapping(whole, bytes);
            }
        }
    }
    T
}

#[inline(always)]
unsafe fn add_row<P: Product, const C: usize>(y: *mut u8, acc: &[P::V; C], first: bool) {
    for (i, &acc) in acc.iter().enumerate() {
        // SAFETY: the caller has C registers at y.
        unsafe {
            let y = y.add(4 * i * P::LANES);
            P::store(y, if first { acc } else { P::add(P::load(y), acc) });
        }
    }
}

#[inline(always)]
unsafe fn tile<P: Product, const C: usize, const T: usize>(
    block: &Block,
    a: *const u8,
    b: [*const u8; T],
) -> [[P::V; C]; T] {
    // SAFETY: the caller's promises: `steps` steps at a and at each b.
    unsafe {
        let mut acc = [[P::zero(); C]; T];
        let (mut a, mut at) = (a, 0);
        for _ in 0..block.steps {
            let mut w = [P::zero(); C];
            for (i, w) in w.iter_mut().enumerate() {
                *w = P::load(a.add(4 * i * P::LANES));
            }
            for t in 0..T {
                let x = P::splat(b[t].add(at));
                for i in 0..C {
                    acc[t][i] = P::mul_add(acc[t][i], w[i], x);
                }
            }
            // Only addresses: those after the last step are not used.
            a = a.wrapping_add(block.a_stride);
            at = at.wrapping_add(block.b_step);
        }
        acc
    }
}
