#version 450
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
#include "float.glsl"
#include "lanes.glsl"
// Gradients rounded to 16 bits for ternary weights of one scale: a workgroup for each row (j, i2, i3), of values that lie
// x_nb[0] apart. Record: scale, then a word for each code.
layout(local_size_x = 64) in;
layout(push_constant) uniform Push {
    uint start[3];
    uint len[3];
    uint x_at, x_nb[4];
    uint act_at, act_nb[3];
    uint k;
} p;
layout(set = 0, binding = 0) writeonly buffer Act { uint act[]; };
layout(set = 0, binding = 1) readonly buffer X { float x[]; };

void main() {
    uint item = group_index();
    if (item >= p.len[0] * p.len[1] * p.len[2]) return;
    uvec3 row;
    row.x = p.start[0] + item % p.len[0];
    item /= p.len[0];
    row.y = p.start[1] + item % p.len[1];
    row.z = p.start[2] + item / p.len[1];
    uint from = p.x_at + row.x * p.x_nb[1] + row.y * p.x_nb[2] + row.z * p.x_nb[3];
    uint to = p.act_at + row.x * p.act_nb[0] + row.y * p.act_nb[1] + row.z * p.act_nb[2], i = gl_LocalInvocationID.x;
    // As bits: then NaN is the largest of all.
    uint most = 0u;
    for (uint j = i; j < p.k; j += 64u) most = max(most, floatBitsToUint(x[from + j * p.x_nb[0]]) & 0x7fffffffu);
    lanes[i] = uintBitsToFloat(most);
    barrier();
    for (uint h = 32u; h > 0u; h >>= 1) {
        if (i < h) lanes[i] = uintBitsToFloat(max(floatBitsToUint(lanes[i]), floatBitsToUint(lanes[i + h])));
        barrier();
    }
    most = floatBitsToUint(lanes[0]);
    bool finite = most < 0x7f800000u;
    float e = finite ? div(32512.0, uintBitsToFloat(most)) : 0.0;
    bool none = !(e < INFINITY);
    for (uint j = i; j < p.k; j += 64u) {
        act[to + 1u + j] = none || !finite ? 0u : uint(int(rne(x[from + j * p.x_nb[0]] * e)));
    }
    if (i == 0u) act[to] = floatBitsToUint(!finite ? QUIET_NAN : none ? 0.0 : div(uintBitsToFloat(most), 32512.0));
}
