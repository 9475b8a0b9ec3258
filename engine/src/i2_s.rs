//! I2_S, bitnet.cpp's ternary storage: rewritten as TQ2_0 when a model is loaded.
//!
//! 128 weights of a row lie in 32 bytes: weight j of them in byte `j % 32`, bits `6 - 2 (j / 32)` and the one above;
//! codes 0, 1, 2 are -1, 0, 1. Behind the rows are one f32 scale for the whole tensor, and 28 bytes that mean nothing.
//! A block of TQ2_0 is two such groups with the four codes of each byte in the opposite order, so nothing is lost.
//! The copy takes 66 bytes of memory for the 64 of the file.
//!
//! This is what bitnet.cpp writes on x86 and what Microsoft publishes. On ARM it packs 64 weights in 16 bytes, and the
//! file does not tell.

use ggml_ops::quants::f32_to_f16;
use gguf::{GgmlType, TensorInfo};

use crate::Error;

const GROUP: usize = GgmlType::I2_S.block_size();
const BLOCK: usize = GgmlType::TQ2_0.block_size();

/// The tensor as TQ2_0 blocks, and its scale. In the blocks the scale is rounded to f16; computing with the one given
/// is exact.
pub(crate) fn to_tq2_0(info: &TensorInfo, data: &[u8]) -> Result<(Vec<u8>, f32), Error> {
    let bad = |what: String| Error::TensorData { name: info.name.clone(), what };
    if !info.ne[0].is_multiple_of(BLOCK) {
        let what = format!("rows of {} I2_S weights, expected a multiple of {BLOCK}", info.ne[0]);
        return Err(bad(what));
    }
    let groups = info.n_elements() / GROUP;
    let (codes, tail) = data.split_at_checked(groups * 32).ok_or_else(|| bad("too little data".into()))?;
    let scale = tail.first_chunk().map(|s| f32::from_le_bytes(*s)).unwrap_or_default();
    if !scale.is_finite() {
        return Err(bad(format!("its I2_S scale is {scale}, not a finite number")));
    }
    if let Some(at) = codes.iter().position(|c| c & (c >> 1) & 0x55 != 0) {
        return Err(bad(format!("byte {at} holds the code 3, which I2_S does not have")));
    }
    let d = f32_to_f16(scale).to_le_bytes();
    let mut out = Vec::with_capacity(groups / 2 * GgmlType::TQ2_0.type_size());
    for block in codes.chunks_exact(2 * 32) {
        out.extend(block.iter().map(|&c| reversed(c)));
        out.extend(d);
    }
    Ok((out, scale))
}

/// The four codes of a byte in the opposite order.
fn reversed(c: u8) -> u8 {
    let halves = c.rotate_left(4);
    (halves & 0x33) << 2 | (halves >> 2) & 0x33
}

#[cfg(test)]
mod tests {
    use super::*;
    use ggml_ops::quants;

    /// By the description, one weight at a time.
    fn pack(w: &[i8], scale: f32) -> Vec<u8> {
        let mut bytes = vec![0; w.len() / 4];
        for (i, &w) in w.iter().enumerate() {
            let (group, j) = (i / 128, i % 128);
            bytes[32 * group + j % 32] |= ((w + 1) as u8) << (6 - 2 * (j / 32));
        }
        bytes.extend(scale.to_le_bytes());
        bytes.extend([0xee; 28]);
        bytes
    }

    fn tensor(ne: [usize; 2]) -> TensorInfo {
        let mut w = gguf::Writer::new(gguf::Metadata::new()).unwrap();
        w.add_tensor("t", GgmlType::I2_S, &ne).unwrap();
        let mut data = w.start(Vec::new()).unwrap();
        data.write_tensor("t", &vec![0; ne[0] * ne[1] / 4 + 32]).unwrap();
        gguf::Gguf::from_bytes(data.into_inner().unwrap()).unwrap().tensors()[0].clone()
    }

    #[test]
    fn every_weight_comes_out() {
        let w: Vec<i8> = (0..3 * 512usize).map(|i| ((i * i + i / 5 + i / 32) % 3) as i8 - 1).collect();
        let (blocks, scale) = to_tq2_0(&tensor([512, 3]), &pack(&w, 0.7)).unwrap();
        assert_eq!(scale, 0.7);
        let mut y = vec![0.0; w.len()];
        quants::dequantize(GgmlType::TQ2_0, &blocks, &mut y).unwrap();
        let d = quants::f16_to_f32(f32_to_f16(0.7));
        assert_eq!(y, w.iter().map(|&w| f32::from(w) * d).collect::<Vec<_>>());
    }

    #[test]
    fn what_cannot_be_is_told() {
        let w = [1; 256];
        let good = pack(&w, 1.0);
        let error = |ne, data: &[u8]| to_tq2_0(&tensor(ne), data).unwrap_err().to_string();
        assert_eq!(error([128, 2], &good), "tensor 't': rows of 128 I2_S weights, expected a multiple of 256");
        let mut bad = good.clone();
        bad[33] = 0b10_11_00_01;
        assert_eq!(error([256, 1], &bad), "tensor 't': byte 33 holds the code 3, which I2_S does not have");
        bad.copy_from_slice(&pack(&w, f32::NAN));
        assert_eq!(error([256, 1], &bad), "tensor 't': its I2_S scale is NaN, not a finite number");
        assert_eq!(error([256, 1], &good[..60]), "tensor 't': too little data");
    }
}
