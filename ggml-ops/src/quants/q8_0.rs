//! Q8_0: 32 weights of 8 bits with one scale.

use bytemuck::{Pod, Zeroable};
use gguf::GgmlType;

use super::rounding::{abs_max, truncate};
use super::{Block, f16_to_f32, f32_to_f16};

/// 32 weights: `w[i] = qs[i] * d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// Scale, f16 little-endian.
    pub d: [u8; 2],
    /// -127..=127.
    pub qs: [i8; 32],
}

const _: () = assert!(size_of::<BlockQ8_0>() == GgmlType::Q8_0.type_size());

impl BlockQ8_0 {
    /// The scale.
    pub fn d(&self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.d))
    }
}

impl Block for BlockQ8_0 {
    const TYPE: GgmlType = GgmlType::Q8_0;

    fn quantize(x: &[f32]) -> Self {
        let d = abs_max(x) / 127.0;
        let id = if d != 0.0 { 1.0 / d } else { 0.0 };
        let mut qs = [0; 32];
        for (q, v) in qs.iter_mut().zip(x) {
            *q = truncate((v * id).round()) as i8;
        }
        BlockQ8_0 { d: f32_to_f16(d).to_le_bytes(), qs }
    }

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d();
        for (y, &q) in y.iter_mut().zip(&self.qs) {
            *y = f32::from(q) * d;
        }
    }

    fn scales(&self) -> impl Iterator<Item = (&'static str, f32)> {
        [("d", self.d())].into_iter()
    }
}
