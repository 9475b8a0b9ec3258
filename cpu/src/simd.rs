//! SIMD levels, chosen at run time.
//!
//! Every level gives the same bits (`docs/numerics.md`); a level only changes the speed.

use std::fmt;
use std::str::FromStr;

/// An instruction set that the kernels are compiled for, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SimdLevel {
    /// Plain loops; the only level off x86-64.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX2 with AVX-VNNI's int8 dot products.
    AvxVnni,
    /// AVX-512 F, BW, VL and DQ.
    Avx512,
    /// AVX-512 with VNNI's int8 dot products.
    Avx512Vnni,
    /// The same with AMX's int8 tiles.
    Amx,
}

/// Instructions for floats: levels that differ in their int8 products share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Floats {
    /// Plain loops.
    Plain,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and DQ.
    Avx512,
}

impl SimdLevel {
    /// All levels, slowest first.
    pub const ALL: [Self; 6] = [Self::Scalar, Self::Avx2, Self::AvxVnni, Self::Avx512, Self::Avx512Vnni, Self::Amx];

    /// The fastest level that this CPU and operating system can run.
    pub fn detect() -> Self {
        let fastest = Self::ALL.into_iter().rev().find(|level| level.supported());
        fastest.unwrap_or(Self::Scalar)
    }

    /// The levels that can run here, slowest first.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|level| level.supported()).collect()
    }

    /// Whether this CPU and operating system can run the level.
    #[cfg(target_arch = "x86_64")]
    pub fn supported(self) -> bool {
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq");
        let avx512_vnni = avx512 && is_x86_feature_detected!("avx512vnni");
        match self {
            Self::Scalar => true,
            Self::Avx2 => avx2,
            Self::Avx512 => avx512,
            Self::AvxVnni => avx2 && is_x86_feature_detected!("avxvnni"),
            Self::Avx512Vnni => avx512_vnni,
            Self::Amx => avx512_vnni && crate::amx::available(),
        }
    }

    /// Whether this CPU and operating system can run the level.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn supported(self) -> bool {
        self == Self::Scalar
    }

    /// What the level computes floats with.
    pub(crate) fn floats(self) -> Floats {
        match self {
            Self::Scalar => Floats::Plain,
            Self::Avx2 | Self::AvxVnni => Floats::Avx2,
            Self::Avx512 | Self::Avx512Vnni | Self::Amx => Floats::Avx512,
        }
    }

    /// Whether this CPU multiplies bf16 at this level (AVX-512 BF16).
    pub(crate) fn has_bf16_products(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.floats() == Floats::Avx512 && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether this CPU multiplies bf16 in tiles at this level (AMX-BF16).
    pub(crate) fn has_bf16_tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Amx && crate::amx::has_bf16();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512vnni",
            Self::Amx => "amx",
        }
    }
}

impl fmt::Display for SimdLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text names no SIMD level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown SIMD level {0:?}: expected scalar, avx2, avxvnni, avx512, avx512vnni or amx")]
pub struct UnknownSimdLevel(pub String);

impl FromStr for SimdLevel {
    type Err = UnknownSimdLevel;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|level| level.name() == s);
        found.ok_or_else(|| UnknownSimdLevel(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for level in SimdLevel::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert!("AVX2".parse::<SimdLevel>().is_err());
        assert!("".parse::<SimdLevel>().is_err());
    }

    /// A CPU with AVX-VNNI need not have AVX-512.
    #[test]
    fn only_levels_of_avx512_use_it() {
        for level in SimdLevel::ALL {
            assert_eq!(level.floats() == Floats::Avx512, level >= SimdLevel::Avx512, "{level}");
            assert_eq!(level.floats() == Floats::Plain, level == SimdLevel::Scalar, "{level}");
        }
    }

    #[test]
    fn detect_is_the_last_available() {
        let available = SimdLevel::available();
        assert_eq!(available.first(), Some(&SimdLevel::Scalar));
        assert_eq!(available.last(), Some(&SimdLevel::detect()));
        assert!(available.is_sorted());
    }
}
