//! TQ2_0: 256 ternary weights of 2 bits with one scale.

use bytemuck::{Pod, Zeroable};
use gguf::GgmlType;

use super::rounding::{abs_max, truncate};
use super::{Block, Ternary, f16_to_f32, f32_to_f16};

/// 256 weights: `w[i] = (code[i] - 1) * d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTq2_0 {
    /// Weight `128 h + 32 l + m` in bits `2l, 2l + 1` of byte `32 h + m`.
    pub qs: [u8; 64],
    /// Scale, f16 little-endian.
    pub d: [u8; 2],
}

const _: () = assert!(size_of::<BlockTq2_0>() == GgmlType::TQ2_0.type_size());

/// Four codes 1, that is four weights 0.
const ZEROS: u8 = 0x55;

impl Block for BlockTq2_0 {
    const TYPE: GgmlType = GgmlType::TQ2_0;

    fn quantize(x: &[f32]) -> Self {
        let d = abs_max(x);
        let id = if d != 0.0 { 1.0 / d } else { 0.0 };
        let mut qs = [0; 64];
        for (i, v) in x.iter().enumerate() {
            let code = (truncate((v * id).round()) + 1) & 3;
            qs[i / 128 * 32 + i % 32] |= (code as u8) << (i / 32 % 4 * 2);
        }
        BlockTq2_0 { qs, d: f32_to_f16(d).to_le_bytes() }
    }

    fn dequantize(&self, y: &mut [f32]) {
        let d = f16_to_f32(self.d_bits());
        for (y, w) in y.iter_mut().zip(self.weights()) {
            *y = f32::from(w) * d;
        }
    }

    fn scales(&self) -> impl Iterator<Item = (&'static str, f32)> {
        [("d", f16_to_f32(self.d_bits()))].into_iter()
    }
}

impl Ternary for BlockTq2_0 {
    fn d_bits(&self) -> u16 {
        u16::from_le_bytes(self.d)
    }

    /// Code 3, which no quantizer makes, is weight 2.
    fn weights(&self) -> [i8; 256] {
        let mut w = [0; 256];
        let (halves, _) = self.qs.as_chunks::<32>();
        for (i, w) in w.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (w, q) in w.iter_mut().zip(&halves[i / 4]) {
                *w = ((q >> (i % 4 * 2)) & 3) as i8 - 1;
            }
        }
        w
    }

    fn is_zero(&self) -> bool {
        self.d_bits() & 0x7fff == 0 && self.qs == [ZEROS; 64]
    }
}
