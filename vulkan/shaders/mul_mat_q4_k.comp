#version 450
#extension GL_GOOGLE_include_directive : require
#include "mul_mat.glsl"

layout(constant_id = 2) const uint TYPE = 12; // ggml's number: Q4_K, Q5_K
#include "quants.glsl"

const uint BLOCK_BYTES = TYPE == TYPE_Q5_K ? 176u : 144u;
const uint QS_AT = TYPE == TYPE_Q5_K ? 48u : 16u;
const uint D_AT = 0u, MIN_AT = 2u;
const bool HAS_MIN = true;
#include "super_blocks.glsl"

void add_products(uint b) {
    for (uint g = lane; g < 64u; g += 16u) {
        uint q[TOKENS];
        for (uint t = 0u; t < TOKENS; t++) q[t] = x[x_row[t] + 73u * b + 9u + g];
        for (uint r = 0u; r < ROWS; r++) {
            uint at = w_row[r] + BLOCK_BYTES * b;
            uint codes = (load32(at + QS_AT + g / 16u * 32u + g % 8u * 4u) >> (g / 8u % 2u * 4u)) & 0x0f0f0f0fu;
            if (TYPE == TYPE_Q5_K) codes |= ((load32(at + 16u + g % 8u * 4u) >> (g / 8u)) & 0x01010101u) << 4;
            int scale = int(k_scale_min(at, g / 8u).x);
            for (uint t = 0u; t < TOKENS; t++) sums[r * TOKENS + t] += scale * dot4(codes, q[t]);
        }
    }
    // Each lane of the first half takes the minimum of a sub-block, the others none. Not by a branch: shuffles follow.
    for (uint r = 0u; r < ROWS; r++) {
        int least = int(lane < 8u) * int(k_scale_min(w_row[r] + BLOCK_BYTES * b, lane % 8u).y);
        for (uint t = 0u; t < TOKENS; t++) mins[r * TOKENS + t] = least * int(x[x_row[t] + 73u * b + 1u + lane % 8u]);
    }
}
