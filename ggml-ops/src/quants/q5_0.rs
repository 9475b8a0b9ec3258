//! Q5_0: 32 weights of 5 bits with one scale.

use bytemuck::{Pod, Zeroable};
use gguf::GgmlType;

use super::rounding::{error_weights, signed_max, truncate};
use super::{Block, f16_to_f32, f32_to_f16, symmetric_fit};

/// 32 weights: `w[i] = (q[i] - 16) * d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// Scale, f16 little-endian. Negative where the extreme weight is positive: that weight gets code 0.
    pub d: [u8; 2],
    /// The fifth bits, that of weight i in bit i: u32 little-endian.
    pub qh: [u8; 4],
    /// Low 4 bits: of weight j in the low half of byte j, of weight 16 + j in the high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_0>() == GgmlType::Q5_0.type_size());

/// The codes of Q5_0 and Q5_1 in order, 0..=31.
pub(super) fn codes(qh: [u8; 4], qs: &[u8; 16]) -> [i8; 32] {
    let qh = u32::from_le_bytes(qh);
    let mut q = [0; 32];
    for (i, q) in q.iter_mut().enumerate() {
        let low = (qs[i % 16] >> (i / 16 * 4)) & 15;
        let high = (qh >> i & 1) as u8;
        *q = (low | high << 4) as i8;
    }
    q
}

/// The fifth and the low bits of 32 codes.
pub(super) fn pack(q: impl Fn(usize) -> u8) -> ([u8; 4], [u8; 16]) {
    let (mut qh, mut qs) = (0u32, [0; 16]);
    for i in 0..32 {
        let q = q(i);
        qs[i % 16] |= (q & 15) << (i / 16 * 4);
        qh |= u32::from(q >> 4 & 1) << i;
    }
    (qh.to_le_bytes(), qs)
}

impl BlockQ5_0 {
    /// The scale.
    pub fn d(&self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.d))
    }

    /// The integer weights in order, -16..=15.
    pub fn weights(&self) -> [i8; 32] {
        codes(self.qh, &self.qs).map(|q| q - 16)
    }
}

impl Block for BlockQ5_0 {
    const TYPE: GgmlType = GgmlType::Q5_0;

    fn quantize(x: &[f32]) -> Self {
        let d = signed_max(x) / -16.0;
        let id = if d != 0.0 { 1.0 / d } else { 0.0 };
        let (qh, qs) = pack(|i| (truncate(x[i] * id + 16.5) as i8).min(31) as u8);
        BlockQ5_0 { d: f32_to_f16(d).to_le_bytes(), qh, qs }
    }

    fn quantize_weighted(x: &[f32], importance: &[f32], row_mean_square: f32) -> Self {
        let (x, importance) = (&x.as_chunks::<32>().0[0], &importance.as_chunks::<32>().0[0]);
        let (d, q) = symmetric_fit::fit(x, &error_weights(x, importance, row_mean_square), 16);
        let (qh, qs) = pack(|i| q[i]);
        BlockQ5_0 { d: f32_to_f16(d).to_le_bytes(), qh, qs }
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
