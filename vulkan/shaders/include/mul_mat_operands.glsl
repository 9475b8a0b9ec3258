// The box: rows of w, tokens, i2, i3. Offset and strides of w in bytes, other ones in words.
layout(push_constant) uniform Push {
    uint start[4];
    uint len[4];
    uint w_at, w_nb[3], r2, r3;
    uint x_at, x_nb[3];
    uint y_at, y_nb[3];
    uint k;
    float d;
} p;
layout(set = 0, binding = 0) writeonly buffer Y { float y[]; };
layout(set = 0, binding = 1) readonly buffer W { uint w[]; };
layout(set = 0, binding = 2) readonly buffer X { uint x[]; };
#include "bytes.glsl"
