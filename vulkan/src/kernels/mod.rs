//! Operations as dispatches: a function for each, which cuts the work into tiles and fills in the shader's parameters.

pub(crate) mod elementwise;
pub(crate) mod flash_attn_ext;
pub(crate) mod flash_attn_ext_back;
pub(crate) mod lookup;
pub(crate) mod mul_mat;
pub(crate) mod out_prod;
pub(crate) mod training;

/// Invocations of a workgroup, in every shader.
pub(crate) const WORKGROUP: u64 = 64;
