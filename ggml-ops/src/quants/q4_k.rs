//! Q4_K: 256 weights of 4 bits in 8 sub-blocks, each with a scale and a minimum of 6 bits.

use bytemuck::{Pod, Zeroable};
use gguf::GgmlType;

use super::rounding::nearest_int;
use super::{Block, f16_to_f32, f32_to_f16};

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
const N_SUB: usize = 8;
/// Largest code.
const QMAX: i32 = 15;

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
        let s = &self.scales;
        if j < 4 {
            (s[j] & 63, s[j + 4] & 63)
        } else {
            let sc = (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4);
            let m = (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
            (sc, m)
        }
    }

    /// The codes in order of the weights, 0..=15.
    pub fn codes(&self) -> [u8; 256] {
        let mut q = [0; 256];
        for (i, q) in q.iter_mut().enumerate() {
            *q = (self.qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4)) & 15;
        }
        q
    }

    fn pack_scales(scales: &[u8; N_SUB], mins: &[u8; N_SUB]) -> [u8; 12] {
        let mut s = [0; 12];
        for j in 0..4 {
            s[j] = scales[j] | ((scales[j + 4] >> 4) << 6);
            s[j + 4] = mins[j] | ((mins[j + 4] >> 4) << 6);
            s[j + 8] = (scales[j + 4] & 15) | ((mins[j + 4] & 15) << 4);
        }
        s
    }
}

/// Scale and minimum of a sub-block, with the codes that go with them: `x ~ scale * q - min`.
struct Fit {
    scale: f32,
    min: f32,
    q: [u8; SUB],
}

/// Codes of x on the grid `q / iscale + min`.
fn codes(x: &[f32], iscale: f32, min: f32) -> [u8; SUB] {
    let mut q = [0; SUB];
    for (q, v) in q.iter_mut().zip(x) {
        *q = nearest_int(iscale * (v - min)).clamp(0, QMAX) as u8;
    }
    q
}

/// Weighted squared error of `scale * q + min` against x.
fn error(x: &[f32], w: &[f32; SUB], q: &[u8; SUB], scale: f32, min: f32) -> f32 {
    let mut error = 0.0;
    for i in 0..SUB {
        let diff = scale * f32::from(q[i]) + min - x[i];
        error += w[i] * (diff * diff);
    }
    error
}

/// ggml's `make_qkx2_quants`: tries 22 grids, for all but the first solves for the best scale and minimum given the
/// codes, and keeps the best. Every sum is in f32 and in order: the bytes of the file depend on it.
fn fit(x: &[f32]) -> Fit {
    let rms = (x.iter().fold(0.0, |s, v| s + v * v) / SUB as f32).sqrt();
    let mut w = [0.0; SUB];
    for (w, v) in w.iter_mut().zip(x) {
        *w = rms + v.abs();
    }

    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (w[0], w[0] * x[0]);
    for i in 1..SUB {
        if x[i] < min {
            min = x[i];
        }
        if x[i] > max {
            max = x[i];
        }
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    if min > 0.0 {
        min = 0.0;
    }
    if max == min {
        return Fit { scale: 0.0, min: -min, q: [0; SUB] };
    }

    let iscale = QMAX as f32 / (max - min);
    let mut scale = 1.0 / iscale;
    let mut best_q = codes(x, iscale, min);
    let mut best_error = error(x, &w, &best_q, scale, min);
    for step in 0..=20u8 {
        // From the best minimum so far: a kept fit moves the grids tried after it.
        let iscale = (-1.0 + 0.1 * f32::from(step) + QMAX as f32) / (max - min);
        let q = codes(x, iscale, min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0, 0.0, 0.0);
        for i in 0..SUB {
            let l = f32::from(q[i]);
            sum_l += w[i] * l;
            sum_l2 += w[i] * l * l;
            sum_xl += w[i] * l * x[i];
        }
        let det = sum_w * sum_l2 - sum_l * sum_l;
        if det > 0.0 {
            let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
            let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
            if this_min > 0.0 {
                this_min = 0.0;
                this_scale = sum_xl / sum_l2;
            }
            let this_error = error(x, &w, &q, this_scale, this_min);
            if this_error < best_error {
                best_q = q;
                best_error = this_error;
                scale = this_scale;
                min = this_min;
            }
        }
    }
    Fit { scale, min: -min, q: best_q }
}

impl Block for BlockQ4_K {
    const TYPE: GgmlType = GgmlType::Q4_K;

    fn quantize(x: &[f32]) -> Self {
        let mut fits: [Fit; N_SUB] = std::array::from_fn(|j| fit(&x[j * SUB..(j + 1) * SUB]));
        let max_scale = fits.iter().fold(0.0, |m, f| if f.scale > m { f.scale } else { m });
        let max_min = fits.iter().fold(0.0, |m, f| if f.min > m { f.min } else { m });
        let inv_scale = if max_scale > 0.0 { 63.0 / max_scale } else { 0.0 };
        let inv_min = if max_min > 0.0 { 63.0 / max_min } else { 0.0 };
        // A negative fit wraps to a large u8 before the limit, as in ggml.
        let six_bits = |v: f32| (nearest_int(v) as u8).min(63);
        let scales = std::array::from_fn(|j| six_bits(inv_scale * fits[j].scale));
        let mins = std::array::from_fn(|j| six_bits(inv_min * fits[j].min));
        let mut block = BlockQ4_K {
            d: f32_to_f16(max_scale / 63.0).to_le_bytes(),
            dmin: f32_to_f16(max_min / 63.0).to_le_bytes(),
            scales: Self::pack_scales(&scales, &mins),
            qs: [0; 128],
        };

        for (j, fit) in fits.iter_mut().enumerate() {
            let d = block.d() * f32::from(scales[j]);
            if d != 0.0 {
                let dm = block.dmin() * f32::from(mins[j]);
                for (l, q) in fit.q.iter_mut().enumerate() {
                    *q = nearest_int((x[j * SUB + l] + dm) / d).clamp(0, QMAX) as u8;
                }
            }
            for (l, q) in fit.q.iter().enumerate() {
                block.qs[j / 2 * 32 + l] |= q << (j % 2 * 4);
            }
        }
        block
    }

    fn dequantize(&self, y: &mut [f32]) {
        let q = self.codes();
        for j in 0..N_SUB {
            let (sc, m) = self.scale_min(j);
            let (d, min) = (self.d() * f32::from(sc), self.dmin() * f32::from(m));
            for i in j * SUB..(j + 1) * SUB {
                y[i] = d * f32::from(q[i]) - min;
            }
        }
    }

    fn scales(&self) -> impl Iterator<Item = (&'static str, f32)> {
        [("d", self.d()), ("dmin", self.dmin())].into_iter()
    }
}
