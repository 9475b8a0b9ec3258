//! The compiled shaders. `shaders/build.sh` makes them from the GLSL; a test fails where one is stale.

use crate::cooperative_matrix::TEAM;
use crate::device::Limits;

#[cfg(not(feature = "compile-shaders"))]
macro_rules! compiled {
    ($name:literal) => {
        include_bytes!(concat!("../shaders/spv/", $name, ".spv"))
    };
}

#[cfg(feature = "compile-shaders")]
macro_rules! compiled {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/spv/", $name, ".spv"))
    };
}

macro_rules! shaders {
    ($($variant:ident $name:literal $bindings:literal,)*) => {
        /// A compute shader.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum Shader { $($variant,)* }

        impl Shader {
            /// All of them.
            #[cfg(test)]
            pub(crate) const ALL: &'static [Shader] = &[$(Shader::$variant,)*];

            /// The name of its files.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Shader::$variant => $name,)* }
            }

            /// Storage buffers that it binds.
            pub(crate) fn bindings(self) -> u32 {
                match self { $(Shader::$variant => $bindings,)* }
            }

            /// Its SPIR-V.
            fn bytes(self) -> &'static [u8] {
                match self { $(Shader::$variant => compiled!($name),)* }
            }
        }
    };
}

shaders! {
    ActI16 "act_i16" 2,
    ActI8 "act_i8" 2,
    ActQ8K "act_q8_k" 2,
    ActQ8_0 "act_q8_0" 2,
    Add "add" 3,
    Cont "cont" 2,
    Cpy "cpy" 2,
    CrossEntropyLoss "cross_entropy_loss" 6,
    Dropout "dropout" 3,
    Exact "exact" 2,
    FlashAttnBackCache "flash_attn_back_cache" 6,
    FlashAttnBackScores "flash_attn_back_scores" 7,
    FlashAttnBackWeights "flash_attn_back_weights" 4,
    FlashAttnScores "flash_attn_scores" 5,
    FlashAttnSum "flash_attn_sum" 3,
    FlashAttnValues "flash_attn_values" 4,
    GetRows "get_rows" 4,
    GetRowsBack "get_rows_back" 4,
    Glu "glu" 3,
    GluBack "glu_back" 4,
    Mul "mul" 3,
    MulMatFloat "mul_mat_float" 3,
    MulMatQ4K "mul_mat_q4_k" 3,
    MulMatQ4KDot "mul_mat_q4_k_dot" 3,
    MulMatQ6K "mul_mat_q6_k" 3,
    MulMatQ6KDot "mul_mat_q6_k_dot" 3,
    MulMatQ8_0 "mul_mat_q8_0" 3,
    MulMatQ8_0Dot "mul_mat_q8_0_dot" 3,
    MulMatTernary "mul_mat_ternary" 3,
    MulMatTernaryCoopmat "mul_mat_ternary_coopmat" 3,
    MulMatTernaryDot "mul_mat_ternary_dot" 3,
    MulMatTernaryScaled "mul_mat_ternary_scaled" 3,
    MulMatTernaryScaledDot "mul_mat_ternary_scaled_dot" 3,
    OptStepAdamw "opt_step_adamw" 5,
    OutProd "out_prod" 3,
    OutProdTernary "out_prod_ternary" 3,
    OutProdTernaryCoopmat "out_prod_ternary_coopmat" 3,
    RmsNorm "rms_norm" 3,
    RmsNormBack "rms_norm_back" 4,
    Rope "rope" 3,
    Scale "scale" 2,
    SetRows "set_rows" 4,
    SoftMax "soft_max" 3,
    SoftMaxBack "soft_max_back" 3,
}

macro_rules! with_subgroups {
    ($($variant:ident $name:literal,)*) => {
        impl Shader {
            /// The SPIR-V of the same kernel with shuffles among a subgroup's invocations, if there is one. Its
            /// specialization constant [`SUBGROUP`] is their number.
            fn subgroup_bytes(self) -> Option<&'static [u8]> {
                match self {
                    $(Shader::$variant => Some(compiled!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

with_subgroups! {
    ActI8 "act_i8_subgroup",
    ActQ8K "act_q8_k_subgroup",
    ActQ8_0 "act_q8_0_subgroup",
    CrossEntropyLoss "cross_entropy_loss_subgroup",
    Exact "exact_subgroup",
    FlashAttnBackWeights "flash_attn_back_weights_subgroup",
    FlashAttnValues "flash_attn_values_subgroup",
    MulMatFloat "mul_mat_float_subgroup",
    MulMatQ4K "mul_mat_q4_k_subgroup",
    MulMatQ4KDot "mul_mat_q4_k_dot_subgroup",
    MulMatQ6K "mul_mat_q6_k_subgroup",
    MulMatQ6KDot "mul_mat_q6_k_dot_subgroup",
    MulMatTernary "mul_mat_ternary_subgroup",
    MulMatTernaryDot "mul_mat_ternary_dot_subgroup",
    RmsNorm "rms_norm_subgroup",
    RmsNormBack "rms_norm_back_subgroup",
    SoftMax "soft_max_subgroup",
    SoftMaxBack "soft_max_back_subgroup",
}

/// The specialization constant with the number of a subgroup's invocations.
pub(crate) const SUBGROUP: u32 = 3;

/// The specialization constants that are the same for all kernels of a device: behind those of each kernel.
pub(crate) fn constants_of(limits: &Limits) -> Vec<(u32, u32)> {
    let subgroup = limits.subgroup.map(|size| [(SUBGROUP, size), (7, TEAM * size)]);
    let matrix = limits.cooperative_matrix.map(|shape| [(4, shape.m), (5, shape.n), (6, shape.k)]);
    subgroup.into_iter().flatten().chain(matrix.into_iter().flatten()).collect()
}

impl Shader {
    /// The same kernel with the integer dot product, if there is one.
    pub(crate) fn with_integer_dot(self) -> Shader {
        match self {
            Shader::MulMatQ4K => Shader::MulMatQ4KDot,
            Shader::MulMatQ6K => Shader::MulMatQ6KDot,
            Shader::MulMatQ8_0 => Shader::MulMatQ8_0Dot,
            Shader::MulMatTernary => Shader::MulMatTernaryDot,
            Shader::MulMatTernaryScaled => Shader::MulMatTernaryScaledDot,
            other => other,
        }
    }

    /// Its SPIR-V.
    pub(crate) fn words(self) -> Vec<u32> {
        words(self.bytes())
    }

    /// Its SPIR-V with shuffles among a subgroup's invocations, if there is any.
    pub(crate) fn subgroup_words(self) -> Option<Vec<u32>> {
        self.subgroup_bytes().map(words)
    }

    /// Each SPIR-V of each shader.
    #[cfg(test)]
    pub(crate) fn modules() -> impl Iterator<Item = (Shader, Vec<u32>)> {
        Shader::ALL
            .iter()
            .flat_map(|&s| [Some(s.words()), s.subgroup_words()].into_iter().flatten().map(move |w| (s, w)))
    }
}

/// A module with the functions that [`crate::subnormals`] puts into the others.
const SUBNORMALS: &[u8] = compiled!("subnormals");

/// Its SPIR-V.
pub(crate) fn subnormals() -> Vec<u32> {
    words(SUBNORMALS)
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    fn folder() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders"))
    }

    #[test]
    fn every_shader_has_a_row() {
        let mut sources: Vec<String> = std::fs::read_dir(folder())
            .unwrap()
            .filter_map(|e| Some(e.unwrap().file_name().to_str()?.strip_suffix(".comp")?.to_owned()))
            .filter(|name| name != "subnormals")
            .collect();
        let dots = Shader::ALL.iter().filter(|s| s.with_integer_dot() != **s);
        sources.extend(dots.map(|s| format!("{}_dot", s.name())));
        sources.sort();
        let mut rows: Vec<&str> = Shader::ALL.iter().map(|s| s.name()).collect();
        rows.sort();
        assert_eq!(sources, rows);
        assert_eq!(Shader::ALL.iter().map(|s| s.bindings()).max(), Some(crate::device::MOST_BINDINGS));
    }

    /// Compiles the GLSL again, where glslc is installed, and compares. Compilers differ in their output from version to
    /// version, so only the one that made the files can say that they are stale.
    #[test]
    fn compiled_shaders_are_fresh() {
        let Ok(version) = Command::new("glslc").arg("--version").output() else {
            eprintln!("glslc is not installed: whether the compiled shaders are fresh was not checked");
            return;
        };
        let made_by = std::fs::read_to_string(folder().join("spv/VERSION")).unwrap();
        if version.stdout != made_by.as_bytes() {
            eprintln!("another glslc made the compiled shaders: whether they are fresh was not checked");
            return;
        }
        let out = std::env::temp_dir().join(format!("fabric-shaders-{}", std::process::id()));
        let built = Command::new(folder().join("build.sh")).arg(&out).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let shaders = Shader::ALL.iter().flat_map(|shader| {
            let variants = [("", Some(shader.bytes())), ("_subgroup", shader.subgroup_bytes())];
            variants.map(|(suffix, bytes)| (format!("{}{suffix}.spv", shader.name()), bytes))
        });
        for (name, bytes) in shaders.chain([("subnormals.spv".to_owned(), Some(SUBNORMALS))]) {
            let fresh = std::fs::read(out.join(&name)).ok();
            assert!(fresh.as_deref() == bytes, "{name} is stale: run vulkan/shaders/build.sh");
        }
        std::fs::remove_dir_all(out).unwrap();
    }
}
