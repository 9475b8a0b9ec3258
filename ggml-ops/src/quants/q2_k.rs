//! Q2_K: 256 weights of 2 bits in 16 sub-blocks, each with a scale and a minimum of 4 bits.

use bytemuck::{Pod, Zeroable};
use gguf::GgmlType;

use super::min_fit::{Fit, Search, positive_fit};
use super::rounding::{error_weights, nearest_int, sum_of_squares};
use super::{Block, f16_to_f32, f32_to_f16};

/// 256 weights in sub-blocks of 16: `w[i] = d * sc[j] * q[i] - dmin * m[j]`, j = i / 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ2_K {
    /// Scale of sub-block j in the low half of byte j, minimum in the high half.
    pub scales: [u8; 16],
    /// Weight `128 h + 32 k + l` in bits `2k, 2k + 1` of byte `32 h + l`.
    pub qs: [u8; 64],
    /// Scale of the scales, f16 little-endian.
    pub d: [u8; 2],
    /// Scale of the minima, f16 little-endian.
    pub dmin: [u8; 2],
}

const _: () = assert!(size_of::<BlockQ2_K>() == GgmlType::Q2_K.type_size());

const SUB: usize = 16;
const SEARCH: Search = Search { q_max: 3, first: -0.5, delta: 0.1, steps: 15, absolute: true, bounded: false };

impl BlockQ2_K {
    /// The scale of the scales.
    pub fn d(&self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.d))
    }

    /// The scale of the minima.
    pub fn dmin(&self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.dmin))
    }

    /// Scale and minimum of sub-block j (0..16), each 0..=15.
    pub fn scale_min(&self, j: usize) -> (u8, u8) {
        (self.scales[j] & 15, self.scales[j] >> 4)
    }

    /// The codes in order of the weights, 0..=3.
    pub fn codes(&self) -> [u8; 256] {
        let mut q = [0; 256];
        for (i, q) in q.iter_mut().enumerate() {
            *q = (self.qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2)) & 3;
        }
        q
    }

    /// The codes that go best with the scales as they are stored.
    fn set_codes(&mut self, blocks: &[[f32; SUB]], fits: &[Fit<SUB>; 16]) {
        for (j, fit) in fits.iter().enumerate() {
            let mut q = fit.q;
            let (sc, m) = self.scale_min(j);
            let d = self.d() * f32::from(sc);
            if d != 0.0 {
                let min = self.dmin() * f32::from(m);
                q = blocks[j].map(|v| nearest_int((v + min) / d).clamp(0, SEARCH.q_max) as u8);
            }
            for (l, q) in q.iter().enumerate() {
                let i = SUB * j + l;
                self.qs[i / 128 * 32 + i % 32] |= q << (i / 32 % 4 * 2);
            }
        }
    }
}

impl Block for BlockQ2_K {
    const TYPE: GgmlType = GgmlType::Q2_K;

    fn quantize(x: &[f32]) -> Self {
        let blocks = x.as_chunks::<SUB>().0;
        let fits: [Fit<SUB>; 16] = std::array::from_fn(|j| SEARCH.fit(&blocks[j], &blocks[j].map(f32::abs)));
        let max_scale = fits.iter().fold(0.0, |m, f| if f.scale > m { f.scale } else { m });
        let max_min = fits.iter().fold(0.0, |m, f| if f.min > m { f.min } else { m });
        let mut block = BlockQ2_K::zeroed();
        // What does not fit 4 bits (a negative scale) runs over into the other half, as in ggml.
        if max_scale > 0.0 {
            let inverse = 15.0 / max_scale;
            block.scales = std::array::from_fn(|j| nearest_int(inverse * fits[j].scale) as u8);
            block.d = f32_to_f16(max_scale / 15.0).to_le_bytes();
        }
        if max_min > 0.0 {
            let inverse = 15.0 / max_min;
            for (scale, fit) in block.scales.iter_mut().zip(&fits) {
                *scale |= (nearest_int(inverse * fit.min) << 4) as u8;
            }
            block.dmin = f32_to_f16(max_min / 15.0).to_le_bytes();
        }

        block.set_codes(blocks, &fits);
        block
    }

    fn quantize_weighted(x: &[f32], importance: &[f32], _row_mean_square: f32) -> Self {
        let search = Search::weighted(SEARCH.q_max);
        let (blocks, importance) = (x.as_chunks::<SUB>().0, importance.as_chunks::<SUB>().0);
        let mean_square = sum_of_squares(x) / 256.0;
        let w: [[f32; SUB]; 16] = std::array::from_fn(|j| error_weights(&blocks[j], &importance[j], mean_square));
        let sums = w.each_ref().map(|w| w.iter().fold(0.0, |s, w| s + w));
        let fits: [Fit<SUB>; 16] = std::array::from_fn(|j| search.fit(&blocks[j], &w[j]));
        let (d, scales) = positive_fit(15, &fits.each_ref().map(|f| f.scale), &sums);
        let (dmin, mins) = positive_fit(15, &fits.each_ref().map(|f| f.min), &sums);
        let mut block = BlockQ2_K::zeroed();
        block.scales = std::array::from_fn(|j| scales[j] | (mins[j] << 4));
        (block.d, block.dmin) = (f32_to_f16(d).to_le_bytes(), f32_to_f16(dmin).to_le_bytes());
        block.set_codes(blocks, &fits);
        block
    }

    fn dequantize(&self, y: &mut [f32]) {
        let q = self.codes();
        for (j, (y, q)) in y.chunks_exact_mut(SUB).zip(q.chunks_exact(SUB)).enumerate() {
            let (sc, m) = self.scale_min(j);
            let (d, min) = (self.d() * f32::from(sc), self.dmin() * f32::from(m));
            for (y, &q) in y.iter_mut().zip(q) {
                *y = d * f32::from(q) - min;
            }
        }
    }

    fn scales(&self) -> impl Iterator<Item = (&'static str, f32)> {
        [("d", self.d()), ("dmin", self.dmin())].into_iter()
    }
}
