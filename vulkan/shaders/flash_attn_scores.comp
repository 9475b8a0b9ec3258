#version 450
#extension GL_GOOGLE_include_directive : require
#include "attention.glsl"
layout(constant_id = 0) const uint TYPE = 1; // of K
layout(set = 0, binding = 0) writeonly buffer Scores { float scores[]; };
layout(set = 0, binding = 1) readonly buffer Q { float q[]; };
layout(set = 0, binding = 2) readonly buffer K { uint w[]; };
layout(set = 0, binding = 3) readonly buffer Span { int span[]; };
layout(set = 0, binding = 4) buffer Fault { uint fault[]; };
#include "dequant.glsl"
#include "fault.glsl"

const uint KEYS = 64u; // for each workgroup: four rows of 16 lanes take 16 each
const uint LANE = KEYS + 1u; // odd, so that lanes lie in different banks
shared float lanes[16u * LANE];

// Box: head, token, position, sequence.
void main() {
    uint blocks = (p.len[2] + KEYS - 1u) / KEYS, item = group_index();
    if (item >= blocks * p.len[0] * p.len[1]) return;
    uint j0 = p.start[2] + item % blocks * KEYS;
    item /= blocks;
    uint h = p.start[0] + item % p.len[0], t = p.start[1] + item / p.len[0];
    uint i = gl_LocalInvocationID.x, lane = i % 16u;
    uint at = p.span_at + 3u * t;
    if (!in_range(span[at], span[at + 1u], span[at + 2u])) {
        if (i == 0u) report(p.step, span[at + 2u]);
        return;
    }
    uvec3 seen = VISIBLE(t);
    uint first = max(j0, seen.y), end = min(min(j0 + KEYS, p.start[2] + p.len[2]), seen.y + seen.z);
    if (first >= end || seen.x - p.start[3] >= p.len[3]) return;
    uint q_at = p.x_at + h * p.x_nb[0] + t * p.x_nb[1];
    uint head_at = p.cache_at + h / p.group * p.cache_nb[0] + seen.x * p.cache_nb[2];
    uint to = scores_of(t, h) - seen.y;
    // All lanes of all keys, then one barrier: a key for each invocation.
    for (uint n = 0u; first + n < end; n += 4u) {
        uint key = n + i / 16u, row = head_at + min(first + key, end - 1u) * p.cache_nb[1];
        float sum = 0.0;
        for (uint e = lane; e < p.head; e += 16u) sum = sum + q[q_at + e] * dequant(row, e);
        lanes[lane * LANE + key] = sum;
    }
    barrier();
    if (first + i >= end) return;
    float v[16];
    for (uint l = 0u; l < 16u; l++) v[l] = lanes[l * LANE + i];
    for (uint h = 8u; h > 0u; h >>= 1) {
        for (uint l = 0u; l < h; l++) v[l] = v[l] + v[l + h];
    }
    scores[to + first + i] = v[0] * p.scale;
}
