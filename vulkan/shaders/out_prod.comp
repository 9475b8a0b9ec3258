#version 450
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint TYPE = 0;
// y[i, j] = sum of a[i, r] * b[j, r] in order of r, in parts of 256. The box: i, j, parts, i2, i3. Offset and strides of
// a in bytes.
layout(push_constant) uniform Push {
    uint start[5];
    uint len[5];
    uint y_at, y_nb[3];
    uint a_at, a_nb[3];
    uint b_at, b_nb[4];
    uint rows;
} p;
layout(set = 0, binding = 0) buffer Y { float y[]; };
layout(set = 0, binding = 1) readonly buffer W { uint w[]; };
layout(set = 0, binding = 2) readonly buffer B { float b[]; };
#include "dequant.glsl"

const uint COLUMNS = 4u;
const uint PART = 256u;

void main() {
    uint item = group_index() * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    uint blocks = (p.len[1] + COLUMNS - 1u) / COLUMNS;
    if (item >= p.len[0] * blocks * p.len[3] * p.len[4]) return;
    uint i = p.start[0] + item % p.len[0];
    item /= p.len[0];
    uint first = item % blocks * COLUMNS, count = min(COLUMNS, p.len[1] - first), j0 = p.start[1] + first;
    item /= blocks;
    uint i2 = p.start[3] + item % p.len[3], i3 = p.start[4] + item / p.len[3];
    uint at = p.y_at + i2 * p.y_nb[1] + i3 * p.y_nb[2] + i;
    uint a_at = p.a_at + i2 * p.a_nb[1] + i3 * p.a_nb[2], b_at = p.b_at + i2 * p.b_nb[2] + i3 * p.b_nb[3];
    float sums[COLUMNS];
    for (uint c = 0u; c < COLUMNS; c++) {
        // A divided sum goes on where the dispatch before it stopped.
        sums[c] = p.start[2] > 0u && c < count ? y[at + (j0 + c) * p.y_nb[0]] : 0.0;
    }
    for (uint part = p.start[2]; part < p.start[2] + p.len[2]; part++) {
        float parts[COLUMNS];
        for (uint c = 0u; c < COLUMNS; c++) parts[c] = 0.0;
        for (uint r = part * PART; r < min((part + 1u) * PART, p.rows); r++) {
            float av = dequant(a_at + r * p.a_nb[0], i);
            for (uint c = 0u; c < COLUMNS; c++) {
                float bv = b[b_at + (j0 + min(c, count - 1u)) * p.b_nb[0] + r * p.b_nb[1]];
                parts[c] = parts[c] + av * bv;
            }
        }
        for (uint c = 0u; c < COLUMNS; c++) sums[c] = sums[c] + parts[c];
    }
    for (uint c = 0u; c < count; c++) y[at + (j0 + c) * p.y_nb[0]] = sums[c];
}
