#version 450
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
#include "float.glsl"
layout(local_size_x = 64) in;
// The box: elements. In words; rows of the state are bound by themselves.
layout(push_constant) uniform Push {
    uint start, len;
    uint x_at, m_at, v_at, grad_at, step_at;
} p;
layout(set = 0, binding = 0) buffer X { float x[]; };
layout(set = 0, binding = 1) buffer M { float m[]; };
layout(set = 0, binding = 2) buffer V { float v[]; };
layout(set = 0, binding = 3) readonly buffer Grad { float grad[]; };
layout(set = 0, binding = 4) readonly buffer Step { float values[]; };

void main() {
    uint item = group_index() * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    if (item >= p.len) return;
    uint i = p.start + item, s = p.step_at;
    float beta1 = values[s + 1u], beta2 = values[s + 2u];
    float g = grad[p.grad_at + i] * values[s];
    float mi = beta1 * m[p.m_at + i] + (1.0 - beta1) * g;
    float vi = beta2 * v[p.v_at + i] + (1.0 - beta2) * (g * g);
    m[p.m_at + i] = mi;
    v[p.v_at + i] = vi;
    float direction = div(mi, div(square_root(vi), values[s + 5u]) + values[s + 3u]);
    x[p.x_at + i] = x[p.x_at + i] * values[s + 6u] - values[s + 4u] * direction;
}
