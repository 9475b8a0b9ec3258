#version 450
#extension GL_GOOGLE_include_directive : require
#include "attention_back.glsl"
#include "lanes.glsl"
layout(set = 0, binding = 0) buffer Scratch { float scratch[]; };
layout(set = 0, binding = 1) writeonly buffer Dq { float dq[]; };
layout(set = 0, binding = 2) readonly buffer K { uint k[]; };
layout(set = 0, binding = 3) readonly buffer Span { uint span[]; };

// A workgroup for each head of K and V and token.
void main() {
    uint item = group_index(), i = invocation();
    if (item >= p.n_head_kv * p.count) return;
    uint g = item % p.n_head_kv, t = p.first + item / p.n_head_kv, h = g * p.group + p.member;
    uvec3 s = SPAN(t);
    if (!in_range(s)) return;
    uint weights = scratch_of(t, g), ds = p.ds_at + weights;
    float top = NEGATIVE_INFINITY;
    for (uint j = s.y + i; j < s.z; j += 64u) top = scratch[weights + j] > top ? scratch[weights + j] : top;
    top = max64(top);
    float total = 0.0;
    for (uint start = s.y; start < s.z;) {
        uint end = min(start / CHUNK * CHUNK + CHUNK, s.z);
        float sum = 0.0;
        for (uint j = start + i; j < end; j += 64u) {
            float e = exponential(scratch[weights + j] - top);
            scratch[weights + j] = e;
            sum = sum + e;
        }
        total = total + tree64(sum);
        start = end;
    }
    float factor = of_first(total > 0.0 ? div(1.0, total) : 0.0), delta = 0.0;
    // The lanes of this sum count from the first visible position, those above from the first of their chunk.
    memoryBarrierBuffer();
    barrier();
    for (uint j = s.y + i; j < s.z; j += 64u) {
        float weight = scratch[weights + j] * factor;
        scratch[weights + j] = weight;
        delta = delta + weight * scratch[ds + j];
    }
    delta = tree64(delta);
    for (uint j = s.y + i; j < s.z; j += 64u) {
        scratch[ds + j] = (scratch[weights + j] * (scratch[ds + j] - delta)) * p.scale;
    }
    memoryBarrierBuffer();
    barrier();
    uint k_row = p.k_at + g * p.k_nb1 + s.x * p.k_nb3;
    for (uint e = i; e < p.head; e += 64u) {
        float sum = 0.0;
        for (uint j = s.y; j < s.z; j++) {
            uint at = k_row + j * p.k_nb2 + e;
            sum = sum + scratch[ds + j] * half_to_float((k[at >> 1] >> ((at & 1u) * 16u)) & 0xffffu);
        }
        dq[p.dq_at + (t * p.n_head_kv * p.group + h) * p.head + e] = sum;
    }
}
