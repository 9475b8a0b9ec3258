#version 450
#extension GL_GOOGLE_include_directive : require
#include "mul_mat.glsl"
// ggml's number: types in blocks of 32, and IQ4_XS, whose sub-blocks are summed as they are
layout(constant_id = 2) const uint TYPE = 8;
#include "quants.glsl"

const bool HAS_MIN = TYPE == TYPE_Q4_1 || TYPE == TYPE_Q5_1;
const bool HAS_FIFTH = TYPE == TYPE_Q5_0 || TYPE == TYPE_Q5_1;
const uint BLOCK_BYTES = TYPE == TYPE_Q8_0 ? 34u : TYPE == TYPE_MXFP4 ? 17u : 18u + (HAS_MIN ? 2u : 0u) + (HAS_FIFTH ? 4u : 0u);

// Four codes of group n of the block at byte `at`, whose bytes of 4 bits begin at `qs`.
uint low_codes(uint qs, uint n) {
    uint from = qs + 4u * (n % 4u);
    return ((TYPE == TYPE_MXFP4 ? load32_any(from) : load32(from)) >> (n / 4u * 4u)) & 0x0f0f0f0fu;
}
// Bits 4 n to 4 n + 3, each as the fifth of a code.
uint fifth_bits(uint bits, uint n) {
    bits = (bits >> (4u * n)) & 15u;
    return ((bits & 1u) << 4) | ((bits & 2u) << 11) | ((bits & 4u) << 18) | ((bits & 8u) << 25);
}
// Codes, or the values that they stand for, and the scale.
uint group_of(uint row, uint g, out float d) {
    uint n = g % 8u;
    if (TYPE == TYPE_IQ4_XS) {
        uint at = row + g / 64u * 136u, j = g % 64u / 8u;
        d = half_to_float(load16(at)) * float(iq4_xs_scale(at, j));
        return values_of(low_codes(at + 8u + 16u * j, n));
    }
    uint at = row + g / 8u * BLOCK_BYTES;
    if (TYPE == TYPE_MXFP4) {
        d = mxfp4_scale(load8(at));
        return values_of(low_codes(at + 1u, n));
    }
    d = half_to_float(load16(at));
    if (TYPE == TYPE_Q8_0) return load32(at + 2u + 4u * n);
    uint from = at + (HAS_MIN ? 4u : 2u);
    if (HAS_FIFTH) return low_codes(from + 4u, n) | fifth_bits(load32(from), n);
    return TYPE == TYPE_IQ4_NL ? values_of(low_codes(from, n)) : low_codes(from, n);
}
int product(uint codes, uint q) {
    if (HAS_MIN) return dot4(codes, q);
    if (TYPE == TYPE_Q4_0) return dot4(codes, q) - 8 * sum4(q);
    if (TYPE == TYPE_Q5_0) return dot4(codes, q) - 16 * sum4(q);
    return dot4s(codes, q);
}

void accumulate() {
    float sums[OUTPUTS];
    for (uint o = 0u; o < OUTPUTS; o++) sums[o] = 0.0;
    for (uint g = lane; g < p.k / 4u; g += 16u) {
        // A record of Q8_K, or one of Q8_0.
        uint record = TYPE == TYPE_IQ4_XS ? 73u * (g / 64u) : 9u * (g / 8u);
        uint place = TYPE == TYPE_IQ4_XS ? 9u + g % 64u : 1u + g % 8u;
        uint q[TOKENS];
        float dx[TOKENS];
        for (uint t = 0u; t < TOKENS; t++) {
            q[t] = x[x_row[t] + record + place];
            dx[t] = uintBitsToFloat(x[x_row[t] + record]);
        }
        for (uint r = 0u; r < ROWS; r++) {
            float dw;
            uint codes = group_of(w_row[r], g, dw);
            float least = HAS_MIN ? half_to_float(load16(w_row[r] + g / 8u * BLOCK_BYTES + 2u)) : 0.0;
            for (uint t = 0u; t < TOKENS; t++) {
                uint o = r * TOKENS + t;
                sums[o] = sums[o] + float(product(codes, q[t])) * (dw * dx[t]);
                if (HAS_MIN) sums[o] = sums[o] + float(sum4(q[t])) * (least * dx[t]);
            }
        }
    }
    for (uint o = 0u; o < OUTPUTS; o++) put_lane(o, floatBitsToUint(sums[o]));
}
float result(uint o) {
    return uintBitsToFloat(gathered(o));
}
