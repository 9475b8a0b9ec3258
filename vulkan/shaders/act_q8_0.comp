#version 450
#extension GL_GOOGLE_include_directive : require
#include "activations.glsl"

// Eight invocations for each block of 32. Record, for each block: scale, codes: 9 words.
void main() {
    uint i = invocation(), blocks = p.k / 32u;
    uint item = group_index() * 8u + i / 8u;
    bool some = item < blocks * rows();
    item = min(item, blocks * rows() - 1u);
    uvec3 row = row_of(item / blocks);
    uint b = item % blocks, from = x_row(row) + 32u * b + i % 8u * 4u, to = act_row(row) + 9u * b;
    float a = largest_among(largest_of_4(from), 8u);
    if (!some) return;
    int sum;
    act[to + 1u + i % 8u] = a == 0.0 ? 0u : round4(from, div(127.0, a), sum);
    if (i % 8u == 0u) act[to] = floatBitsToUint(half_to_float(float_to_half(div(a, 127.0))));
}
