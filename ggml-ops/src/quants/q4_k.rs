//! Q4_K: 256 weights of 4 bits in 8 sub-blocks, each with a scale and a minimum of 6 bits.

use bytemuck::{Pod, Zeroable};
use gguf::GgmlType;

use super::min_fit::{self, Search, SixBits};
use super::{Block, f16_to_f32};

/// 256 weights in sub-blocks of 32: `w[i] = d * sc[j] * q[i] - dmin * m[j]`, j = i / 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_K {
    /// Scale of the scales, f16 little-endian.
    pub d: [u8; 2],
    /// Scale of the minima, f16 little-endian.
    pub dmin: [u8; 2],
    /// Scales and minima, 6 bits each: see [`scale_min`](Self::scale_min).
    pub scales: [u8; 12],
    /// Weight `64 p + l` in the low half of byte `32 p + l`, weight `64 p + 32 + l` in the high half.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ4_K>() == GgmlType::Q4_K.type_size());

const SUB: usize = 32;
const SEARCH: Search = Search { q_max: 15, first: -1.0, delta: 0.1, steps: 20, absolute: false, bounded: false };

impl BlockQ4_K {
    /// The scale of the scales.
    pub fn d(&self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.d))
    }

    /// The scale of the minima.
    pub fn dmin(&self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.dmin))
    }

    /// Scale and minimum of sub-block j (0..8), each 0..=63.
    pub fn scale_min(&self, j: usize) -> (u8, u8) {
        min_fit::scale_min(&self.scales, j)
    }

    /// The codes in order of the weights, 0..=15.
    pub fn codes(&self) -> [u8; 256] {
        let mut q = [0; 256];
        for (i, q) in q.iter_mut().enumerate() {
            *q = (self.qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4)) & 15;
        }
        q
    }
}

impl From<SixBits> for BlockQ4_K {
    fn from(SixBits { d, dmin, scales, q }: SixBits) -> Self {
        let mut qs = [0; 128];
        for (i, q) in q.iter().enumerate() {
            qs[i / 64 * 32 + i % 32] |= q << (i / 32 % 2 * 4);
        }
        BlockQ4_K { d: d.to_le_bytes(), dmin: dmin.to_le_bytes(), scales, qs }
    }
}

impl Block for BlockQ4_K {
    const TYPE: GgmlType = GgmlType::Q4_K;

    fn quantize(x: &[f32]) -> Self {
        SixBits::fit(&SEARCH, x).into()
    }

    fn quantize_weighted(x: &[f32], importance: &[f32], _row_mean_square: f32) -> Self {
        SixBits::fit_weighted(SEARCH.q_max, x, importance, u8::MAX).into()
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
