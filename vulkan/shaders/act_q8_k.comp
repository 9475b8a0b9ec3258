#version 450
#extension GL_GOOGLE_include_directive : require
#include "activations.glsl"

// A workgroup for each block of 256. Record, for each block: scale, sums of each 32 codes, codes: 73 words.
void main() {
    uint i = invocation(), blocks = p.k / 256u, item = group_index();
    if (item >= blocks * rows()) return;
    uvec3 row = row_of(item / blocks);
    uint b = item % blocks, from = x_row(row) + 256u * b + 4u * i, to = act_row(row) + 73u * b;
    float a = largest_among(largest_of_4(from), 64u), d = 0.0;
    uint word = 0u;
    int sum = 0;
    if (a != 0.0) {
        float e = div(127.0, a);
        d = div(1.0, e);
        word = round4(from, e, sum);
    }
    act[to + 9u + i] = word;
    sum = sum_among(sum, 8u);
    if (i % 8u == 0u) act[to + 1u + i / 8u] = uint(sum);
    if (i == 0u) act[to] = floatBitsToUint(d);
}
