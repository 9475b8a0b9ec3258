// Operands of f32 (OPERANDS: up to three) and a result, over a box of the result's elements.
//
// Offsets and strides are in words and wrap around at 2^32: coordinates are those of the whole tensor, an offset is that
// of its first element from the start of the binding, which may lie before it.
#include "group.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Push {
    uint start[4];
    uint len[4];
    uint y_at, y_nb[3];
    uint a_at, a_nb[4];
    uint b_at, b_nb[4], b_ne[3];
    uint c_at, c_nb[3];
    float f;
} p;
layout(set = 0, binding = 0) writeonly buffer Y { float y[]; };
layout(set = 0, binding = 1) readonly buffer A { float a[]; };
#if OPERANDS > 1
layout(set = 0, binding = 2) readonly buffer B { float b[]; };
#endif
#if OPERANDS > 2
layout(set = 0, binding = 3) readonly buffer C { float c[]; };
#endif

// The row (i1, i2, i3) that is number r of the box.
uvec3 row_of(uint r) {
    uint i1 = r % p.len[1];
    r /= p.len[1];
    return uvec3(p.start[1] + i1, p.start[2] + r % p.len[2], p.start[3] + r / p.len[2]);
}
uint rows() {
    return p.len[1] * p.len[2] * p.len[3];
}
uint y_row(uvec3 i) {
    return p.y_at + i.x * p.y_nb[0] + i.y * p.y_nb[1] + i.z * p.y_nb[2];
}
uint a_row(uvec3 i) {
    return p.a_at + i.x * p.a_nb[1] + i.y * p.a_nb[2] + i.z * p.a_nb[3];
}
// The second operand repeats to the shape of the result.
uint b_row(uvec3 i) {
    return p.b_at + i.x % p.b_ne[0] * p.b_nb[1] + i.y % p.b_ne[1] * p.b_nb[2] + i.z % p.b_ne[2] * p.b_nb[3];
}
uint c_row(uvec3 i) {
    return p.c_at + i.x * p.c_nb[0] + i.y * p.c_nb[1] + i.z * p.c_nb[2];
}
