//! Q5_1: 32 weights of 5 bits with a scale and a minimum.

use bytemuck::{Pod, Zeroable};
use gguf::GgmlType;

use super::min_fit::{Fit, Search};
use super::rounding::{error_weights, min_max, truncate};
use super::{Block, f16_to_f32, f32_to_f16, q5_0};

/// 32 weights: `w[i] = q[i] * d + m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_1 {
    /// Scale, f16 little-endian.
    pub d: [u8; 2],
    /// Minimum, f16 little-endian.
    pub m: [u8; 2],
    /// The fifth bits, that of weight i in bit i: u32 little-endian.
    pub qh: [u8; 4],
    /// Low 4 bits: of weight j in the low half of byte j, of weight 16 + j in the high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_1>() == GgmlType::Q5_1.type_size());

impl BlockQ5_1 {
    /// The scale.
    pub fn d(&self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.d))
    }

    /// The minimum.
    pub fn m(&self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.m))
    }

    /// The codes in order, 0..=31.
    pub fn codes(&self) -> [i8; 32] {
        q5_0::codes(self.qh, &self.qs)
    }
}

impl Block for BlockQ5_1 {
    const TYPE: GgmlType = GgmlType::Q5_1;

    fn quantize(x: &[f32]) -> Self {
        let (min, max) = min_max(x);
        let d = (max - min) / 31.0;
        let id = if d != 0.0 { 1.0 / d } else { 0.0 };
        let (qh, qs) = q5_0::pack(|i| truncate((x[i] - min) * id + 0.5) as u8);
        BlockQ5_1 { d: f32_to_f16(d).to_le_bytes(), m: f32_to_f16(min).to_le_bytes(), qh, qs }
    }

    fn quantize_weighted(x: &[f32], importance: &[f32], row_mean_square: f32) -> Self {
        let (x, importance) = (&x.as_chunks::<32>().0[0], &importance.as_chunks::<32>().0[0]);
        let w = error_weights(x, importance, row_mean_square);
        let Fit { scale, min, q } = Search::weighted(31).fit(x, &w);
        let (qh, qs) = q5_0::pack(|i| q[i]);
        BlockQ5_1 { d: f32_to_f16(scale).to_le_bytes(), m: f32_to_f16(-min).to_le_bytes(), qh, qs }
    }

    fn dequantize(&self, y: &mut [f32]) {
        let (d, m) = (self.d(), self.m());
        for (y, q) in y.iter_mut().zip(self.codes()) {
            *y = f32::from(q) * d + m;
        }
    }

    fn scales(&self) -> impl Iterator<Item = (&'static str, f32)> {
        [("d", self.d()), ("m", self.m())].into_iter()
    }
}
