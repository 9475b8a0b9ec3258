#version 450
#extension GL_GOOGLE_include_directive : require
#define OPERANDS 2
#include "rows.glsl"

void main() {
    if (group_index() >= rows()) return;
    uvec3 row = row_of(group_index());
    uint ar = a_row(row), br = b_row(row), yr = y_row(row), n = p.len[0];
    float lane = 0.0;
    for (uint i = invocation(); i < n; i += 64u) lane = lane + a[ar + i] * a[ar + i];
    float sum = tree64(lane), r = 0.0;
    if (invocation() == 0u) r = div(1.0, square_root(div(sum, float(n)) + p.f));
    r = of_first(r);
    for (uint i = invocation(); i < n; i += 64u) y[yr + i] = (a[ar + i] * r) * b[br + i];
}
