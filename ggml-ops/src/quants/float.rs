//! F32, F16 and BF16: blocks of one element, little-endian.

use bytemuck::{Pod, Zeroable};
use gguf::GgmlType;

use super::{Block, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

macro_rules! float_block {
    ($(#[$doc:meta])* $name:ident, $ty:ident, $bits:ty, $decode:expr, $encode:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
        #[repr(C)]
        pub struct $name {
            /// The bits, little-endian.
            pub le: [u8; size_of::<$bits>()],
        }

        const _: () = assert!(size_of::<$name>() == GgmlType::$ty.type_size());
        const _: () = assert!(GgmlType::$ty.block_size() == 1);

        impl Block for $name {
            const TYPE: GgmlType = GgmlType::$ty;

            fn quantize(x: &[f32]) -> Self {
                let bits: $bits = $encode(x[0]);
                $name { le: bits.to_le_bytes() }
            }

            fn dequantize(&self, y: &mut [f32]) {
                y[0] = $decode(<$bits>::from_le_bytes(self.le));
            }

            fn scales(&self) -> impl Iterator<Item = (&'static str, f32)> {
                [("value", $decode(<$bits>::from_le_bytes(self.le)))].into_iter()
            }
        }
    };
}

float_block!(
    /// binary32.
    BlockF32, F32, u32, f32::from_bits, f32::to_bits
);
float_block!(
    /// binary16. Rounds to nearest even, with subnormals; NaN stays NaN, too large becomes infinite.
    BlockF16, F16, u16, f16_to_f32, f32_to_f16
);
float_block!(
    /// bfloat16, the upper half of binary32. Rounds to nearest even; NaN is made quiet.
    BlockBf16, BF16, u16, bf16_to_f32, f32_to_bf16
);
