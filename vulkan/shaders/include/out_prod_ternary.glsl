// y[i, j] = (sum of a[i, r] * q[j, r]) * (d * s[j]), q and s from records. The box: i, j, r, i2, i3. Offset and strides
// of a in bytes.
layout(push_constant) uniform Push {
    uint start[5];
    uint len[5];
    uint y_at, y_nb[3];
    uint a_at, a_nb[3];
    uint b_at, b_nb[3];
    uint rows;
    float d;
} p;
layout(set = 0, binding = 0) buffer Y { uint y[]; };
layout(set = 0, binding = 1) readonly buffer W { uint w[]; };
layout(set = 0, binding = 2) readonly buffer B { uint b[]; };
#include "bytes.glsl"
