#version 450
#extension GL_GOOGLE_include_directive : require
#include "mul_mat.glsl"
layout(constant_id = 2) const uint TYPE = 0; // ggml's number: F32, F16, BF16

float weight(uint row, uint i) {
    if (TYPE == 0u) return uintBitsToFloat(w[(row >> 2) + i]);
    uint bits = load16(row + 2u * i);
    return TYPE == 1u ? half_to_float(bits) : uintBitsToFloat(bits << 16);
}

void accumulate() {
    float sums[OUTPUTS];
    for (uint o = 0u; o < OUTPUTS; o++) sums[o] = 0.0;
    for (uint i = lane; i < p.k; i += 16u) {
        float xv[TOKENS];
        for (uint t = 0u; t < TOKENS; t++) xv[t] = uintBitsToFloat(x[x_row[t] + i]);
        for (uint r = 0u; r < ROWS; r++) {
            float wv = weight(w_row[r], i);
            for (uint t = 0u; t < TOKENS; t++) sums[r * TOKENS + t] = sums[r * TOKENS + t] + wv * xv[t];
        }
    }
    for (uint o = 0u; o < OUTPUTS; o++) put_lane(o, floatBitsToUint(sums[o]));
}
float result(uint o) {
    return uintBitsToFloat(gathered(o));
}
