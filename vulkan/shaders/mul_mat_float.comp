#version 450
#extension GL_GOOGLE_include_directive : require
#include "mul_mat.glsl"
const uint TERMS = 1u, PLACES = 16u;
#include "mul_mat_lanes.glsl"
layout(constant_id = 2) const uint TYPE = 0; // ggml's number: F32, F16, BF16

float weight(uint row, uint i) {
    if (TYPE == 0u) return uintBitsToFloat(w[(row >> 2) + i]);
    uint bits = load16(row + 2u * i);
    return TYPE == 1u ? half_to_float(bits) : uintBitsToFloat(bits << 16);
}

// The tree over the 16 lanes: steps beyond a subgroup through shared memory, the others by shuffles.
#ifdef SUBGROUPS
const uint NEAR = SUBGROUP < 16u ? SUBGROUP : 16u, FAR = 16u / NEAR;

void add_lanes(float v[OUTPUTS]) {
    if (FAR > 1u) {
        for (uint o = 0u; o < OUTPUTS; o++) lanes[place(o, 0u, lane)] = floatBitsToUint(v[o]);
        barrier();
    }
    for (uint o = 0u; o < OUTPUTS; o++) {
        float sum = v[o];
        if (FAR > 1u) {
            float far[FAR];
            for (uint j = 0u; j < FAR; j++) far[j] = uintBitsToFloat(lanes[place(o, 0u, lane % NEAR + j * NEAR)]);
            for (uint h = FAR / 2u; h > 0u; h >>= 1) {
                for (uint j = 0u; j < h; j++) far[j] = far[j] + far[j + h];
            }
            sum = far[0];
        }
        for (uint h = NEAR / 2u; h > 0u; h >>= 1) sum = sum + subgroupShuffleXor(sum, h);
        if (lane == o) total = sum;
    }
}
#else
void add_lanes(float v[OUTPUTS]) {
    for (uint o = 0u; o < OUTPUTS; o++) lanes[place(o, 0u, lane)] = floatBitsToUint(v[o]);
    barrier();
    float far[16];
    for (uint l = 0u; l < 16u; l++) far[l] = uintBitsToFloat(lanes[place(lane % OUTPUTS, 0u, l)]);
    for (uint h = 8u; h > 0u; h >>= 1) {
        for (uint l = 0u; l < h; l++) far[l] = far[l] + far[l + h];
    }
    total = far[0];
}
#endif

void accumulate() {
    float sums[OUTPUTS];
    for (uint o = 0u; o < OUTPUTS; o++) sums[o] = 0.0;
    for (uint i = lane; i < p.k; i += 16u) {
        float xv[TOKENS];
        for (uint t = 0u; t < TOKENS; t++) {
            xv[t] = uintBitsToFloat(x[x_row[t] + i]);
            if (TYPE == 1u) xv[t] = round13(xv[t]);
            if (TYPE == 30u) xv[t] = bf16_activation(xv[t]);
        }
        for (uint r = 0u; r < ROWS; r++) {
            float wv = weight(w_row[r], i);
            for (uint t = 0u; t < TOKENS; t++) sums[r * TOKENS + t] = sums[r * TOKENS + t] + wv * xv[t];
        }
    }
    add_lanes(sums);
    if (TYPE == 30u) total = total * 1.734723475976807094e-18; // 2^-59
}
