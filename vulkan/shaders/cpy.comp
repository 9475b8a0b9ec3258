#version 450
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
#include "float.glsl"
layout(local_size_x = 64) in;
// f32 to f16, a workgroup for each row. The box: rows. Offset and strides of y in half-words.
layout(push_constant) uniform Push {
    uint start[3];
    uint len[3];
    uint y_at, y_nb[3];
    uint x_at, x_nb[3];
    uint k;
} p;
layout(set = 0, binding = 0) buffer Y { uint y[]; };
layout(set = 0, binding = 1) readonly buffer X { float x[]; };

void main() {
    uint item = group_index();
    if (item >= p.len[0] * p.len[1] * p.len[2]) return;
    uint i1 = p.start[0] + item % p.len[0];
    item /= p.len[0];
    uint i2 = p.start[1] + item % p.len[1], i3 = p.start[2] + item / p.len[1];
    uint to = p.y_at + i1 * p.y_nb[0] + i2 * p.y_nb[1] + i3 * p.y_nb[2];
    uint from = p.x_at + i1 * p.x_nb[0] + i2 * p.x_nb[1] + i3 * p.x_nb[2], i = gl_LocalInvocationID.x;
    if (((to | p.k) & 1u) == 0u) {
        for (uint j = i; j < p.k / 2u; j += 64u) {
            y[to / 2u + j] = float_to_half(x[from + 2u * j]) | (float_to_half(x[from + 2u * j + 1u]) << 16);
        }
        return;
    }
    // Two rows share a word at their ends: each changes its own half.
    for (uint j = i; j < p.k; j += 64u) {
        uint at = to + j, shift = (at & 1u) * 16u;
        atomicAnd(y[at / 2u], 0xffff0000u >> shift);
        atomicOr(y[at / 2u], float_to_half(x[from + j]) << shift);
    }
}
