//! Q4_0: 32 weights of 4 bits with one scale.

use bytemuck::{Pod, Zeroable};
use gguf::GgmlType;

use super::rounding::{error_weights, signed_max, truncate};
use super::{Block, f16_to_f32, f32_to_f16, symmetric_fit};

/// 32 weights: `w[i] = (q[i] - 8) * d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// Scale, f16 little-endian. Negative where the extreme weight is positive: that weight gets code 0.
    pub d: [u8; 2],
    /// Weight j in the low half of byte j, weight 16 + j in the high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_0>() == GgmlType::Q4_0.type_size());

impl BlockQ4_0 {
    /// The scale.
    pub fn d(&self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.d))
    }

    /// The integer weights in order, -8..=7.
    pub fn weights(&self) -> [i8; 32] {
        let mut w = [0; 32];
        for (j, &byte) in self.qs.iter().enumerate() {
            w[j] = (byte & 15) as i8 - 8;
            w[j + 16] = (byte >> 4) as i8 - 8;
        }
        w
    }
}

impl Block for BlockQ4_0 {
    const TYPE: GgmlType = GgmlType::Q4_0;

    fn quantize(x: &[f32]) -> Self {
        let d = signed_max(x) / -8.0;
        let id = if d != 0.0 { 1.0 / d } else { 0.0 };
        let code = |v: f32| (truncate(v * id + 8.5) as i8).min(15) as u8;
        let mut qs = [0; 16];
        for (j, byte) in qs.iter_mut().enumerate() {
            *byte = code(x[j]) | (code(x[j + 16]) << 4);
        }
        BlockQ4_0 { d: f32_to_f16(d).to_le_bytes(), qs }
    }

    fn quantize_weighted(x: &[f32], importance: &[f32], row_mean_square: f32) -> Self {
        let (x, importance) = (&x.as_chunks::<32>().0[0], &importance.as_chunks::<32>().0[0]);
        let (d, q) = symmetric_fit::fit(x, &error_weights(x, importance, row_mean_square), 8);
        BlockQ4_0 { d: f32_to_f16(d).to_le_bytes(), qs: std::array::from_fn(|j| q[j] | (q[j + 16] << 4)) }
    }

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d();
        for (y, q) in y.iter_mut().zip(self.weights()) {
            *y = f32::from(q) * d;
        }
    }

    fn scales(&self) -> impl Iterator<Item = (&'static str, f32)> {
        [("d", self.d())].into_iter()
    }
}
