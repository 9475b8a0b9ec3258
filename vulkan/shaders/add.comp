#version 450
#extension GL_GOOGLE_include_directive : require
#define OPERANDS 2
#include "elementwise.glsl"
ELEMENTWISE(av + bv)
