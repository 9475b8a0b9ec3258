#version 450
#extension GL_GOOGLE_include_directive : require
#include "mul_mat.glsl"
// ggml's number: types in blocks of 32, and IQ4_XS, whose sub-blocks are summed as they are
layout(constant_id = 2) const uint TYPE = 8;
#include "quants.glsl"

const bool HAS_MIN = TYPE == TYPE_Q4_1 || TYPE == TYPE_Q5_1;
const bool HAS_FIFTH = TYPE == TYPE_Q5_0 || TYPE == TYPE_Q5_1;
// Of 4 bits: a word holds two groups of codes.
const bool NIBBLES = TYPE != TYPE_Q8_0;
// What codes are less than weights by.
const int ZERO = TYPE == TYPE_Q4_0 ? 8 : TYPE == TYPE_Q5_0 ? 16 : 0;
const uint FIFTHS_AT = HAS_MIN ? 4u : 2u;
const uint QS_AT = TYPE == TYPE_MXFP4 ? 1u : FIFTHS_AT + (HAS_FIFTH ? 4u : 0u);
const uint BLOCK_BYTES = QS_AT + (NIBBLES ? 16u : 32u);
const uint TERMS = HAS_MIN ? 2u : 1u, PLACES = 128u / OUTPUTS;
#include "mul_mat_lanes.glsl"

// Bits 4 n to 4 n + 3, each as the fifth of a code.
uint fifth_bits(uint bits, uint n) {
    bits = (bits >> (4u * n)) & 15u;
    return ((bits & 1u) << 4) | ((bits & 2u) << 11) | ((bits & 4u) << 18) | ((bits & 8u) << 25);
}
// Byte of the codes of block b, and its scale.
uint block_of(uint row, uint b, out float d) {
    if (TYPE == TYPE_IQ4_XS) {
        uint at = row + b / 8u * 136u;
        d = half_to_float(load16(at)) * float(iq4_xs_scale(at, b % 8u));
        return at + 8u + 16u * (b % 8u);
    }
    uint at = row + b * BLOCK_BYTES;
    d = TYPE == TYPE_MXFP4 ? mxfp4_scale(load8(at)) : half_to_float(load16(at));
    return at + QS_AT;
}
int product(uint codes, uint q) {
    return HAS_MIN || ZERO != 0 ? dot4(codes, q) : dot4s(codes, q);
}

// The terms of block b of all outputs, into place i.
void put_block(uint b, uint i) {
    // A record of Q8_K, or one of Q8_0.
    uint record = TYPE == TYPE_IQ4_XS ? 73u * (b / 8u) : 9u * b;
    uint activations = record + (TYPE == TYPE_IQ4_XS ? 9u + b % 8u * 8u : 1u);
    int sums[OUTPUTS], q_sums[TOKENS];
    uint qs[ROWS], fifths[ROWS], word[ROWS];
    float dw[ROWS];
    for (uint o = 0u; o < OUTPUTS; o++) sums[o] = 0;
    for (uint t = 0u; t < TOKENS; t++) q_sums[t] = 0;
    for (uint r = 0u; r < ROWS; r++) {
        qs[r] = block_of(w_row[r], b, dw[r]);
        if (HAS_FIFTH) fifths[r] = load32(qs[r] - 4u);
    }
    for (uint g = 0u; g < 8u; g++) {
        // A word of 4 bits each has group n in its low halves, and group n + 4 in its high ones.
        uint n = NIBBLES ? g / 2u + g % 2u * 4u : g;
        uint q[TOKENS];
        for (uint t = 0u; t < TOKENS; t++) {
            q[t] = x[x_row[t] + activations + n];
            if (HAS_MIN || ZERO != 0) q_sums[t] += sum4(q[t]);
        }
        for (uint r = 0u; r < ROWS; r++) {
            if (!NIBBLES) word[r] = load32(qs[r] + 4u * n);
            else if (g % 2u != 0u) word[r] >>= 4;
            else word[r] = TYPE == TYPE_MXFP4 ? load32_any(qs[r] + 4u * n) : load32(qs[r] + 4u * n);
            uint codes = NIBBLES ? word[r] & 0x0f0f0f0fu : word[r];
            if (HAS_FIFTH) codes |= fifth_bits(fifths[r], n);
            if (TYPE == TYPE_IQ4_NL || TYPE == TYPE_IQ4_XS || TYPE == TYPE_MXFP4) codes = values_of(codes);
            for (uint t = 0u; t < TOKENS; t++) sums[r * TOKENS + t] += product(codes, q[t]);
        }
    }
    for (uint r = 0u; r < ROWS; r++) {
        float least = HAS_MIN ? half_to_float(load16(qs[r] - QS_AT + 2u)) : 0.0;
        for (uint t = 0u; t < TOKENS; t++) {
            uint o = r * TOKENS + t;
            float dx = uintBitsToFloat(x[x_row[t] + record]);
            lanes[place(o, 0u, i)] = floatBitsToUint(float(sums[o] - ZERO * q_sums[t]) * (dw[r] * dx));
            if (HAS_MIN) lanes[place(o, 1u, i)] = floatBitsToUint(float(q_sums[t]) * (least * dx));
        }
    }
}

// Each lane takes whole blocks, and they meet after PLACES of them.
void accumulate() {
    for (uint first = 0u; first < p.k / 32u; first += PLACES) {
        uint blocks = min(PLACES, p.k / 32u - first);
        for (uint i = lane; i < blocks; i += 16u) put_block(first + i, i);
        add_places(0u, blocks);
        barrier();
    }
}
