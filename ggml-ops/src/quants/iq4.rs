//! IQ4_NL and IQ4_XS: weights of 4 bits that stand for 16 values at unequal distances.

use bytemuck::{Pod, Zeroable};
use gguf::GgmlType;

use super::rounding::{GROUP_MAX_EPS, error_weights, nearest_int, signed_max, sum_of_squares};
use super::{Block, f16_to_f32, f32_to_f16};

/// What the codes stand for: ggml's `kvalues_iq4nl`.
pub const KVALUES_IQ4_NL: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 32 weights: `w[i] = d * KVALUES_IQ4_NL[q[i]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq4Nl {
    /// Scale, f16 little-endian.
    pub d: [u8; 2],
    /// Code j in the low half of byte j, code 16 + j in the high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockIq4Nl>() == GgmlType::IQ4_NL.type_size());

/// 256 weights in sub-blocks of 32: `w[i] = d * scale[i / 32] * KVALUES_IQ4_NL[q[i]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq4Xs {
    /// Scale of the scales, f16 little-endian.
    pub d: [u8; 2],
    /// High 2 bits of the scale of sub-block j in bits `2j, 2j + 1`: u16 little-endian.
    pub scales_h: [u8; 2],
    /// Low 4 bits of the scale of sub-block j in the low (even j) or high half of byte `j / 2`.
    pub scales_l: [u8; 4],
    /// Code `32 j + l` in the low half of byte `16 j + l`, code `32 j + 16 + l` in the high half.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockIq4Xs>() == GgmlType::IQ4_XS.type_size());

fn values(qs: &[u8; 16]) -> [i8; 32] {
    let mut w = [0; 32];
    for (j, &byte) in qs.iter().enumerate() {
        w[j] = KVALUES_IQ4_NL[usize::from(byte & 15)];
        w[j + 16] = KVALUES_IQ4_NL[usize::from(byte >> 4)];
    }
    w
}

/// ggml's `best_index_int8`: the code of the value next to x, the upper of two that are as near.
fn nearest(x: f32) -> u8 {
    const V: &[i8; 16] = &KVALUES_IQ4_NL;
    let value = |i: usize| f32::from(V[i]);
    if x <= value(0) {
        return 0;
    }
    if x >= value(15) {
        return 15;
    }
    let (mut low, mut high) = (0, 15);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if x < value(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    let code = if x - value(high - 1) < value(high) - x { high - 1 } else { high };
    code as u8
}

/// The scale of 32 weights: ggml's search over 16 grids, errors weighted by `w`. Every sum is in f32 and in order.
fn fit(x: &[f32; 32], w: &[f32; 32]) -> f32 {
    let max = signed_max(x);
    if max.abs() < GROUP_MAX_EPS {
        return 0.0;
    }
    let sums = |id: f32| {
        let (mut sum_qx, mut sum_q2) = (0.0, 0.0);
        for (&v, &w) in x.iter().zip(w) {
            let q = f32::from(KVALUES_IQ4_NL[usize::from(nearest(id * v))]);
            sum_qx += w * q * v;
            sum_q2 += w * q * q;
        }
        (sum_qx, sum_q2)
    };
    let lowest = f32::from(KVALUES_IQ4_NL[0]);
    let (sum_qx, sum_q2) = sums(1.0 / (-max / lowest));
    let mut scale = if sum_q2 > 0.0 { sum_qx / sum_q2 } else { 0.0 };
    let mut best = scale * sum_qx;
    for step in -7i8..=7 {
        let (sum_qx, sum_q2) = sums((f32::from(step) + lowest) / max);
        if sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2 {
            scale = sum_qx / sum_q2;
            best = scale * sum_qx;
        }
    }
    scale
}

fn codes(x: &[f32; 32], scale: f32) -> [u8; 16] {
    let id = if scale != 0.0 { 1.0 / scale } else { 0.0 };
    std::array::from_fn(|j| nearest(id * x[j]) | nearest(id * x[j + 16]) << 4)
}

impl BlockIq4Nl {
    /// The scale.
    pub fn d(&self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.d))
    }

    /// The integer weights in order, -127..=113.
    pub fn weights(&self) -> [i8; 32] {
        values(&self.qs)
    }
}

impl Block for BlockIq4Nl {
    const TYPE: GgmlType = GgmlType::IQ4_NL;

    fn quantize(x: &[f32]) -> Self {
        let x = &x.as_chunks::<32>().0[0];
        let d = fit(x, &x.map(|v| v * v));
        BlockIq4Nl { d: f32_to_f16(d).to_le_bytes(), qs: codes(x, d) }
    }

    fn quantize_weighted(x: &[f32], importance: &[f32], _row_mean_square: f32) -> Self {
        let (x, importance) = (&x.as_chunks::<32>().0[0], &importance.as_chunks::<32>().0[0]);
        let d = fit(x, &error_weights(x, importance, sum_of_squares(x) * (2.0 / 32.0)));
        BlockIq4Nl { d: f32_to_f16(d).to_le_bytes(), qs: codes(x, d) }
    }

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d();
        for (y, w) in y.iter_mut().zip(self.weights()) {
            *y = d * f32::from(w);
        }
    }

    fn scales(&self) -> impl Iterator<Item = (&'static str, f32)> {
        [("d", self.d())].into_iter()
    }
}

impl BlockIq4Xs {
    /// The scale of the scales.
    pub fn d(&self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.d))
    }

    /// Scale of sub-block j (0..8), -32..=31.
    pub fn scale(&self, j: usize) -> i8 {
        let low = (self.scales_l[j / 2] >> (j % 2 * 4)) & 15;
        let high = (u16::from_le_bytes(self.scales_h) >> (2 * j) & 3) as u8;
        (low | high << 4) as i8 - 32
    }

    /// With these scales of the sub-blocks.
    fn of(x: &[[f32; 32]], scales: [f32; 8]) -> Self {
        let d = -signed_max(&scales) / 32.0;
        let id = if d != 0.0 { 1.0 / d } else { 0.0 };
        let mut block = BlockIq4Xs::zeroed();
        block.d = f32_to_f16(d).to_le_bytes();
        let mut scales_h = 0;
        for (j, qs) in block.qs.as_chunks_mut().0.iter_mut().enumerate() {
            let scale = nearest_int(id * scales[j]).clamp(-32, 31);
            *qs = codes(&x[j], d * scale as f32);
            let scale = (scale + 32) as u16;
            block.scales_l[j / 2] |= (scale as u8 & 15) << (j % 2 * 4);
            scales_h |= (scale >> 4) << (2 * j);
        }
        block.scales_h = scales_h.to_le_bytes();
        block
    }

    /// The integer weights of sub-block j (0..8) in order, -127..=113.
    pub fn weights(&self, j: usize) -> [i8; 32] {
        values(&self.qs.as_chunks().0[j])
    }
}

impl Block for BlockIq4Xs {
    const TYPE: GgmlType = GgmlType::IQ4_XS;

    fn quantize(x: &[f32]) -> Self {
        let x: &[[f32; 32]] = x.as_chunks().0;
        Self::of(x, std::array::from_fn(|j| fit(&x[j], &x[j].map(|v| v * v))))
    }

    fn quantize_weighted(x: &[f32], importance: &[f32], _row_mean_square: f32) -> Self {
        let mean_square = sum_of_squares(x) * (2.0 / 256.0);
        let (x, importance) = (x.as_chunks::<32>().0, importance.as_chunks::<32>().0);
        Self::of(x, std::array::from_fn(|j| fit(&x[j], &error_weights(&x[j], &importance[j], mean_square))))
    }

    fn dequantize(&self, y: &mut [f32]) {
        for (j, y) in y.chunks_exact_mut(32).enumerate() {
            let d = self.d() * f32::from(self.scale(j));
            for (y, w) in y.iter_mut().zip(self.weights(j)) {
                *y = d * f32::from(w);
            }
        }
    }

    fn scales(&self) -> impl Iterator<Item = (&'static str, f32)> {
        [("d", self.d())].into_iter()
    }
}
