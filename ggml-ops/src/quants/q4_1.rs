//! Q4_1: 32 weights of 4 bits with a scale and a minimum.

use bytemuck::{Pod, Zeroable};
use gguf::GgmlType;

use super::min_fit::{Fit, Search};
use super::rounding::{error_weights, min_max, truncate};
use super::{Block, f16_to_f32, f32_to_f16};

/// 32 weights: `w[i] = q[i] * d + m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// Scale, f16 little-endian.
    pub d: [u8; 2],
    /// Minimum, f16 little-endian.
    pub m: [u8; 2],
    /// Weight j in the low half of byte j, weight 16 + j in the high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_1>() == GgmlType::Q4_1.type_size());

impl BlockQ4_1 {
    /// The scale.
    pub fn d(&self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.d))
    }

    /// The minimum.
    pub fn m(&self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.m))
    }

    /// The codes in order, 0..=15.
    pub fn codes(&self) -> [i8; 32] {
        let mut q = [0; 32];
        for (j, &byte) in self.qs.iter().enumerate() {
            q[j] = (byte & 15) as i8;
            q[j + 16] = (byte >> 4) as i8;
        }
        q
    }
}

impl Block for BlockQ4_1 {
    const TYPE: GgmlType = GgmlType::Q4_1;

    fn quantize(x: &[f32]) -> Self {
        let (min, max) = min_max(x);
        let d = (max - min) / 15.0;
        let id = if d != 0.0 { 1.0 / d } else { 0.0 };
        let code = |v: f32| (truncate((v - min) * id + 0.5) as i8).min(15) as u8;
        let mut qs = [0; 16];
        for (j, byte) in qs.iter_mut().enumerate() {
            *byte = code(x[j]) | (code(x[j + 16]) << 4);
        }
        BlockQ4_1 { d: f32_to_f16(d).to_le_bytes(), m: f32_to_f16(min).to_le_bytes(), qs }
    }

    fn quantize_weighted(x: &[f32], importance: &[f32], row_mean_square: f32) -> Self {
        let (x, importance) = (&x.as_chunks::<32>().0[0], &importance.as_chunks::<32>().0[0]);
        let w = error_weights(x, importance, row_mean_square);
        let Fit { scale, min, q } = Search::weighted(15).fit(x, &w);
        let qs = std::array::from_fn(|j| q[j] | (q[j + 16] << 4));
        BlockQ4_1 { d: f32_to_f16(scale).to_le_bytes(), m: f32_to_f16(-min).to_le_bytes(), qs }
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
