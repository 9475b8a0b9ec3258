#version 450
#extension GL_GOOGLE_include_directive : require
#define OPERANDS 3
#include "elementwise.glsl"
layout(constant_id = 0) const uint KIND = 0; // 0: swiglu, 1: reglu2

float derivative(float g) {
    if (KIND == 0u) {
        float s = div(1.0, 1.0 + exponential(-g));
        return s * (1.0 + g * (1.0 - s));
    }
    return g > 0.0 ? 2.0 * g : 0.0;
}
ELEMENTWISE((cv * bv) * derivative(av))
