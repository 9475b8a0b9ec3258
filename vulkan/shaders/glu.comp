#version 450
#extension GL_GOOGLE_include_directive : require
#define OPERANDS 2
#include "elementwise.glsl"
layout(constant_id = 0) const uint KIND = 0; // 0: swiglu, 1: reglu2, 2: geglu

float glu(float g, float u) {
    if (KIND == 0u) return div(g, 1.0 + exponential(-g)) * u;
    if (KIND == 2u) {
        float z = g * (uintBitsToFloat(0x3fcc422au) + uintBitsToFloat(0x3d922279u) * (g * g));
        return div(g, 1.0 + exponential(-z)) * u;
    }
    float r = g > 0.0 ? g : 0.0;
    return (r * r) * u;
}
ELEMENTWISE(glu(av, bv))
