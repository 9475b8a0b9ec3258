#version 450
#extension GL_GOOGLE_include_directive : require
#include "float.glsl"
layout(local_size_x = 64) in;
layout(push_constant) uniform Push { uint n; } p;
layout(set = 0, binding = 0) writeonly buffer O { uint o[]; };
layout(set = 0, binding = 1) readonly buffer V { float v[]; };

// Pairs of values in; for each the bits of what the kernels are made of. A device is exact where all are the host's.
void main() {
    for (uint i = gl_GlobalInvocationID.x; i < p.n; i += gl_NumWorkGroups.x * gl_WorkGroupSize.x) {
        float a = v[2u * i], b = v[2u * i + 1u];
        o[11u * i] = floatBitsToUint(a + b);
        o[11u * i + 1u] = floatBitsToUint(a - b);
        o[11u * i + 2u] = floatBitsToUint(a * b);
        o[11u * i + 3u] = floatBitsToUint(a * b + a);
        o[11u * i + 4u] = floatBitsToUint(div(a, b));
        o[11u * i + 5u] = floatBitsToUint(square_root(abs(a)));
        o[11u * i + 6u] = floatBitsToUint(exponential(a));
        o[11u * i + 7u] = float_to_half(a);
        o[11u * i + 8u] = floatBitsToUint(half_to_float(floatBitsToUint(b) & 0xffffu));
        o[11u * i + 9u] = floatBitsToUint(float(int(floatBitsToUint(b))));
        o[11u * i + 10u] = floatBitsToUint(logarithm(a));
    }
}
