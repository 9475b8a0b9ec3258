#version 450
#extension GL_GOOGLE_include_directive : require
#include "attention_back.glsl"
layout(set = 0, binding = 0) buffer Dk { float dk[]; };
layout(set = 0, binding = 1) buffer Dv { float dv[]; };
layout(set = 0, binding = 2) readonly buffer Scratch { float scratch[]; };
layout(set = 0, binding = 3) readonly buffer Q { float q[]; };
layout(set = 0, binding = 4) readonly buffer Dy { float dy[]; };
layout(set = 0, binding = 5) readonly buffer Span { uint span[]; };

// An invocation for each element of K, then of V: the sum over query heads in order and tokens in order goes on.
void main() {
    uint item = group_index() * gl_WorkGroupSize.x + gl_LocalInvocationID.x, width = p.head + p.head_v;
    if (item >= width * p.n_head_kv * p.n_ctx * p.n_seq) return;
    uint e = item % width;
    item /= width;
    uint g = item % p.n_head_kv, j = item / p.n_head_kv % p.n_ctx, seq = item / p.n_head_kv / p.n_ctx;
    uint h = g * p.group + p.member;
    bool of_v = e >= p.head;
    if (of_v) e -= p.head;
    uint row = (seq * p.n_ctx + j) * p.n_head_kv + g, to = of_v ? p.dv_at + row * p.head_v + e : p.dk_at + row * p.head + e;
    float sum = 0.0;
    if (p.member > 0u || p.first > 0u) sum = of_v ? dv[to] : dk[to];
    for (uint t = p.first; t < p.first + p.count; t++) {
        uvec3 s = SPAN(t);
        if (!in_range(s) || s.x != seq || j < s.y || j >= s.z) continue;
        uint at = scratch_of(t, g) + j;
        if (of_v) sum = sum + scratch[at] * dy[p.dy_at + h * p.dy_nb1 + t * p.dy_nb2 + e];
        else sum = sum + scratch[p.ds_at + at] * q[p.q_at + h * p.q_nb1 + t * p.q_nb2 + e];
    }
    if (of_v) dv[to] = sum;
    else dk[to] = sum;
}
