//! MXFP4: 32 weights of 4 bits, floats of the kind E2M1, with a power of two as scale
//! ([OCP Microscaling Formats 1.0](https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf)).

use bytemuck::{Pod, Zeroable};
use gguf::GgmlType;

use super::Block;
use super::rounding::{abs_max, truncate};

/// Twice what the codes stand for: ggml's `kvalues_mxfp4`.
pub const KVALUES_MXFP4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 32 weights: `w[i] = d * KVALUES_MXFP4[q[i]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockMxfp4 {
    /// The scale, E8M0: 2^(e - 127).
    pub e: u8,
    /// Code j in the low half of byte j, code 16 + j in the high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockMxfp4>() == GgmlType::MXFP4.type_size());

/// Half of 2^(e - 127). 255, which the format keeps for NaN, is 2^127 as in ggml.
#[inline]
pub fn e8m0_to_f32_half(e: u8) -> f32 {
    let e = u32::from(e);
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 })
}

impl BlockMxfp4 {
    /// Half the scale, which goes with the doubled [`weights`](Self::weights).
    pub fn d(&self) -> f32 {
        e8m0_to_f32_half(self.e)
    }

    /// The weights in order as integers, doubled: -12..=12.
    pub fn weights(&self) -> [i8; 32] {
        let mut w = [0; 32];
        for (j, &byte) in self.qs.iter().enumerate() {
            w[j] = KVALUES_MXFP4[usize::from(byte & 15)];
            w[j + 16] = KVALUES_MXFP4[usize::from(byte >> 4)];
        }
        w
    }
}

/// The first of the codes next to v.
fn nearest(v: f32, d: f32) -> u8 {
    let error = |code: usize| (f32::from(KVALUES_MXFP4[code]) * d - v).abs();
    let mut best = 0;
    for code in 1..16 {
        if error(code) < error(best) {
            best = code;
        }
    }
    best as u8
}

impl Block for BlockMxfp4 {
    const TYPE: GgmlType = GgmlType::MXFP4;

    fn quantize(x: &[f32]) -> Self {
        let amax = abs_max(x);
        // Through f32, whose rounding decides just below a power of two.
        let log2 = f64::from(amax).log2() as f32;
        let e = if amax > 0.0 { truncate(log2.floor() - 2.0 + 127.0) as u8 } else { 0 };
        let d = e8m0_to_f32_half(e);
        BlockMxfp4 { e, qs: std::array::from_fn(|j| nearest(x[j], d) | nearest(x[j + 16], d) << 4) }
    }

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d();
        for (y, w) in y.iter_mut().zip(self.weights()) {
            *y = f32::from(w) * d;
        }
    }

    fn scales(&self) -> impl Iterator<Item = (&'static str, f32)> {
        [("e", if self.e == 255 { f32::NAN } else { self.d() })].into_iter()
    }
}
