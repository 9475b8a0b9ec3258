#version 450
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
layout(local_size_x = 64) in;
// A workgroup for each row of the result, which adds its rows of x in their order. The box: rows of the result, of x.
layout(push_constant) uniform Push {
    uint start[2];
    uint len[2];
    uint y_at, y_nb1;
    uint x_at, x_nb1;
    uint ids_at, k, limit, step;
} p;
layout(set = 0, binding = 0) buffer Y { float y[]; };
layout(set = 0, binding = 1) readonly buffer X { float x[]; };
layout(set = 0, binding = 2) readonly buffer Ids { int ids[]; };
layout(set = 0, binding = 3) buffer Fault { uint fault[]; };
#include "fault.glsl"

shared bool any_row;

void main() {
    uint r = group_index(), i = gl_LocalInvocationID.x;
    if (r >= p.len[0]) return;
    r += p.start[0];
    if (i == 0u) any_row = false;
    barrier();
    uint end = p.start[1] + p.len[1];
    for (uint m = p.start[1] + i; m < end; m += 64u) {
        int id = ids[p.ids_at + m];
        if (id == int(r)) any_row = true;
        if (r == 0u && (id < 0 || uint(id) >= p.limit)) report(p.step, id);
    }
    barrier();
    // What is divided goes on where the dispatch before it stopped.
    bool fresh = p.start[1] == 0u;
    if (!any_row && !fresh) return;
    for (uint j = i; j < p.k; j += 64u) {
        uint to = p.y_at + r * p.y_nb1 + j;
        float sum = fresh ? 0.0 : y[to];
        for (uint m = p.start[1]; any_row && m < end; m++) {
            if (ids[p.ids_at + m] == int(r)) sum = sum + x[p.x_at + m * p.x_nb1 + j];
        }
        y[to] = sum;
    }
}
