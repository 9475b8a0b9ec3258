#version 450
#extension GL_GOOGLE_include_directive : require
#define OPERANDS 2
#include "elementwise.glsl"
layout(constant_id = 0) const uint NEOX = 0;

// a: x [head, n_head, n_tokens], b: cos and sin [n_rot, n_tokens]. c_at: n_rot; f: 1, or -1 to rotate backwards.
void main() {
    uint item = group_index() * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    if (item >= p.len[0] * rows()) return;
    uint i = p.start[0] + item % p.len[0], n_rot = p.c_at;
    uvec3 row = row_of(item / p.len[0]);
    uint ar = a_row(row), at = y_row(row) + i;
    if (i >= n_rot) {
        y[at] = a[ar + i];
        return;
    }
    uint pair = NEOX != 0u ? i % (n_rot / 2u) : i / 2u;
    uint i0 = NEOX != 0u ? pair : 2u * pair, i1 = NEOX != 0u ? pair + n_rot / 2u : 2u * pair + 1u;
    uint cs = p.b_at + row.y * p.b_nb[2] + 2u * pair;
    float cosine = b[cs], sine = p.f * b[cs + 1u];
    float x0 = a[ar + i0], x1 = a[ar + i1];
    y[at] = i == i0 ? x0 * cosine - x1 * sine : x0 * sine + x1 * cosine;
}
