#version 450
#extension GL_GOOGLE_include_directive : require
#define OPERANDS 3
#include "elementwise.glsl"
layout(constant_id = 0) const uint KIND = 0; // 0: swiglu, 1: reglu2, 2: geglu

float derivative(float g) {
    if (KIND == 0u) {
        float s = div(1.0, 1.0 + exponential(-g));
        return s * (1.0 + g * (1.0 - s));
    }
    if (KIND == 2u) {
        float a = uintBitsToFloat(0x3fcc422au), b = uintBitsToFloat(0x3d922279u);
        g = g > 16.0 ? 16.0 : g;
        g = g < -16.0 ? -16.0 : g;
        float gg = g * g;
        float s = div(1.0, 1.0 + exponential(-(g * (a + b * gg))));
        return s * (1.0 + (g * (1.0 - s)) * (a + (3.0 * b) * gg));
    }
    return g > 0.0 ? 2.0 * g : 0.0;
}
ELEMENTWISE((cv * bv) * derivative(av))
