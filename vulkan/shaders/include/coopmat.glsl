// Cooperative matrices of int8 with sums in int32, in workgroups of four subgroups.
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#define SUBGROUPS
#include "group.glsl"
const uint TEAM = 4u; // subgroups of a workgroup
const uint WORKGROUP = TEAM * SUBGROUP;
layout(local_size_x_id = 7) in; // the same
// What the device multiplies at once: rows of weights, tokens, and what they have in common. M and N divide 16, K divides 32.
layout(constant_id = 4) const uint M = 16;
layout(constant_id = 5) const uint N = 16;
layout(constant_id = 6) const uint K = 16;
#define WEIGHTS coopmat<int8_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA>
#define ACTIVATIONS coopmat<int8_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB>
#define SUMS coopmat<int, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>
#define BY_ROWS gl_CooperativeMatrixLayoutRowMajor
#define BY_COLUMNS gl_CooperativeMatrixLayoutColumnMajor
