// Activations rounded to int8 for a matrix multiplication; one record for each row of x.
#include "group.glsl"
#include "float.glsl"
layout(local_size_x = 64) in;
// The box: rows (t, i2, i3) of x. In words.
layout(push_constant) uniform Push {
    uint start[3];
    uint len[3];
    uint x_at, x_nb[3];
    uint act_at, act_nb[3];
    uint k;
} p;
layout(set = 0, binding = 0) writeonly buffer Act { uint act[]; };
layout(set = 0, binding = 1) readonly buffer X { float x[]; };

shared float largest[64];
shared int sums[64];

uvec3 row_of(uint r) {
    uint t = p.start[0] + r % p.len[0];
    r /= p.len[0];
    return uvec3(t, p.start[1] + r % p.len[1], p.start[2] + r / p.len[1]);
}
uint rows() {
    return p.len[0] * p.len[1] * p.len[2];
}
uint x_row(uvec3 i) {
    return p.x_at + i.x * p.x_nb[0] + i.y * p.x_nb[1] + i.z * p.x_nb[2];
}
uint act_row(uvec3 i) {
    return p.act_at + i.x * p.act_nb[0] + i.y * p.act_nb[1] + i.z * p.act_nb[2];
}
float largest_of_4(uint at) {
    return max(max(abs(x[at]), abs(x[at + 1u])), max(abs(x[at + 2u]), abs(x[at + 3u])));
}
// Four activations times e as int8 in a word, and their sum.
uint round4(uint at, float e, out int sum) {
    uint word = 0u;
    sum = 0;
    for (uint j = 0u; j < 4u; j++) {
        int q = int(rne(x[at + j] * e));
        sum += q;
        word |= (uint(q) & 0xffu) << (8u * j);
    }
    return word;
}
// The largest (the sum) over each `width` neighbouring invocations, a power of two; all must call it.
#ifdef SUBGROUPS
// In any order: no bit depends on it.
float largest_among(float v, uint width) {
    for (uint h = 1u; h < SUBGROUP && h < width; h <<= 1) v = max(v, subgroupShuffleXor(v, h));
    if (width > SUBGROUP) {
        uint first = invocation() / width * width;
        largest[invocation()] = v;
        barrier();
        for (uint i = first; i < first + width; i += SUBGROUP) v = max(v, largest[i]);
        barrier();
    }
    return v;
}
int sum_among(int v, uint width) {
    for (uint h = 1u; h < SUBGROUP && h < width; h <<= 1) v += subgroupShuffleXor(v, h);
    if (width > SUBGROUP) {
        uint first = invocation() / width * width;
        sums[invocation()] = v;
        barrier();
        v = 0;
        for (uint i = first; i < first + width; i += SUBGROUP) v += sums[i];
        barrier();
    }
    return v;
}
#else
float largest_among(float v, uint width) {
    uint i = invocation(), first = i / width * width;
    largest[i] = v;
    barrier();
    for (uint h = width / 2u; h > 0u; h >>= 1) {
        if (i - first < h) largest[i] = max(largest[i], largest[i + h]);
        barrier();
    }
    float v0 = largest[first];
    barrier();
    return v0;
}
int sum_among(int v, uint width) {
    uint i = invocation(), first = i / width * width;
    sums[i] = v;
    barrier();
    for (uint h = width / 2u; h > 0u; h >>= 1) {
        if (i - first < h) sums[i] += sums[i + h];
        barrier();
    }
    int v0 = sums[first];
    barrier();
    return v0;
}
#endif
