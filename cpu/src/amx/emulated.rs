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
