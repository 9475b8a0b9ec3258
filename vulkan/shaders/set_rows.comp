#version 450
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint TYPE = 0; // of the table
// The box: rows of the table, rows of x. The table's offset and stride are in bytes, other ones in words.
layout(push_constant) uniform Push {
    uint start[2];
    uint len[2];
    uint x_at, x_nb1;
    uint table_at, table_nb1;
    uint ids_at, k, limit, step;
} p;
layout(set = 0, binding = 0) buffer Table { uint w[]; };
layout(set = 0, binding = 1) readonly buffer X { float x[]; };
layout(set = 0, binding = 2) readonly buffer Ids { int ids[]; };
layout(set = 0, binding = 3) buffer Fault { uint fault[]; };
#include "quantize.glsl"
#include "fault.glsl"

shared bool replaced;

// A workgroup for each row of x.
void main() {
    uint r = group_index();
    if (r >= p.len[1]) return;
    r += p.start[1];
    int id = ids[p.ids_at + r];
    if (id < 0 || uint(id) >= p.limit) {
        if (gl_LocalInvocationID.x == 0u) report(p.step, id);
        return;
    }
    if (uint(id) - p.start[0] >= p.len[0]) return;
    // Where ids repeat, the last row wins.
    if (gl_LocalInvocationID.x == 0u) replaced = false;
    barrier();
    for (uint later = r + 1u + gl_LocalInvocationID.x; later < p.start[1] + p.len[1]; later += 64u) {
        if (ids[p.ids_at + later] == id) replaced = true;
    }
    barrier();
    if (replaced) return;
    uint to = p.table_at + uint(id) * p.table_nb1, from = p.x_at + r * p.x_nb1;
    if (TYPE == TYPE_F32) {
        for (uint i = gl_LocalInvocationID.x; i < p.k; i += 64u) w[to / 4u + i] = floatBitsToUint(x[from + i]);
        return;
    }
    if (TYPE != TYPE_F16 && TYPE != TYPE_BF16) {
        for (uint b = gl_LocalInvocationID.x; b < p.k / 32u; b += 64u) quantize(to + b * BLOCK_BYTES, from + b * 32u);
        return;
    }
    if ((to & 3u) == 0u && (p.k & 1u) == 0u) {
        for (uint i = gl_LocalInvocationID.x; i < p.k / 2u; i += 64u) {
            w[to / 4u + i] = half_of(x[from + 2u * i]) | (half_of(x[from + 2u * i + 1u]) << 16);
        }
        return;
    }
    for (uint i = gl_LocalInvocationID.x; i < p.k; i += 64u) store16(to + 2u * i, half_of(x[from + i]));
}
