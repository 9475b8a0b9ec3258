#version 450
#extension GL_GOOGLE_include_directive : require
#include "mul_mat.glsl"
layout(constant_id = 2) const uint TYPE = 14; // ggml's number: Q6_K, Q3_K, Q2_K, in sub-blocks of 16
#include "quants.glsl"

const uint BLOCK_BYTES = TYPE == TYPE_Q6_K ? 210u : TYPE == TYPE_Q3_K ? 110u : 84u;
const uint D_AT = TYPE == TYPE_Q6_K ? 208u : TYPE == TYPE_Q3_K ? 108u : 80u, MIN_AT = 82u;
const bool HAS_MIN = TYPE == TYPE_Q2_K;
// What codes are less than weights by.
const int ZERO = TYPE == TYPE_Q6_K ? 32 : TYPE == TYPE_Q3_K ? 4 : 0;
#include "super_blocks.glsl"

// Four codes of group g of the block at byte `at`, and their scale.
uint group_of(uint at, uint g, out int scale) {
    uint i = 4u * g, half_ = i / 128u, part = i / 32u % 4u, l = i % 32u;
    if (TYPE == TYPE_Q6_K) {
        uint low = (load32(at + 64u * half_ + 32u * (part % 2u) + l) >> (part / 2u * 4u)) & 0x0f0f0f0fu;
        uint high = (load32(at + 128u + 32u * half_ + l) >> (2u * part)) & 0x03030303u;
        scale = load8s(at + 192u + g / 4u);
        return low | (high << 4);
    }
    uint low = (load32(at + (TYPE == TYPE_Q3_K ? 32u : 16u) + 32u * half_ + l) >> (2u * part)) & 0x03030303u;
    if (TYPE == TYPE_Q2_K) {
        scale = int(load8(at + g / 4u) & 15u);
        return low;
    }
    scale = q3_k_scale(at, g / 4u);
    return low | (((load32(at + l) >> (i / 32u)) & 0x01010101u) << 2);
}

void add_products(uint b) {
    for (uint g = lane; g < 64u; g += 16u) {
        uint q[TOKENS];
        for (uint t = 0u; t < TOKENS; t++) q[t] = x[x_row[t] + 73u * b + 9u + g];
        for (uint r = 0u; r < ROWS; r++) {
            uint at = w_row[r] + BLOCK_BYTES * b;
            int scale;
            uint codes = group_of(at, g, scale);
            for (uint t = 0u; t < TOKENS; t++) {
                sums[r * TOKENS + t] += scale * (dot4(codes, q[t]) - ZERO * sum4(q[t]));
                if (HAS_MIN) mins[r * TOKENS + t] += int(load8(at + g / 4u) >> 4) * sum4(q[t]);
            }
        }
    }
}
