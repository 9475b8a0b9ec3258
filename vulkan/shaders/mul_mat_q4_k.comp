#version 450
#extension GL_GOOGLE_include_directive : require
#include "mul_mat.glsl"

layout(constant_id = 2) const uint TYPE = 12; // ggml's number: Q4_K, Q5_K
#include "quants.glsl"

const uint BLOCK_BYTES = TYPE == TYPE_Q5_K ? 176u : 144u;
const uint QS_AT = TYPE == TYPE_Q5_K ? 48u : 16u;

// The minimums' part of output o, which each invocation computes for its own outputs.
float least(uint o) {
    float sum = 0.0;
    for (uint b = 0u; b < p.k / 256u; b++) {
        uint at = w_row[o / TOKENS] + BLOCK_BYTES * b, record = x_row[o % TOKENS] + 73u * b;
        int m = 0;
        for (uint j = 0u; j < 8u; j++) m += int(k_scale_min(at, j).y) * int(x[record + 1u + j]);
        sum = sum + float(m) * (half_to_float(load16(at + 2u)) * uintBitsToFloat(x[record]));
    }
    return sum;
}

void accumulate() {
    float sums[OUTPUTS];
    for (uint o = 0u; o < OUTPUTS; o++) sums[o] = 0.0;
    for (uint b = 0u; b < p.k / 256u; b++) {
        int parts[OUTPUTS];
        for (uint o = 0u; o < OUTPUTS; o++) parts[o] = 0;
        for (uint g = lane; g < 64u; g += 16u) {
            uint q[TOKENS];
            for (uint t = 0u; t < TOKENS; t++) q[t] = x[x_row[t] + 73u * b + 9u + g];
            for (uint r = 0u; r < ROWS; r++) {
                uint at = w_row[r] + BLOCK_BYTES * b;
                uint codes = (load32(at + QS_AT + g / 16u * 32u + g % 8u * 4u) >> (g / 8u % 2u * 4u)) & 0x0f0f0f0fu;
                if (TYPE == TYPE_Q5_K) codes |= ((load32(at + 16u + g % 8u * 4u) >> (g / 8u)) & 0x01010101u) << 4;
                int scale = int(k_scale_min(at, g / 8u).x);
                for (uint t = 0u; t < TOKENS; t++) parts[r * TOKENS + t] += scale * dot4(codes, q[t]);
            }
        }
        for (uint o = 0u; o < OUTPUTS; o++) {
            float d = half_to_float(load16(w_row[o / TOKENS] + BLOCK_BYTES * b)) * uintBitsToFloat(x[x_row[o % TOKENS] + 73u * b]);
            sums[o] = sums[o] + float(parts[o]) * d;
        }
    }
    for (uint o = 0u; o < OUTPUTS; o++) put_lane(o, floatBitsToUint(sums[o]));
}
float result(uint o) {
    return uintBitsToFloat(gathered(o)) - least(o);
}
