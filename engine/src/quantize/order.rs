//! The orders in which llama-quantize writes tensors.

use gguf::TensorInfo;

/// All tensors: those outside layers first, then layer by layer, by name within each.
pub(super) fn sorted(tensors: &[TensorInfo]) -> Vec<&TensorInfo> {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by(|a, b| (layer(&a.name), &a.name).cmp(&(layer(&b.name), &b.name)));
    sorted
}

/// All tensors as they lie in the files of a split model.
pub(super) fn by_file(tensors: &[TensorInfo]) -> Vec<&TensorInfo> {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|t| (t.split_no(), t.offset));
    sorted
}

/// The number behind `blk.`, if the name begins with that.
pub(super) fn layer(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("blk.")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_is_the_number_behind_blk() {
        assert_eq!(layer("blk.0.attn_q.weight"), Some(0));
        assert_eq!(layer("blk.12.attn_q.weight"), Some(12));
        for name in ["output.weight", "blk.", "blk.x", "v.blk.3.x", "blk.99999999999.x"] {
            assert_eq!(layer(name), None, "{name}");
        }
    }
}
