#version 450
#extension GL_GOOGLE_include_directive : require
#include "activations.glsl"

// A workgroup for each row. Record: scale, sum of all codes, codes.
void main() {
    if (group_index() >= rows()) return;
    uvec3 row = row_of(group_index());
    uint from = x_row(row), to = act_row(row), i = invocation();
    float a = 0.0;
    for (uint j = i; j < p.k / 4u; j += 64u) a = max(a, largest_of_4(from + 4u * j));
    a = max(largest_among(a, 64u), 1e-5);
    float e = div(127.0, a);
    int sum = 0, part;
    for (uint j = i; j < p.k / 4u; j += 64u) {
        act[to + 2u + j] = round4(from + 4u * j, e, part);
        sum += part;
    }
    sum = sum_among(sum, 64u);
    if (i == 0u) {
        act[to] = floatBitsToUint(div(a, 127.0));
        act[to + 1u] = uint(sum);
    }
}
