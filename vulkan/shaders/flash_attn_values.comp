#version 450
#extension GL_GOOGLE_include_directive : require
#include "attention.glsl"
layout(constant_id = 0) const uint TYPE = 1; // of V
layout(set = 0, binding = 0) readonly buffer Scores { float scores[]; };
layout(set = 0, binding = 1) writeonly buffer Parts { float parts[]; };
layout(set = 0, binding = 2) readonly buffer V { uint w[]; };
layout(set = 0, binding = 3) readonly buffer Span { int span[]; };
#include "dequant.glsl"
#include "lanes.glsl"

shared float weights[CHUNK];

// Box: head, token, chunk, sequence. p.head: elements of a row of V.
void main() {
    uint item = group_index();
    if (item >= p.len[0] * p.len[1] * p.len[2]) return;
    uint chunk = p.start[2] + item % p.len[2];
    item /= p.len[2];
    uint h = p.start[0] + item % p.len[0], t = p.start[1] + item / p.len[0], i = invocation();
    uvec3 seen = VISIBLE(t);
    uint first = max(chunk * CHUNK, seen.y), end = min((chunk + 1u) * CHUNK, seen.y + seen.z);
    if (first >= end || seen.x - p.start[3] >= p.len[3]) return;
    uint from = scores_of(t, h), n = end - first;
    // Each chunk finds the maximum of all scores by itself: that is less than another pass costs.
    float top = NEGATIVE_INFINITY;
    for (uint j = i; j < seen.z; j += 64u) top = scores[from + j] > top ? scores[from + j] : top;
    top = max64(top);
    float sum = 0.0;
    for (uint j = i; j < n; j += 64u) {
        float weight = exponential(scores[from + first - seen.y + j] - top);
        weights[j] = weight;
        sum = sum + weight;
    }
    sum = tree64(sum);
    barrier();
    uint to = part_of(t, h, chunk, p.head);
    if (i == 0u) parts[to + p.head] = sum;
    uint head_at = p.cache_at + h / p.group * p.cache_nb[0] + seen.x * p.cache_nb[2];
    for (uint e = i; e < p.head; e += 64u) {
        float o = 0.0;
        for (uint j = 0u; j < n; j++) {
            o = o + weights[j] * dequant(head_at + (first + j) * p.cache_nb[1], e);
        }
        parts[to + e] = o;
    }
}
