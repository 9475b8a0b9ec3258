//! The table of tensor storage types: one row per type that ggml has ever given an id to and still has, and I2_S of
//! [bitnet.cpp](https://github.com/microsoft/BitNet), which took an id that ggml had given up.

use std::fmt;

macro_rules! ggml_types {
    ($($name:ident = $id:literal, $block:literal, $bytes:literal;)*) => {
        /// How the elements of a tensor are stored: ggml's `enum ggml_type`.
        ///
        /// Elements come in blocks of [`block_size`](Self::block_size) along `ne[0]`, each block
        /// [`type_size`](Self::type_size) bytes long.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum GgmlType { $(#[doc = concat!("id ", $id, ": ", $block, " elements in ", $bytes, " bytes")] $name = $id,)* }

        impl GgmlType {
            /// Every type, in order of id.
            pub const ALL: &[GgmlType] = &[$(GgmlType::$name,)*];

            /// The type with this id in a file, or `None` if the id is unknown or was removed from ggml.
            pub const fn from_id(id: u32) -> Option<GgmlType> {
                match id { $($id => Some(GgmlType::$name),)* _ => None }
            }

            /// ggml's name, for example `"TQ2_0"`.
            pub const fn name(self) -> &'static str {
                match self { $(GgmlType::$name => stringify!($name),)* }
            }

            /// Elements in a block.
            pub const fn block_size(self) -> usize {
                match self { $(GgmlType::$name => $block,)* }
            }

            /// Bytes in a block.
            pub const fn type_size(self) -> usize {
                match self { $(GgmlType::$name => $bytes,)* }
            }
        }
    };
}

ggml_types! {
    F32 = 0, 1, 4;
    F16 = 1, 1, 2;
    Q4_0 = 2, 32, 18;
    Q4_1 = 3, 32, 20;
    Q5_0 = 6, 32, 22;
    Q5_1 = 7, 32, 24;
    Q8_0 = 8, 32, 34;
    Q8_1 = 9, 32, 36;
    Q2_K = 10, 256, 84;
    Q3_K = 11, 256, 110;
    Q4_K = 12, 256, 144;
    Q5_K = 13, 256, 176;
    Q6_K = 14, 256, 210;
    Q8_K = 15, 256, 292;
    IQ2_XXS = 16, 256, 66;
    IQ2_XS = 17, 256, 74;
    IQ3_XXS = 18, 256, 98;
    IQ1_S = 19, 256, 50;
    IQ4_NL = 20, 32, 18;
    IQ3_S = 21, 256, 110;
    IQ2_S = 22, 256, 82;
    IQ4_XS = 23, 256, 136;
    I8 = 24, 1, 1;
    I16 = 25, 1, 2;
    I32 = 26, 1, 4;
    I64 = 27, 1, 8;
    F64 = 28, 1, 8;
    IQ1_M = 29, 256, 56;
    BF16 = 30, 1, 2;
    TQ1_0 = 34, 256, 54;
    TQ2_0 = 35, 256, 66;
    I2_S = 36, 128, 32;
    MXFP4 = 39, 32, 17;
    NVFP4 = 40, 64, 36;
    Q1_0 = 41, 128, 18;
    Q2_0 = 42, 64, 18;
}

impl GgmlType {
    /// The id in a file.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Bytes behind the rows of a tensor: bitnet.cpp's I2_S, which ggml does not have, keeps the scale there.
    pub const fn tail_size(self) -> usize {
        match self {
            GgmlType::I2_S => 32,
            _ => 0,
        }
    }

    /// The type with this name, in any case.
    pub fn from_name(name: &str) -> Option<GgmlType> {
        Self::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of a row of `n` elements, or `None` where `n` is no whole number of blocks or the size overflows.
    pub const fn row_size(self, n: usize) -> Option<usize> {
        if !n.is_multiple_of(self.block_size()) {
            return None;
        }
        (n / self.block_size()).checked_mul(self.type_size())
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
