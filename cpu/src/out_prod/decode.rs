//! Weights decoded a panel at a time: 64 columns of a block of rows; and rows of a KV cache. The bits are those of
//! `ggml_ops::quants`.

use super::codes::Codes;
use super::{COLUMNS, Row};
use crate::kernels::multiversion;
use ggml_ops::quants::{
    Block, BlockBf16, BlockF16, BlockF32, BlockQ4_0, BlockQ4_K, BlockQ6_K, BlockQ8_0, BlockTq1_0, BlockTq2_0,
};
use gguf::GgmlType;
use std::marker::PhantomData;

/// Rows of a matrix.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    ptr: *const u8,
    stride: usize,
    bytes: usize,
    pub(super) n: usize,
    bounds: PhantomData<&'a [u8]>,
}

impl<'a> Rows<'a> {
    /// `n` rows of `bytes` bytes each, `stride` bytes apart.
    ///
    /// # Safety
    /// They are readable, and nobody writes them as long as this lives.
    pub(super) unsafe fn new(ptr: *const u8, stride: usize, bytes: usize, n: usize) -> Rows<'a> {
        Rows { ptr, stride, bytes, n, bounds: PhantomData }
    }

    #[inline(always)]
    pub(super) fn row(&self, i: usize) -> &'a [u8] {
        assert!(i < self.n);
        // SAFETY: the row exists, as promised to `new`.
        unsafe { std::slice::from_raw_parts(self.ptr.add(i * self.stride), self.bytes) }
    }
}

multiversion! {
    /// Decodes columns `c..c + n` (n at most 64; whole blocks) of rows to `panel`, 64 floats a row.
    ///
    /// The rows are of type `ty` and have these columns. Columns after the last are left as they are.
    fn to_f32(ty: GgmlType, rows: &Rows, c: usize, n: usize, panel: &mut [Row<f32>]) {
        match ty {
            GgmlType::F32 => floats::<BlockF32>(rows, c, n, panel),
            GgmlType::F16 => floats::<BlockF16>(rows, c, n, panel),
            GgmlType::BF16 => floats::<BlockBf16>(rows, c, n, panel),
            GgmlType::Q8_0 => floats::<BlockQ8_0>(rows, c, n, panel),
            GgmlType::Q4_0 => floats::<BlockQ4_0>(rows, c, n, panel),
            GgmlType::Q4_K => floats::<BlockQ4_K>(rows, c, n, panel),
            GgmlType::Q6_K => floats::<BlockQ6_K>(rows, c, n, panel),
            GgmlType::TQ1_0 => floats::<BlockTq1_0>(rows, c, n, panel),
            GgmlType::TQ2_0 => floats::<BlockTq2_0>(rows, c, n, panel),
            _ => by_definition(ty, rows, c, n, panel),
        }
    }
}

multiversion! {
    /// Decodes a row of type `ty`, whole blocks.
    fn row_to_f32(ty: GgmlType, row: &[u8], y: &mut [f32]) {
        match ty {
            GgmlType::F32 => row_floats::<BlockF32>(row, y),
            GgmlType::F16 => row_floats::<BlockF16>(row, y),
            GgmlType::BF16 => row_floats::<BlockBf16>(row, y),
            GgmlType::Q8_0 => row_floats::<BlockQ8_0>(row, y),
            GgmlType::Q4_0 => row_floats::<BlockQ4_0>(row, y),
            // Types without a codec do not pass the shape rule.
            _ => drop(ggml_ops::quants::dequantize(ty, row, y)),
        }
    }
}

// Traits and not closures, which would not be compiled for each level.

/// A type of weights.
trait Weights: Block {
    /// Weights `c..c + n` of a row; c is a multiple of 64.
    fn decode(row: &[Self], c: usize, n: usize, y: &mut Row<f32>);
}

#[inline(always)]
fn floats<W: Weights>(rows: &Rows, c: usize, n: usize, panel: &mut [Row<f32>]) {
    for (i, y) in panel[..rows.n].iter_mut().enumerate() {
        W::decode(bytemuck::cast_slice(rows.row(i)), c, n, y);
    }
}

#[inline(always)]
fn row_floats<W: Weights>(row: &[u8], y: &mut [f32]) {
    let row: &[W] = bytemuck::cast_slice(row);
    let (panels, rest) = y.as_chunks_mut::<COLUMNS>();
    let whole = panels.len() * COLUMNS;
    for (i, panel) in panels.iter_mut().enumerate() {
        W::decode(row, i * COLUMNS, COLUMNS, panel);
    }
    if !rest.is_empty() {
        let mut last = [0.0; COLUMNS];
        W::decode(row, whole, rest.len(), &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// Types without a decoder of their own, whole blocks at a time.
fn by_definition(ty: GgmlType, rows: &Rows, c: usize, n: usize, panel: &mut [Row<f32>]) {
    let (block, size) = (ty.block_size(), ty.type_size());
    let blocks = c / block..(c + n).div_ceil(block);
    let mut y = [0.0; 256];
    for (i, to) in panel[..rows.n].iter_mut().enumerate() {
        let y = &mut y[..blocks.len() * block];
        let bytes = &rows.row(i)[blocks.start * size..blocks.end * size];
        // Types without a codec do not pass the shape rule.
        if ggml_ops::quants::dequantize(ty, bytes, y).is_ok() {
            to[..n].copy_from_slice(&y[c % block..][..n]);
        }
    }
}

/// As the definition, but without branches, so that it vectorizes.
#[inline(always)]
fn f16_to_f32(h: u16) -> f32 {
    let bits = u32::from(h & 0x7fff) << 13;
    let finite = f32::from_bits(bits) * f32::from_bits(0x7780_0000); // 2^112: exact, subnormals too
    let magnitude = if h & 0x7c00 == 0x7c00 { bits | 0x7f80_0000 } else { finite.to_bits() };
    f32::from_bits(magnitude | u32::from(h & 0x8000) << 16)
}

#[inline(always)]
fn bf16_to_f32(w: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(w)) << 16)
}

#[inline(always)]
fn scale(d: [u8; 2]) -> f32 {
    f16_to_f32(u16::from_le_bytes(d))
}

macro_rules! float_weights {
    ($block:ident, $to_f32:expr) => {
        impl Weights for $block {
            #[inline(always)]
            fn decode(row: &[Self], c: usize, n: usize, y: &mut Row<f32>) {
                let row = &row[c..c + n];
                match <&Row<Self>>::try_from(row) {
                    // Of known length, so that it is unrolled.
                    Ok(row) => {
                        for (y, w) in y.iter_mut().zip(row) {
                            *y = $to_f32(w.le);
                        }
                    }
                    Err(_) => {
                        for (y, w) in y.iter_mut().zip(row) {
                            *y = $to_f32(w.le);
                        }
                    }
                }
            }
        }
    };
}
float_weights!(BlockF32, f32::from_le_bytes);
float_weights!(BlockF16, scale);
float_weights!(BlockBf16, bf16_to_f32);

impl Weights for BlockQ8_0 {
    #[inline(always)]
    fn decode(row: &[Self], c: usize, n: usize, y: &mut Row<f32>) {
        for (block, y) in row[c / 32..(c + n) / 32].iter().zip(y.as_chunks_mut::<32>().0) {
            let d = scale(block.d);
            let mut weights = [0.0; 32];
            for (w, &q) in weights.iter_mut().zip(&block.qs) {
                *w = f32::from(q) * d;
            }
            *y = weights;
        }
    }
}

impl Weights for BlockQ4_0 {
    #[inline(always)]
    fn decode(row: &[Self], c: usize, n: usize, y: &mut Row<f32>) {
        for (block, y) in row[c / 32..(c + n) / 32].iter().zip(y.as_chunks_mut::<32>().0) {
            let d = scale(block.d);
            let mut weights = [0.0; 32];
            for (j, &q) in block.qs.iter().enumerate() {
                weights[j] = (i32::from(q & 15) - 8) as f32 * d;
                weights[j + 16] = (i32::from(q >> 4) - 8) as f32 * d;
            }
            *y = weights;
        }
    }
}

impl Weights for BlockQ4_K {
    #[inline(always)]
    fn decode(row: &[Self], c: usize, _: usize, y: &mut Row<f32>) {
        let (block, part) = (&row[c / 256], c % 256 / 64);
        let (d, dmin) = (scale(block.d), scale(block.dmin));
        let qs: &[u8; 32] = &block.qs.as_chunks().0[part];
        for (half, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (sc, m) = block.scale_min(2 * part + half);
            let (d, min) = (d * f32::from(sc), dmin * f32::from(m));
            let mut weights = [0.0; 32];
            for (w, &q) in weights.iter_mut().zip(qs) {
                *w = d * (i32::from(q) >> (4 * half) & 15) as f32 - min;
            }
            *y = weights;
        }
    }
}

impl Weights for BlockQ6_K {
    #[inline(always)]
    fn decode(row: &[Self], c: usize, _: usize, y: &mut Row<f32>) {
        let block = &row[c / 256];
        match c % 256 / 64 {
            0 => q6_k::<0>(block, y),
            1 => q6_k::<1>(block, y),
            2 => q6_k::<2>(block, y),
            _ => q6_k::<3>(block, y),
        }
    }
}

/// Weights `64 PART..64 (PART + 1)`. Known when it is compiled, so that shifts are constants.
#[inline(always)]
fn q6_k<const PART: usize>(block: &BlockQ6_K, y: &mut Row<f32>) {
    let upper = PART % 2;
    let d = scale(block.d);
    let ql: &[u8; 64] = &block.ql.as_chunks().0[PART / 2];
    let qh: &[u8; 32] = &block.qh.as_chunks().0[PART / 2];
    for (s, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let d = d * f32::from(block.scales[4 * PART + s]);
        let ql: &[u8; 16] = &ql.as_chunks().0[s];
        let qh: &[u8; 16] = &qh.as_chunks().0[s % 2];
        let shift = 4 * upper + s / 2 * 2;
        let mut weights = [0.0; 16];
        for ((w, &l), &h) in weights.iter_mut().zip(ql).zip(qh) {
            let code = u32::from(l) >> (4 * upper) & 15 | (u32::from(h) >> shift & 3) << 4;
            *w = d * (code as i32 - 32) as f32;
        }
        *y = weights;
    }
}

macro_rules! ternary_weights {
    ($block:ident) => {
        impl Weights for $block {
            #[inline(always)]
            fn decode(row: &[Self], c: usize, _: usize, y: &mut Row<f32>) {
                let block = &row[c / 256];
                let (d, codes) = (scale(block.d), block.codes(c % 256 / 64));
                for (y, code) in y.iter_mut().zip(codes) {
                    *y = (i32::from(code) - 1) as f32 * d;
                }
            }
        }
    };
}
ternary_weights!(BlockTq1_0);
ternary_weights!(BlockTq2_0);

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::simd::SimdLevel;
    use ggml_ops::quants;

    #[test]
    fn every_half_has_the_bits_of_the_definition() {
        for h in 0..=u16::MAX {
            let (got, want) = (f16_to_f32(h), quants::f16_to_f32(h));
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{h:#x}: {got}, not {want}");
        }
    }

    /// Random bytes, and every byte at every place of a TQ1_0 block.
    pub(in crate::out_prod) fn rows(bytes: usize, n: usize) -> Vec<u8> {
        (0..n * bytes)
            .map(|i| ((i / bytes).wrapping_mul(37) + (i % bytes).wrapping_mul(i % bytes + 11)) as u8)
            .collect()
    }

    #[test]
    fn panels_have_the_bits_of_the_definition() {
        use GgmlType::*;
        for (ty, columns) in [
            (F32, 77),
            (F16, 77),
            (BF16, 130),
            (Q8_0, 96),
            (Q4_0, 96),
            (Q4_K, 512),
            (Q6_K, 512),
            (TQ1_0, 512),
            (TQ2_0, 512),
            (Q4_1, 96),
            (Q5_0, 96),
            (MXFP4, 160),
            (Q3_K, 512),
            (IQ4_XS, 512),
        ] {
            let n = 256;
            let bytes = ty.row_size(columns).unwrap();
            let data = rows(bytes, n);
            // SAFETY: `data` has these rows.
            let rows = unsafe { Rows::new(data.as_ptr(), bytes, bytes, n) };
            let mut want = vec![0.0; n * columns];
            quants::dequantize(ty, &data, &mut want).unwrap();
            for level in SimdLevel::available() {
                for c in (0..columns).step_by(COLUMNS) {
                    let width = COLUMNS.min(columns - c);
                    let mut panel = vec![[0.0; COLUMNS]; n];
                    to_f32(level, ty, &rows, c, width, &mut panel);
                    for (r, row) in panel.iter().enumerate() {
                        for (i, got) in row[..width].iter().enumerate() {
                            let want = want[r * columns + c + i];
                            let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                            assert!(same, "{ty} {level} row {r} column {}: {got}, not {want}", c + i);
                        }
                    }
                }
            }
        }
    }
}
