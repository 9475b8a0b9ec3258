//! TQ1_0: 256 ternary weights, five to a byte, with one scale.

use bytemuck::{Pod, Zeroable};
use gguf::GgmlType;

use super::rounding::{abs_max, truncate};
use super::{Block, Ternary, f16_to_f32, f32_to_f16};

/// 256 weights: `w[i] = (trit[i] - 1) * d`.
///
/// A byte holds a number in base 3 as a fraction of 256, `ceil(v * 256 / 243)`, so that multiplying by 3 moves the
/// next trit, most significant first, into the carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTq1_0 {
    /// Five trits a byte. Trit n of byte m < 32 is weight `32 n + m`, of byte 32 + m weight `160 + 16 n + m`.
    pub qs: [u8; 48],
    /// Four trits a byte. Trit n of byte m is weight `240 + 4 n + m`.
    pub qh: [u8; 4],
    /// Scale, f16 little-endian.
    pub d: [u8; 2],
}

const _: () = assert!(size_of::<BlockTq1_0>() == GgmlType::TQ1_0.type_size());

/// Five weights 0.
const ZEROS: u8 = 0x80;
/// Four weights 0, and 0 for the fifth trit.
const ZEROS_QH: u8 = 0x7f;

/// The three groups of bytes: first weight, bytes (also the stride of its trits), trits per byte.
const GROUPS: [(usize, usize, usize); 3] = [(0, 32, 5), (160, 16, 5), (240, 4, 4)];

impl Block for BlockTq1_0 {
    const TYPE: GgmlType = GgmlType::TQ1_0;

    fn quantize(x: &[f32]) -> Self {
        let d = abs_max(x);
        let id = if d != 0.0 { 1.0 / d } else { 0.0 };
        let mut bytes = [0; 52];
        let mut at = 0;
        for (first, len, trits) in GROUPS {
            for m in 0..len {
                let mut v = 0u32;
                for n in 0..5 {
                    let trit = if n < trits { truncate((x[first + n * len + m] * id).round()) + 1 } else { 0 };
                    // Only NaN makes a trit outside 0..=2.
                    v = v * 3 + (trit & 3) as u32;
                }
                bytes[at] = (v * 256).div_ceil(243) as u8;
                at += 1;
            }
        }
        let mut block = BlockTq1_0 { qs: [0; 48], qh: [0; 4], d: f32_to_f16(d).to_le_bytes() };
        block.qs.copy_from_slice(&bytes[..48]);
        block.qh.copy_from_slice(&bytes[48..]);
        block
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

impl Ternary for BlockTq1_0 {
    fn d_bits(&self) -> u16 {
        u16::from_le_bytes(self.d)
    }

    fn weights(&self) -> [i8; 256] {
        let mut w = [0; 256];
        let mut fractions = self.qs.iter().chain(&self.qh).copied();
        for (first, len, trits) in GROUPS {
            let mut group = [0; 32];
            let group = &mut group[..len];
            group.fill_with(|| fractions.next().unwrap_or_default());
            for w in w[first..first + len * trits].chunks_exact_mut(len) {
                for (w, fraction) in w.iter_mut().zip(group.iter_mut()) {
                    let carry = u16::from(*fraction) * 3;
                    *w = (carry >> 8) as i8 - 1;
                    *fraction = carry as u8;
                }
            }
        }
        w
    }

    fn is_zero(&self) -> bool {
        self.d_bits() & 0x7fff == 0 && self.qs == [ZEROS; 48] && self.qh == [ZEROS_QH; 4]
    }
}
