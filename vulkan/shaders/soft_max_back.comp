#version 450
#extension GL_GOOGLE_include_directive : require
#define OPERANDS 2
#include "rows.glsl"

// a: y, b: dy.
void main() {
    if (group_index() >= rows()) return;
    uvec3 row = row_of(group_index());
    uint ar = a_row(row), br = b_row(row), yr = y_row(row), n = p.len[0];
    float dot = 0.0;
    for (uint i = invocation(); i < n; i += 64u) dot = dot + a[ar + i] * b[br + i];
    dot = tree64(dot);
    for (uint i = invocation(); i < n; i += 64u) y[yr + i] = p.f * (a[ar + i] * (b[br + i] - dot));
}
