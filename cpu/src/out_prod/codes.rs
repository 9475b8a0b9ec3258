//! Ternary weights decoded to integers, without their scale: a panel of 64 columns of a block of rows.

use super::decode::Rows;
use super::{COLUMNS, Row};
use crate::kernels::multiversion;
use ggml_ops::quants::{Block, BlockTq1_0, BlockTq2_0};
use gguf::GgmlType;

multiversion! {
    /// Decodes 64 columns from `c` of ternary rows, without their scale, to `panel`: two rows at a time, interleaved
    /// as i16. After an odd last row there is one of zeros.
    fn to_pairs(ty: GgmlType, rows: &Rows, c: usize, panel: &mut [Row<u32>]) {
        match ty {
            GgmlType::TQ1_0 => pairs::<BlockTq1_0>(rows, c, panel),
            GgmlType::TQ2_0 => pairs::<BlockTq2_0>(rows, c, panel),
            // Others do not pass the shape rule.
            _ => {}
        }
    }
}

multiversion! {
    /// As [`to_pairs`], four rows at a time, interleaved as int8. Where rows are not a multiple of four, the last is repeated.
    fn to_quads(ty: GgmlType, rows: &Rows, c: usize, panel: &mut [Row<u32>]) {
        match ty {
            GgmlType::TQ1_0 => quads::<BlockTq1_0>(rows, c, panel),
            GgmlType::TQ2_0 => quads::<BlockTq2_0>(rows, c, panel),
            // Others do not pass the shape rule.
            _ => {}
        }
    }
}

/// A type of ternary weights.
pub(super) trait Codes: Block {
    /// Weights `64 part..64 (part + 1)` of a block, plus 1.
    fn codes(&self, part: usize) -> Row<u8>;
    /// The same of four blocks, in bytes 4 i .. 4 i + 4.
    fn quads(blocks: [&Self; 4], part: usize) -> [u8; 4 * COLUMNS];
}

#[inline(always)]
fn pairs<W: Codes>(rows: &Rows, c: usize, panel: &mut [Row<u32>]) {
    for (i, y) in panel[..rows.n.div_ceil(2)].iter_mut().enumerate() {
        let blocks: &[W] = bytemuck::cast_slice(rows.row(2 * i));
        let even = blocks[c / 256].codes(c % 256 / 64);
        let mut odd = [1; COLUMNS];
        if 2 * i + 1 < rows.n {
            let blocks: &[W] = bytemuck::cast_slice(rows.row(2 * i + 1));
            odd = blocks[c / 256].codes(c % 256 / 64);
        }
        // By index: iterators over arrays by value are not compiled for the level.
        for j in 0..COLUMNS {
            // Code minus 1, in 16 bits.
            y[j] = (u32::from(even[j]) + 0xffff) & 0xffff | (u32::from(odd[j]) + 0xffff) << 16;
        }
    }
}

#[inline(always)]
fn quads<W: Codes>(rows: &Rows, c: usize, panel: &mut [Row<u32>]) {
    for (i, y) in panel[..rows.n.div_ceil(4)].iter_mut().enumerate() {
        let codes = W::quads(
            [
                block_of(rows, 4 * i, c),
                block_of(rows, 4 * i + 1, c),
                block_of(rows, 4 * i + 2, c),
                block_of(rows, 4 * i + 3, c),
            ],
            c % 256 / 64,
        );
        let y: &mut [u8; 4 * COLUMNS] = bytemuck::cast_mut(y);
        for j in 0..4 * COLUMNS {
            y[j] = codes[j].wrapping_sub(1);
        }
    }
}

/// The block of column `c`, of a row or of the last one.
#[inline(always)]
fn block_of<'a, W: Codes>(rows: &Rows<'a>, row: usize, c: usize) -> &'a W {
    let blocks: &[W] = bytemuck::cast_slice(rows.row(row.min(rows.n - 1)));
    &blocks[c / 256]
}

/// Bytes of four rows, in bytes 4 i .. 4 i + 4.
#[inline(always)]
fn interleaved<const N: usize>(rows: [&[u8; N]; 4]) -> [u32; N] {
    let mut quads = [0; N];
    for i in 0..N {
        quads[i] = u32::from_le_bytes([rows[0][i], rows[1][i], rows[2][i], rows[3][i]]);
    }
    quads
}

impl Codes for BlockTq2_0 {
    #[inline(always)]
    fn codes(&self, part: usize) -> Row<u8> {
        let qs: &[u8; 32] = &self.qs.as_chunks().0[part / 2];
        let mut codes = [0; COLUMNS];
        for (m, &q) in qs.iter().enumerate() {
            let q = if part.is_multiple_of(2) { q } else { q >> 4 };
            codes[m] = q & 3;
            codes[m + 32] = q >> 2 & 3;
        }
        codes
    }

    #[inline(always)]
    fn quads(b: [&Self; 4], part: usize) -> [u8; 4 * COLUMNS] {
        let half = part / 2;
        let qs: [&[u8; 32]; 4] = [
            &b[0].qs.as_chunks().0[half],
            &b[1].qs.as_chunks().0[half],
            &b[2].qs.as_chunks().0[half],
            &b[3].qs.as_chunks().0[half],
        ];
        let shift = part % 2 * 4;
        let mut codes = [0; 4 * COLUMNS];
        let bytes: [u8; 128] = bytemuck::cast(interleaved(qs));
        for i in 0..128 {
            codes[i] = bytes[i] >> shift & 3;
            codes[i + 128] = bytes[i] >> shift >> 2 & 3;
        }
        codes
    }
}

impl Codes for BlockTq1_0 {
    #[inline(always)]
    fn codes(&self, part: usize) -> Row<u8> {
        match part {
            0 => tq1_codes::<0>(self),
            1 => tq1_codes::<1>(self),
            2 => tq1_codes::<2>(self),
            _ => tq1_codes::<3>(self),
        }
    }

    #[inline(always)]
    fn quads(blocks: [&Self; 4], part: usize) -> [u8; 4 * COLUMNS] {
        match part {
            0 => tq1_quads::<0>(blocks),
            1 => tq1_quads::<1>(blocks),
            2 => tq1_quads::<2>(blocks),
            _ => tq1_quads::<3>(blocks),
        }
    }
}

/// Codes `64 PART..64 (PART + 1)`. Known when it is compiled, so that factors are constants.
#[inline(always)]
fn tq1_codes<const PART: usize>(block: &BlockTq1_0) -> Row<u8> {
    let bytes: &[[u8; 16]] = block.qs.as_chunks().0;
    let mut codes = [0; COLUMNS];
    for (g, codes) in codes.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        // Groups of 16 weights: ten of bytes 0..32, five of bytes 32..48, one of the last four bytes.
        let mut group = [0; 16];
        match 4 * PART + g {
            15 => {
                for (i, code) in group.iter_mut().enumerate() {
                    *code = trit(block.qh[i % 4], i / 4);
                }
            }
            g => {
                let (bytes, n) = if g < 10 { (&bytes[g % 2], g / 2) } else { (&bytes[2], g - 10) };
                for (code, &byte) in group.iter_mut().zip(bytes) {
                    *code = trit(byte, n);
                }
            }
        }
        *codes = group;
    }
    codes
}

/// Codes `64 PART..64 (PART + 1)` of four blocks, interleaved.
#[inline(always)]
fn tq1_quads<const PART: usize>(b: [&BlockTq1_0; 4]) -> [u8; 4 * COLUMNS] {
    let mut codes = [0; 4 * COLUMNS];
    for (g, codes) in codes.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        // As in `tq1_codes`.
        let mut group = [0; 64];
        match 4 * PART + g {
            15 => {
                let bytes: [u8; 16] = bytemuck::cast(interleaved([&b[0].qh, &b[1].qh, &b[2].qh, &b[3].qh]));
                for (i, code) in group.iter_mut().enumerate() {
                    *code = trit(bytes[i % 16], i / 16);
                }
            }
            g => {
                let (at, n) = if g < 10 { (g % 2, g / 2) } else { (2, g - 10) };
                let qs: [&[u8; 16]; 4] = [
                    &b[0].qs.as_chunks().0[at],
                    &b[1].qs.as_chunks().0[at],
                    &b[2].qs.as_chunks().0[at],
                    &b[3].qs.as_chunks().0[at],
                ];
                let bytes: [u8; 64] = bytemuck::cast(interleaved(qs));
                for (code, &byte) in group.iter_mut().zip(&bytes) {
                    *code = trit(byte, n);
                }
            }
        }
        *codes = group;
    }
    codes
}

/// Trit n of a byte of TQ1_0.
#[inline(always)]
fn trit(byte: u8, n: usize) -> u8 {
    /// The factor that brings trit n to the front.
    const FRONT: [u8; 5] = [1, 3, 9, 27, 81];
    let q = byte.wrapping_mul(FRONT[n]);
    u8::from(q > 85) + u8::from(q > 170)
}

#[cfg(test)]
mod tests {
    use super::super::decode::tests::rows;
    use super::*;
    use crate::simd::SimdLevel;
    use ggml_ops::quants;

    /// Rows of random codes with the scale 1, what they stand for (a row of zeros more), and bytes of a row.
    fn ternary(ty: GgmlType, columns: usize, n: usize) -> (Vec<u8>, Vec<f32>, usize) {
        let bytes = ty.row_size(columns).unwrap();
        let mut data = rows(bytes, n);
        for block in data.chunks_exact_mut(ty.type_size()) {
            let at = block.len() - 2;
            block[at..].copy_from_slice(&quants::f32_to_f16(1.0).to_le_bytes());
        }
        let mut want = vec![0.0; n * columns];
        quants::dequantize(ty, &data, &mut want).unwrap();
        want.resize((n + 1) * columns, 0.0);
        (data, want, bytes)
    }

    #[test]
    fn pairs_hold_the_weights() {
        for ty in [GgmlType::TQ1_0, GgmlType::TQ2_0] {
            let (columns, n) = (512, 255);
            let (data, want, bytes) = ternary(ty, columns, n);
            // SAFETY: `data` has these rows.
            let rows = unsafe { Rows::new(data.as_ptr(), bytes, bytes, n) };
            for level in SimdLevel::available() {
                for c in (0..columns).step_by(COLUMNS) {
                    let mut panel = vec![[7; COLUMNS]; 129];
                    to_pairs(level, ty, &rows, c, &mut panel);
                    for (r, row) in panel[..128].iter().enumerate() {
                        for (i, &got) in row.iter().enumerate() {
                            let want = [2 * r, 2 * r + 1].map(|r| want[r * columns + c + i]);
                            let got = [got as i16, (got >> 16) as i16].map(f32::from);
                            assert_eq!(got, want, "{ty} {level} rows {} column {}", 2 * r, c + i);
                        }
                    }
                    assert_eq!(panel[128], [7; COLUMNS]);
                }
            }
        }
    }

    #[test]
    fn quads_hold_the_weights() {
        for ty in [GgmlType::TQ1_0, GgmlType::TQ2_0] {
            for n in [253, 254, 255, 256] {
                let columns = 512;
                let (data, want, bytes) = ternary(ty, columns, n);
                // SAFETY: `data` has these rows.
                let rows = unsafe { Rows::new(data.as_ptr(), bytes, bytes, n) };
                for level in SimdLevel::available() {
                    for c in (0..columns).step_by(COLUMNS) {
                        let mut panel = vec![[7; COLUMNS]; 65];
                        to_quads(level, ty, &rows, c, &mut panel);
                        for (q, row) in panel[..64].iter().enumerate() {
                            for (i, got) in row.iter().enumerate() {
                                let want = [0, 1, 2, 3].map(|j| want[(4 * q + j).min(n - 1) * columns + c + i]);
                                let got = got.to_le_bytes().map(|v| f32::from(v as i8));
                                assert_eq!(got, want, "{ty} {level} rows {} column {}", 4 * q, c + i);
                            }
                        }
                        assert_eq!(panel[64], [7; COLUMNS]);
                    }
                }
            }
        }
    }
}
