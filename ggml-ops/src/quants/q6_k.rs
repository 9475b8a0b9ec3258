//! Q6_K: 256 weights of 6 bits in 16 sub-blocks, each with a scale of 8 bits.

use bytemuck::{Pod, Zeroable};
use gguf::GgmlType;

use super::rounding::{GROUP_MAX_EPS, nearest_int, signed_max};
use super::{Block, f16_to_f32, f32_to_f16, symmetric_fit};

/// 256 weights in sub-blocks of 16: `w[i] = d * scales[i / 16] * (q[i] - 32)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ6_K {
    /// Low 4 bits: of weight `128 h + 32 k + l` in byte `64 h + 32 (k % 2) + l`, low half for k < 2, else high half.
    pub ql: [u8; 128],
    /// High 2 bits: of weight `128 h + 32 k + l` in bits `2k, 2k + 1` of byte `32 h + l`.
    pub qh: [u8; 64],
    /// Scales of the sub-blocks.
    pub scales: [i8; 16],
    /// Scale of the scales, f16 little-endian.
    pub d: [u8; 2],
}

const _: () = assert!(size_of::<BlockQ6_K>() == GgmlType::Q6_K.type_size());

const SUB: usize = 16;
/// Codes are 0..64, less this.
const ZERO: i32 = 32;

/// Places of weight i: byte of `ql`, shift there, byte of `qh`, shift there.
fn place(i: usize) -> (usize, usize, usize, usize) {
    let (h, k, l) = (i / 128, i / 32 % 4, i % 32);
    (64 * h + 32 * (k % 2) + l, k / 2 * 4, 32 * h + l, 2 * k)
}

impl BlockQ6_K {
    /// The scale of the scales.
    pub fn d(&self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.d))
    }

    /// The integer weights in order, -32..=31.
    pub fn weights(&self) -> [i8; 256] {
        let mut w = [0; 256];
        for (i, w) in w.iter_mut().enumerate() {
            let (l, l_shift, h, h_shift) = place(i);
            let code = ((self.ql[l] >> l_shift) & 15) | (((self.qh[h] >> h_shift) & 3) << 4);
            *w = code as i8 - ZERO as i8;
        }
        w
    }

    /// Errors count by the weights `w`.
    fn fit(x: &[f32], w: &[f32]) -> Self {
        let mut block = BlockQ6_K::zeroed();
        let (blocks, w) = (x.as_chunks::<SUB>().0, w.as_chunks::<SUB>().0);
        let mut fits: [_; 16] = std::array::from_fn(|j| symmetric_fit::fit(&blocks[j], &w[j], ZERO));
        let scales = fits.map(|(scale, _)| scale);
        let max_scale = signed_max(&scales);
        if max_scale.abs() < GROUP_MAX_EPS {
            return block;
        }
        let iscale = -128.0 / max_scale;
        block.d = f32_to_f16(1.0 / iscale).to_le_bytes();
        block.scales = scales.map(|s| nearest_int(iscale * s).min(127) as i8);

        for (j, (_, q)) in fits.iter_mut().enumerate() {
            let d = block.d() * f32::from(block.scales[j]);
            if d != 0.0 {
                for (l, q) in q.iter_mut().enumerate() {
                    *q = (nearest_int(x[j * SUB + l] / d).clamp(-ZERO, ZERO - 1) + ZERO) as u8;
                }
            }
            for (l, q) in q.iter().enumerate() {
                let (low, l_shift, high, h_shift) = place(j * SUB + l);
                block.ql[low] |= (q & 15) << l_shift;
                block.qh[high] |= (q >> 4) << h_shift;
            }
        }
        block
    }
}

impl Block for BlockQ6_K {
    const TYPE: GgmlType = GgmlType::Q6_K;

    fn quantize(x: &[f32]) -> Self {
        let squares: [f32; 256] = std::array::from_fn(|i| x[i] * x[i]);
        Self::fit(x, &squares)
    }

    fn quantize_weighted(x: &[f32], importance: &[f32], _row_mean_square: f32) -> Self {
        Self::fit(x, importance)
    }
    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d();
        for (i, (y, w)) in y.iter_mut().zip(self.weights()).enumerate() {
            *y = d * f32::from(self.scales[i / SUB]) * f32::from(w);
        }
    }

    fn scales(&self) -> impl Iterator<Item = (&'static str, f32)> {
        [("d", self.d())].into_iter()
    }
}
