//! Q3_K: 256 weights of 3 bits in 16 sub-blocks, each with a scale of 6 bits.

use bytemuck::{Pod, Zeroable};
use gguf::GgmlType;

use super::rounding::{GROUP_MAX_EPS, error_weights, nearest_int, signed_max, sum_of_squares};
use super::{Block, f16_to_f32, f32_to_f16, symmetric_fit};

/// 256 weights in sub-blocks of 16: `w[i] = d * (sc[j] - 32) * (q[i] - 4)`, j = i / 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ3_K {
    /// The third bit of weight `32 k + l` in bit k of byte l.
    pub hmask: [u8; 32],
    /// Low 2 bits: of weight `128 h + 32 k + l` in bits `2k, 2k + 1` of byte `32 h + l`.
    pub qs: [u8; 64],
    /// Scales, 6 bits each: see [`scale`](Self::scale).
    pub scales: [u8; 12],
    /// Scale of the scales, f16 little-endian.
    pub d: [u8; 2],
}

const _: () = assert!(size_of::<BlockQ3_K>() == GgmlType::Q3_K.type_size());

const SUB: usize = 16;
/// Codes are 0..8, less this.
const ZERO: i32 = 4;

impl BlockQ3_K {
    /// The scale of the scales.
    pub fn d(&self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.d))
    }

    /// Scale of sub-block j (0..16), -32..=31.
    pub fn scale(&self, j: usize) -> i8 {
        let low = (self.scales[j % 8] >> (j / 8 * 4)) & 15;
        let high = (self.scales[8 + j % 4] >> (j / 4 * 2)) & 3;
        (low | high << 4) as i8 - 32
    }

    /// The integer weights in order, -4..=3.
    pub fn weights(&self) -> [i8; 256] {
        let mut w = [0; 256];
        for (i, w) in w.iter_mut().enumerate() {
            let low = (self.qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2)) & 3;
            let high = (self.hmask[i % 32] >> (i / 32)) & 1;
            *w = (low | high << 2) as i8 - ZERO as i8;
        }
        w
    }

    /// Puts in the scale of sub-block j, plus 32.
    fn set_scale(&mut self, j: usize, code: u8) {
        self.scales[j % 8] |= (code & 15) << (j / 8 * 4);
        self.scales[8 + j % 4] |= (code >> 4) << (j / 4 * 2);
    }

    /// The codes that go best with the scales as they are stored.
    fn set_codes(&mut self, blocks: &[[f32; SUB]], fits: &[(f32, [u8; SUB]); 16]) {
        for (j, (_, q)) in fits.iter().enumerate() {
            let mut q = *q;
            let d = self.d() * f32::from(self.scale(j));
            if d != 0.0 {
                q = blocks[j].map(|v| (nearest_int(v / d).clamp(-ZERO, ZERO - 1) + ZERO) as u8);
            }
            for (l, q) in q.iter().enumerate() {
                let i = SUB * j + l;
                self.qs[i / 128 * 32 + i % 32] |= (q & 3) << (i / 32 % 4 * 2);
                self.hmask[i % 32] |= (q >> 2) << (i / 32);
            }
        }
    }
}

/// ggml's `make_q3_quants`: codes by the largest weight, then up to five rounds that change one code at a time where
/// the error against the best scale falls. Gives the scale and the codes (0..8). Every sum is in f32 and in order.
fn fit(x: &[f32; SUB]) -> (f32, [u8; SUB]) {
    let max = signed_max(x);
    if max.abs() < GROUP_MAX_EPS {
        return (0.0, [0; SUB]);
    }
    let iscale = -(ZERO as f32) / max;
    let mut q = x.map(|v| nearest_int(iscale * v).clamp(-ZERO, ZERO - 1));
    let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
    for (&v, &l) in x.iter().zip(&q) {
        let (w, l) = (v * v, l as f32);
        sum_lx += w * v * l;
        sum_l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (&v, q) in x.iter().zip(&mut q) {
            let (w, l) = (v * v, *q as f32);
            let mut lx = sum_lx - w * v * l;
            if lx > 0.0 {
                let mut l2 = sum_l2 - w * l * l;
                let new = nearest_int(v * l2 / lx).clamp(-ZERO, ZERO - 1);
                if new != *q {
                    let l = new as f32;
                    lx += w * v * l;
                    l2 += w * l * l;
                    if l2 > 0.0 && lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                        (*q, sum_lx, sum_l2) = (new, lx, l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    let scale = if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 };
    (scale, q.map(|l| (l + ZERO) as u8))
}

impl Block for BlockQ3_K {
    const TYPE: GgmlType = GgmlType::Q3_K;

    fn quantize(x: &[f32]) -> Self {
        let blocks = x.as_chunks::<SUB>().0;
        let fits: [_; 16] = std::array::from_fn(|j| fit(&blocks[j]));
        let scales = fits.map(|(scale, _)| scale);
        let max_scale = signed_max(&scales);
        let mut block = BlockQ3_K::zeroed();
        if max_scale != 0.0 {
            let iscale = -32.0 / max_scale;
            for (j, scale) in scales.iter().enumerate() {
                let code = ((nearest_int(iscale * scale) as i8).clamp(-32, 31) + 32) as u8;
                block.set_scale(j, code);
            }
            block.d = f32_to_f16(1.0 / iscale).to_le_bytes();
        }

        block.set_codes(blocks, &fits);
        block
    }

    fn quantize_weighted(x: &[f32], importance: &[f32], _row_mean_square: f32) -> Self {
        let (blocks, importance) = (x.as_chunks::<SUB>().0, importance.as_chunks::<SUB>().0);
        let mean_square = 2.0 * sum_of_squares(x) / 256.0;
        let w: [[f32; SUB]; 16] = std::array::from_fn(|j| error_weights(&blocks[j], &importance[j], mean_square));
        let sums = w.each_ref().map(|w| w.iter().fold(0.0, |s, w| s + w));
        let fits: [_; 16] = std::array::from_fn(|j| symmetric_fit::fit(&blocks[j], &w[j], ZERO));
        let (d, scales) = symmetric_fit::fit(&fits.map(|(scale, _)| scale), &sums, 32);
        let mut block = BlockQ3_K::zeroed();
        scales.iter().enumerate().for_each(|(j, &code)| block.set_scale(j, code));
        block.d = f32_to_f16(d).to_le_bytes();
        block.set_codes(blocks, &fits);
        block
    }

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d();
        for (i, (y, w)) in y.iter_mut().zip(self.weights()).enumerate() {
            *y = d * f32::from(self.scale(i / SUB)) * f32::from(w);
        }
    }

    fn scales(&self) -> impl Iterator<Item = (&'static str, f32)> {
        [("d", self.d())].into_iter()
    }
}
