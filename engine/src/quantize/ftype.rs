//! The file types that a model can be quantized to: `llama_ftype`, the value of `general.file_type`.

use std::fmt;

use gguf::GgmlType;

macro_rules! ftypes {
    ($($name:ident = $id:literal, $base:ident, $about:literal;)*) => {
        /// What most of the tensors of a file are stored as: `llama_ftype`.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum FType { $(#[doc = $about] $name,)* }

        impl FType {
            /// Every file type that can be written, in the order in which `--help` lists them.
            pub const ALL: &[FType] = &[$(FType::$name,)*];

            /// The name on the command line, for example `Q4_K_M`.
            pub const fn name(self) -> &'static str {
                match self { $(FType::$name => stringify!($name),)* }
            }

            /// The value of `general.file_type`.
            pub const fn id(self) -> u32 {
                match self { $(FType::$name => $id,)* }
            }

            /// The type of all tensors that no rule of the mixture gives another.
            pub const fn base(self) -> GgmlType {
                match self { $(FType::$name => GgmlType::$base,)* }
            }

            /// One line for `--help`.
            pub const fn about(self) -> &'static str {
                match self { $(FType::$name => $about,)* }
            }
        }
    };
}

ftypes! {
    TQ1_0 = 36, TQ1_0, "1.69 bits per weight, ternary";
    TQ2_0 = 37, TQ2_0, "2.06 bits per weight, ternary";
    Q2_K_S = 21, Q2_K, "2.63 bits per weight, some tensors Q4_K";
    Q2_K = 10, Q2_K, "2.63 bits per weight, some tensors Q3_K or Q4_K";
    Q3_K_S = 11, Q3_K, "3.44 bits per weight";
    Q3_K_M = 12, Q3_K, "3.44 bits per weight, some tensors Q4_K or Q5_K";
    Q3_K_L = 13, Q3_K, "3.44 bits per weight, some tensors Q5_K";
    IQ4_XS = 30, IQ4_XS, "4.25 bits per weight, unequal steps";
    IQ4_NL = 25, IQ4_NL, "4.5 bits per weight, unequal steps";
    MXFP4_MOE = 38, MXFP4, "experts in 4.25 bits per weight, other tensors Q8_0";
    Q4_0 = 2, Q4_0, "4.5 bits per weight";
    Q4_1 = 3, Q4_1, "5 bits per weight";
    Q4_K_S = 14, Q4_K, "4.5 bits per weight, some tensors Q5_K";
    Q4_K_M = 15, Q4_K, "4.5 bits per weight, some tensors Q6_K";
    Q5_0 = 8, Q5_0, "5.5 bits per weight";
    Q5_1 = 9, Q5_1, "6 bits per weight";
    Q5_K_S = 16, Q5_K, "5.5 bits per weight";
    Q5_K_M = 17, Q5_K, "5.5 bits per weight, some tensors Q6_K";
    Q6_K = 18, Q6_K, "6.56 bits per weight";
    Q8_0 = 7, Q8_0, "8.5 bits per weight";
    F16 = 1, F16, "16 bits, half precision";
    BF16 = 32, BF16, "16 bits, bfloat16";
    F32 = 0, F32, "32 bits, single precision";
}

/// Other names.
const ALIASES: &[(&str, FType)] =
    &[("Q3_K", FType::Q3_K_M), ("Q4_K", FType::Q4_K_M), ("Q5_K", FType::Q5_K_M), ("MXFP4", FType::MXFP4_MOE)];

/// What llama.cpp has besides, for which there is no codec here.
const UNSUPPORTED: &[(&str, u32)] = &[
    ("IQ2_XXS", 19),
    ("IQ2_XS", 20),
    ("IQ3_XS", 22),
    ("IQ3_XXS", 23),
    ("IQ1_S", 24),
    ("IQ3_S", 26),
    ("IQ3_M", 27),
    ("IQ2_S", 28),
    ("IQ2_M", 29),
    ("IQ1_M", 31),
    ("NVFP4", 39),
    ("Q1_0", 40),
    ("Q2_0", 41),
];

/// The bit that llama.cpp sets in a file type that it guessed.
const GUESSED: u32 = 1024;

/// Why a name or number is no [`FType`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownFType {
    /// llama.cpp has it; there is no codec for it here.
    #[error("type {name} is not supported: there is no codec for it (supported: {})", supported())]
    NoCodec {
        /// llama.cpp's name.
        name: &'static str,
    },
    /// Nobody has it.
    #[error("unknown type '{got}' (supported: {})", supported())]
    Unknown {
        /// What was given.
        got: String,
    },
}

fn supported() -> String {
    let names: Vec<_> = FType::ALL.iter().map(|f| f.name()).collect();
    names.join(" ")
}

impl FType {
    /// The file type with this name in any case (`Q4_K` is `Q4_K_M`, and so on) or this number.
    ///
    /// # Errors
    /// [`UnknownFType`], which tells types that llama.cpp has from those that nobody has.
    pub fn parse(text: &str) -> Result<FType, UnknownFType> {
        if let Some((_, f)) = ALIASES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
            return Ok(*f);
        }
        let id: Option<u32> = text.parse().ok();
        let is = |name: &str, its: u32| name.eq_ignore_ascii_case(text) || id == Some(its);
        if let Some(f) = FType::ALL.iter().find(|f| is(f.name(), f.id())) {
            return Ok(*f);
        }
        match UNSUPPORTED.iter().find(|(name, its)| is(name, *its)) {
            Some((name, _)) => Err(UnknownFType::NoCodec { name }),
            None => Err(UnknownFType::Unknown { got: text.into() }),
        }
    }

    /// The name for a value of `general.file_type`, also of types without codec; `None` if the number has none.
    pub fn name_of(id: u32) -> Option<&'static str> {
        let supported = FType::ALL.iter().map(|f| (f.name(), f.id()));
        let mut all = supported.chain(UNSUPPORTED.iter().copied());
        all.find(|(_, its)| *its == id & !GUESSED).map(|(name, _)| name)
    }

    /// llama.cpp's guess for a file without `general.file_type` from the type that most of its tensors have.
    pub(super) fn guess_id(most: GgmlType) -> u32 {
        let id = match FType::parse(most.name()) {
            Ok(f) => f.id(),
            Err(UnknownFType::NoCodec { name }) => {
                UNSUPPORTED.iter().find(|(n, _)| *n == name).map_or(0, |(_, id)| *id)
            }
            Err(UnknownFType::Unknown { .. }) => FType::F32.id(),
        };
        id | GUESSED
    }
}

impl fmt::Display for FType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_case_and_numbers_parse() {
        for &f in FType::ALL {
            assert_eq!(FType::parse(f.name()), Ok(f));
            assert_eq!(FType::parse(&f.name().to_ascii_lowercase()), Ok(f));
            assert_eq!(FType::parse(&f.id().to_string()), Ok(f));
        }
        assert_eq!(FType::parse("q3_k"), Ok(FType::Q3_K_M));
        assert_eq!(FType::parse("q4_k"), Ok(FType::Q4_K_M));
        assert_eq!(FType::parse("q5_K"), Ok(FType::Q5_K_M));
        assert_eq!(FType::parse("0"), Ok(FType::F32));
        assert_eq!(FType::name_of(36), Some("TQ1_0"));
        assert_eq!(FType::name_of(1024 + 17), Some("Q5_K_M"));
        assert_eq!(FType::name_of(5), None);
    }

    #[test]
    fn guesses_are_llama_cpps() {
        for (ty, id) in [
            (GgmlType::F32, 0),
            (GgmlType::TQ2_0, 37),
            (GgmlType::Q4_K, 15),
            (GgmlType::Q5_K, 17),
            (GgmlType::Q3_K, 12),
            (GgmlType::Q2_K, 10),
            (GgmlType::IQ3_S, 26),
            (GgmlType::MXFP4, 38),
            (GgmlType::I32, 0),
        ] {
            assert_eq!(FType::guess_id(ty), 1024 + id, "{ty}");
        }
    }

    #[test]
    fn types_without_a_codec_are_named() {
        assert_eq!(FType::parse("iq3_m"), Err(UnknownFType::NoCodec { name: "IQ3_M" }));
        assert_eq!(FType::parse("19"), Err(UnknownFType::NoCodec { name: "IQ2_XXS" }));
        for got in ["", "Q9_0", "4", "-1", "out.gguf", "1.0"] {
            assert_eq!(FType::parse(got), Err(UnknownFType::Unknown { got: got.into() }));
        }
    }

    #[test]
    fn no_name_or_id_is_there_twice() {
        let mut ids: Vec<u32> = FType::ALL.iter().map(|f| f.id()).collect();
        ids.extend(UNSUPPORTED.iter().map(|(_, id)| *id));
        let n = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), n);
    }
}
