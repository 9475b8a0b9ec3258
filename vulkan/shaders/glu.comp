#version 450
#extension GL_GOOGLE_include_directive : require
#define OPERANDS 2
#include "elementwise.glsl"
layout(constant_id = 0) const uint KIND = 0; // 0: swiglu, 1: reglu2

float glu(float g, float u) {
    if (KIND == 0u) return div(g, 1.0 + exponential(-g)) * u;
    float r = g > 0.0 ? g : 0.0;
    return (r * r) * u;
}
ELEMENTWISE(glu(av, bv))
