#version 450
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint TYPE = 0;
// The box: rows of the table, rows of the result. The table's offset and stride are in bytes, other ones in words.
layout(push_constant) uniform Push {
    uint start[2];
    uint len[2];
    uint y_at, y_nb1;
    uint table_at, table_nb1;
    uint ids_at, k, limit, step;
} p;
layout(set = 0, binding = 0) writeonly buffer Y { float y[]; };
layout(set = 0, binding = 1) readonly buffer W { uint w[]; };
layout(set = 0, binding = 2) readonly buffer Ids { int ids[]; };
layout(set = 0, binding = 3) buffer Fault { uint fault[]; };
#include "dequant.glsl"
#include "fault.glsl"

void main() {
    uint item = group_index() * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    if (item >= p.k * p.len[1]) return;
    uint r = p.start[1] + item / p.k, i = item % p.k;
    int id = ids[p.ids_at + r];
    if (id < 0 || uint(id) >= p.limit) {
        if (i == 0u) report(p.step, id);
        return;
    }
    // Rows in other parts of a divided table are another dispatch's.
    if (uint(id) - p.start[0] >= p.len[0]) return;
    y[p.y_at + r * p.y_nb1 + i] = dequant(p.table_at + uint(id) * p.table_nb1, i);
}
