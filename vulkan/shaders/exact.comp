#version 450
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
#include "float.glsl"
#include "lanes.glsl"
layout(local_size_x = 64) in;
layout(push_constant) uniform Push { uint n; } p;
layout(set = 0, binding = 0) writeonly buffer O { uint o[]; };
layout(set = 0, binding = 1) readonly buffer V { float v[]; };

const uint RESULTS = 14u;

// Pairs of values in; for each the bits of what the kernels are made of. A device is exact where all are the host's.
void main() {
    for (uint first = group_index() * 64u; first < p.n; first += gl_NumWorkGroups.x * 64u) {
        uint i = first + invocation();
        float sum = tree64(i < p.n ? float(int(floatBitsToUint(v[2u * i + 1u]))) : 0.0);
        if (i >= p.n) continue;
        float a = v[2u * i], b = v[2u * i + 1u];
        o[RESULTS * i] = floatBitsToUint(a + b);
        o[RESULTS * i + 1u] = floatBitsToUint(a - b);
        o[RESULTS * i + 2u] = floatBitsToUint(a * b);
        o[RESULTS * i + 3u] = floatBitsToUint(a * b + a);
        o[RESULTS * i + 4u] = floatBitsToUint(div(a, b));
        o[RESULTS * i + 5u] = floatBitsToUint(square_root(abs(a)));
        o[RESULTS * i + 6u] = floatBitsToUint(exponential(a));
        o[RESULTS * i + 7u] = float_to_half(a);
        o[RESULTS * i + 8u] = floatBitsToUint(half_to_float(floatBitsToUint(b) & 0xffffu));
        o[RESULTS * i + 9u] = floatBitsToUint(float(int(floatBitsToUint(b))));
        o[RESULTS * i + 10u] = floatBitsToUint(logarithm(a));
        o[RESULTS * i + 11u] = floatBitsToUint(sum);
        o[RESULTS * i + 12u] = floatBitsToUint(round13(a));
        o[RESULTS * i + 13u] = floatBitsToUint(bf16_activation(a));
    }
}
