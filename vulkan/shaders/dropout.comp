#version 450
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
layout(local_size_x = 64) in;
layout(push_constant) uniform Push {
    uint start[4];
    uint len[4];
    uint y_at, y_nb[3];
    uint x_at, x_nb[3];
    uint ne[3];
    uint seed_at, stream, threshold;
    float factor;
} p;
layout(set = 0, binding = 0) writeonly buffer Y { float y[]; };
layout(set = 0, binding = 1) readonly buffer X { float x[]; };
layout(set = 0, binding = 2) readonly buffer Seed { uint seed[]; };

uint mix_bits(uint x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

void main() {
    uint item = group_index() * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    if (item >= p.len[0] * p.len[1] * p.len[2] * p.len[3]) return;
    uint i0 = p.start[0] + item % p.len[0];
    item /= p.len[0];
    uint i1 = p.start[1] + item % p.len[1];
    item /= p.len[1];
    uint i2 = p.start[2] + item % p.len[2], i3 = p.start[3] + item / p.len[2];
    uint key = mix_bits(mix_bits(mix_bits(seed[p.seed_at] ^ 0x9e3779b9u) ^ seed[p.seed_at + 1u]) ^ p.stream);
    uint index = ((i3 * p.ne[2] + i2) * p.ne[1] + i1) * p.ne[0] + i0;
    bool keep = mix_bits(mix_bits(index ^ key) + mix_bits(key ^ 0x85ebca6bu)) >= p.threshold;
    float v = x[p.x_at + i1 * p.x_nb[0] + i2 * p.x_nb[1] + i3 * p.x_nb[2] + i0];
    y[p.y_at + i1 * p.y_nb[0] + i2 * p.y_nb[1] + i3 * p.y_nb[2] + i0] = keep ? v * p.factor : 0.0;
}
