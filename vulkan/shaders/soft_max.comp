#version 450
#extension GL_GOOGLE_include_directive : require
#define OPERANDS 2
#include "rows.glsl"

float weight(uint ai, uint bi, float top) {
    return exponential((a[ai] * p.f + b[bi]) - top);
}

void main() {
    if (group_index() >= rows()) return;
    uvec3 row = row_of(group_index());
    uint ar = a_row(row), br = b_row(row), yr = y_row(row), n = p.len[0];
    float top = NEGATIVE_INFINITY;
    for (uint i = invocation(); i < n; i += 64u) {
        float v = a[ar + i] * p.f + b[br + i];
        top = v > top ? v : top;
    }
    top = max64(top);
    // A row that sees nothing: all zeros, not NaN.
    if (top == NEGATIVE_INFINITY) top = 0.0;
    float sum = 0.0;
    for (uint i = invocation(); i < n; i += 64u) sum = sum + weight(ar + i, br + i, top);
    sum = tree64(sum);
    float factor = 0.0;
    if (invocation() == 0u && sum > 0.0) factor = div(1.0, sum);
    factor = of_first(factor);
    for (uint i = invocation(); i < n; i += 64u) y[yr + i] = weight(ar + i, br + i, top) * factor;
}
