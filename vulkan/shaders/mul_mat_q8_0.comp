#version 450
#extension GL_GOOGLE_include_directive : require
#include "mul_mat.glsl"
layout(constant_id = 2) const uint TYPE = 8; // ggml's number: Q8_0, Q4_0
const uint Q8_0 = 8u;
const uint BLOCK_BYTES = TYPE == Q8_0 ? 34u : 18u;

void accumulate() {
    float sums[OUTPUTS];
    for (uint o = 0u; o < OUTPUTS; o++) sums[o] = 0.0;
    for (uint g = lane; g < p.k / 4u; g += 16u) {
        uint b = g / 8u, n = g % 8u;
        uint q[TOKENS];
        float dx[TOKENS];
        for (uint t = 0u; t < TOKENS; t++) {
            q[t] = x[x_row[t] + 9u * b + 1u + n];
            dx[t] = uintBitsToFloat(x[x_row[t] + 9u * b]);
        }
        for (uint r = 0u; r < ROWS; r++) {
            uint at = w_row[r] + b * BLOCK_BYTES;
            float dw = half_to_float(load16(at));
            uint codes = TYPE == Q8_0 ? load32(at + 2u + 4u * n) : (load32(at + 2u + 4u * (n % 4u)) >> (n / 4u * 4u)) & 0x0f0f0f0fu;
            for (uint t = 0u; t < TOKENS; t++) {
                int sum = TYPE == Q8_0 ? dot4s(codes, q[t]) : dot4(codes, q[t]) - 8 * sum4(q[t]);
                sums[r * TOKENS + t] = sums[r * TOKENS + t] + float(sum) * (dw * dx[t]);
            }
        }
    }
    for (uint o = 0u; o < OUTPUTS; o++) put_lane(o, floatBitsToUint(sums[o]));
}
float result(uint o) {
    return tree16(o);
}
