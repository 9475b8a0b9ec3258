//! The tiles as Intel's manual describes them, in plain Rust.

use super::{LINES, Panel, Two};

/// Tiles of any processor.
pub(crate) struct Tiles {
    configured: bool,
}

/// 16 lines of 64 bytes.
type Tile = [[u8; 64]; LINES];
type Sums<T> = [[T; 16]; LINES];

/// `TILELOADD`
unsafe fn tileload(p: *const u8, line: usize) -> Tile {
    // SAFETY: the caller has 16 lines of 64 bytes.
    std::array::from_fn(|i| unsafe { p.add(i * line).cast::<[u8; 64]>().read() })
}

/// `TDPBSSD`: the lines of `a` have groups of four int8, the columns of `b` as well.
fn dpbssd(c: &mut Sums<i32>, a: &Tile, b: &Tile) {
    for (c, a) in c.iter_mut().zip(a) {
        for (n, c) in c.iter_mut().enumerate() {
            for (a, b) in a.as_chunks::<4>().0.iter().zip(b) {
                for i in 0..4 {
                    let product = i32::from(a[i] as i8) * i32::from(b[4 * n + i] as i8);
                    *c = c.wrapping_add(product);
                }
            }
        }
    }
}

/// Subnormal numbers are zeros, as operands and as results.
fn flushed(v: f32) -> f32 {
    if v.is_subnormal() { 0f32.copysign(v) } else { v }
}

/// `TDPBF16PS`: the first and the second products of pairs have sums of their own from zero, by FMA, which are added to each other and
/// then to `c`.
fn dpbf16ps(c: &mut Sums<f32>, a: &Tile, b: &Tile) {
    let bf16 = |line: &[u8; 64], i: usize| {
        flushed(f32::from_bits(u32::from(u16::from_le_bytes([line[2 * i], line[2 * i + 1]])) << 16))
    };
    for (c, a) in c.iter_mut().zip(a) {
        for (n, c) in c.iter_mut().enumerate() {
            let mut sums = [0.0; 2];
            for (k, b) in b.iter().enumerate() {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = flushed(bf16(a, 2 * k + i).mul_add(bf16(b, 2 * n + i), *sum));
                }
            }
            *c = flushed(flushed(*c) + flushed(sums[0] + sums[1]));
        }
    }
}

impl Tiles {
    /// Products of all tiles by `dot`, onto `sums`.
    unsafe fn dot<T>(
        &self,
        left: &Two,
        right: &Two,
        steps: usize,
        sums: &mut [[Sums<T>; 2]; 2],
        dot: fn(&mut Sums<T>, &Tile, &Tile),
    ) {
        assert!(self.configured);
        for step in 0..steps {
            for (sums, x) in sums.iter_mut().zip(left.at) {
                for (sums, w) in sums.iter_mut().zip(right.at) {
                    // SAFETY: the caller's promises.
                    let (x, w) = unsafe {
                        (tileload(x.add(step * left.next), left.line), tileload(w.add(step * right.next), right.line))
                    };
                    dot(sums, &x, &w);
                }
            }
        }
    }
}

impl super::Tiles for Tiles {
    unsafe fn configure() -> Self {
        Tiles { configured: true }
    }

    unsafe fn configure_halves() -> Self {
        Tiles { configured: false }
    }

    unsafe fn dot_i8_halves(&self, left: &Two, right: &Two, out: *mut Panel<i32>) {
        assert!(!self.configured);
        let mut sums = [[[[0; 16]; LINES]; 2]; 2];
        for (sums, (x, w)) in sums.iter_mut().zip(left.at.into_iter().zip(right.at)) {
            for (i, sums) in sums.iter_mut().enumerate() {
                let (mut left_tile, mut right_tile): (Tile, Tile) = ([[0; 64]; LINES], [[0; 64]; LINES]);
                // SAFETY: the caller has 16 lines of 32 bytes on the left and 8 of 64 on the right.
                unsafe {
                    for (l, line) in left_tile.iter_mut().enumerate() {
                        x.add(i * left.next + l * left.line).copy_to_nonoverlapping(line.as_mut_ptr(), 32);
                    }
                    for (l, line) in right_tile[..LINES / 2].iter_mut().enumerate() {
                        w.add(i * right.next + l * right.line).copy_to_nonoverlapping(line.as_mut_ptr(), 64);
                    }
                }
                dpbssd(sums, &left_tile, &right_tile);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { out.write(Panel(sums)) }
    }

    unsafe fn dot_i8(&self, left: &Two, right: &Two, steps: usize, add: bool, out: *mut Panel<i32>) {
        if steps == 0 {
            return;
        }
        // SAFETY: the caller's promises.
        unsafe {
            let mut sums = if add { out.read().0 } else { [[[[0; 16]; LINES]; 2]; 2] };
            self.dot(left, right, steps, &mut sums, dpbssd);
            out.write(Panel(sums));
        }
    }

    unsafe fn dot_bf16(&self, left: &Two, right: &Two, steps: usize, out: *mut Panel<f32>) {
        if steps == 0 {
            return;
        }
        let mut sums = [[[[0.0; 16]; LINES]; 2]; 2];
        // SAFETY: the caller's promises.
        unsafe {
            self.dot(left, right, steps, &mut sums, dpbf16ps);
            out.write(Panel(sums));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Amx, Tiles as _, available, features};
    use super::*;

    /// Bytes that look random.
    fn noise(state: &mut u64) -> u8 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 56) as u8
    }

    const STEPS: usize = 3;

    /// Bytes for both sides' two tiles of some steps: on the left a tile's lines are far from each other, on the right they follow.
    fn sides(bytes: &[Vec<u8>; 4]) -> [Two; 2] {
        let at = |i: usize| bytes[i].as_ptr();
        [Two { at: [at(0), at(1)], line: 64 * STEPS, next: 64 }, Two { at: [at(2), at(3)], line: 64, next: 64 * LINES }]
    }

    /// Where the processor has them: the bits of the emulation are theirs.
    #[test]
    fn tiles_are_the_instructions() {
        if !available() {
            return;
        }
        let mut state = 5;
        for steps in (0..=STEPS).cycle().take(40) {
            let bytes: [Vec<u8>; 4] =
                std::array::from_fn(|_| (0..STEPS * LINES * 64).map(|_| noise(&mut state)).collect());
            let start: [[[[i32; 16]; LINES]; 2]; 2] =
                bytemuck::cast(<[u8; 4096]>::try_from(&bytes[0][..3072].repeat(2)[..4096]).unwrap());
            let [left, right] = sides(&bytes);
            for add in [false, true] {
                let (mut got, mut want) = (Panel(start), Panel(start));
                // SAFETY: the processor has the tiles; the buffers have STEPS tiles each.
                unsafe {
                    Amx::configure().dot_i8(&left, &right, steps, add, &mut got);
                    Tiles::configure().dot_i8(&left, &right, steps, add, &mut want);
                }
                assert!(got.0 == want.0, "int8, {steps} steps, add {add}");
            }
        }
        for _ in 0..10 {
            let bytes: [Vec<u8>; 4] = std::array::from_fn(|_| (0..64 * LINES).map(|_| noise(&mut state)).collect());
            let at = |i: usize| bytes[i].as_ptr();
            let left = Two { at: [at(0), at(1)], line: 56, next: 24 };
            let right = Two { at: [at(2), at(3)], line: 64, next: 512 };
            let (mut got, mut want) = (Panel([[[[1; 16]; LINES]; 2]; 2]), Panel([[[[2; 16]; LINES]; 2]; 2]));
            // SAFETY: the processor has the tiles; 15 lines of 56 bytes, 24 and 32 more fit, as twice 8 lines of 64 do.
            unsafe {
                Amx::configure_halves().dot_i8_halves(&left, &right, &mut got);
                Tiles::configure_halves().dot_i8_halves(&left, &right, &mut want);
            }
            assert!(got.0 == want.0, "halves");
        }
        if features() & 1 << 22 == 0 {
            return;
        }
        // Ordinary numbers; products at the lower end of the range, where operands and results are flushed; all of it.
        for (exponents, from) in [(16, 119), (24, 52), (10, 0), (255, 0)] {
            for steps in 1..=STEPS {
                let mut bf16 = || {
                    let (exponent, rest) = (noise(&mut state) % exponents + from, noise(&mut state));
                    ((u16::from(rest) & 0x80) << 8 | u16::from(exponent) << 7 | u16::from(rest) & 0x7f).to_le_bytes()
                };
                let bytes: [Vec<u8>; 4] =
                    std::array::from_fn(|_| (0..STEPS * LINES * 32).flat_map(|_| bf16()).collect());
                let [left, right] = sides(&bytes);
                let (mut got, mut want) = (Panel([[[[1.0; 16]; LINES]; 2]; 2]), Panel([[[[2.0f32; 16]; LINES]; 2]; 2]));
                // SAFETY: as above, and the processor has the products of bf16.
                unsafe {
                    Amx::configure().dot_bf16(&left, &right, steps, &mut got);
                    Tiles::configure().dot_bf16(&left, &right, steps, &mut want);
                }
                let sums =
                    |panel: &Panel<f32>| panel.0.iter().flatten().flatten().flatten().copied().collect::<Vec<_>>();
                for (got, want) in sums(&got).into_iter().zip(sums(&want)) {
                    let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                    assert!(same, "bf16 with exponents from {from}, {steps} steps: {got:e}, not {want:e}");
                }
            }
        }
    }
}
