#version 450
#extension GL_GOOGLE_include_directive : require
#include "attention_back.glsl"
layout(set = 0, binding = 0) writeonly buffer Scratch { float scratch[]; };
layout(set = 0, binding = 1) readonly buffer Q { float q[]; };
layout(set = 0, binding = 2) readonly buffer K { uint k[]; };
layout(set = 0, binding = 3) readonly buffer V { uint v[]; };
layout(set = 0, binding = 4) readonly buffer Dy { float dy[]; };
layout(set = 0, binding = 5) readonly buffer Span { uint span[]; };
layout(set = 0, binding = 6) buffer Fault { uint fault[]; };
#include "fault.glsl"

// An invocation for each position, head of K and V, and token.
void main() {
    uint item = group_index() * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    if (item >= p.n_ctx * p.n_head_kv * p.count) return;
    uint j = item % p.n_ctx;
    item /= p.n_ctx;
    uint g = item % p.n_head_kv, t = p.first + item / p.n_head_kv, h = g * p.group + p.member;
    uvec3 s = SPAN(t);
    if (!in_range(s)) {
        if (j == 0u) report(p.step, int(s.z));
        return;
    }
    if (j < s.y || j >= s.z) return;
    uint q_row = p.q_at + h * p.q_nb1 + t * p.q_nb2, dy_row = p.dy_at + h * p.dy_nb1 + t * p.dy_nb2;
    uint k_row = p.k_at + g * p.k_nb1 + j * p.k_nb2 + s.x * p.k_nb3, v_row = p.v_at + g * p.v_nb1 + j * p.v_nb2 + s.x * p.v_nb3;
    float score = 0.0, dp = 0.0;
    for (uint e = 0u; e < p.head; e++) {
        uint at = k_row + e;
        score = score + q[q_row + e] * half_to_float((k[at >> 1] >> ((at & 1u) * 16u)) & 0xffffu);
    }
    for (uint e = 0u; e < p.head_v; e++) {
        uint at = v_row + e;
        dp = dp + dy[dy_row + e] * half_to_float((v[at >> 1] >> ((at & 1u) * 16u)) & 0xffffu);
    }
    scratch[scratch_of(t, g) + j] = score * p.scale;
    scratch[p.ds_at + scratch_of(t, g) + j] = dp;
}
