#version 450
#extension GL_GOOGLE_include_directive : require
#include "attention.glsl"
layout(set = 0, binding = 0) writeonly buffer Y { float y[]; };
layout(set = 0, binding = 1) readonly buffer Parts { float parts[]; };
layout(set = 0, binding = 2) readonly buffer Span { int span[]; };

shared float factor;

// Box: head, token. p.head: elements of a row of V.
void main() {
    uint item = group_index();
    if (item >= p.len[0] * p.len[1]) return;
    uint h = p.start[0] + item % p.len[0], t = p.start[1] + item / p.len[0], i = gl_LocalInvocationID.x;
    uvec3 seen = VISIBLE(t);
    uint first = seen.y / CHUNK, end = (seen.y + seen.z + CHUNK - 1u) / CHUNK;
    if (seen.z == 0u) end = first;
    if (i == 0u) {
        float total = 0.0;
        for (uint chunk = first; chunk < end; chunk++) total = total + parts[part_of(t, h, chunk, p.head) + p.head];
        factor = total > 0.0 ? div(1.0, total) : 0.0;
    }
    barrier();
    for (uint e = i; e < p.head; e += 64u) {
        float o = 0.0;
        for (uint chunk = first; chunk < end; chunk++) o = o + parts[part_of(t, h, chunk, p.head) + e];
        y[p.x_at + h * p.x_nb[0] + t * p.x_nb[1] + e] = o * factor;
    }
}
