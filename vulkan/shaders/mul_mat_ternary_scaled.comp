#version 450
#extension GL_GOOGLE_include_directive : require
#include "mul_mat.glsl"
const uint TERMS = 1u, PLACES = 16u;
#include "mul_mat_lanes.glsl"
layout(constant_id = 2) const uint TYPE = 35; // ggml's number: TQ1_0, TQ2_0
#include "ternary.glsl"

// A scale for each block, of weights and of activations: blocks are summed in order. Each lane takes one of 16 blocks.
void accumulate() {
    uint blocks = p.k / 256u;
    for (uint first = 0u; first < blocks; first += 16u) {
        uint b = first + lane;
        if (b < blocks) {
            int sums[OUTPUTS];
            for (uint o = 0u; o < OUTPUTS; o++) sums[o] = 0;
            for (uint n = 0u; n < BLOCK_WORDS; n++) {
                uvec2 word[ROWS];
                for (uint r = 0u; r < ROWS; r++) word[r] = first_codes(load32(w_row[r] + b * BLOCK_BYTES + 4u * n));
                for (uint part = 0u; part < parts_of(n); part++) {
                    uint place = b * 73u + 9u + place_of(n, part);
                    for (uint r = 0u; r < ROWS; r++) {
                        uint codes = next_codes(word[r]);
                        for (uint t = 0u; t < TOKENS; t++) {
                            uint q = x[x_row[t] + place];
                            sums[r * TOKENS + t] += dot4(codes, q) - sum4(q);
                        }
                    }
                }
            }
            for (uint o = 0u; o < OUTPUTS; o++) {
                float dw = half_to_float(load16(w_row[o / TOKENS] + b * BLOCK_BYTES + BLOCK_BYTES - 2u));
                float dx = uintBitsToFloat(x[x_row[o % TOKENS] + b * 73u]);
                lanes[place(o, 0u, lane)] = floatBitsToUint(float(sums[o]) * (dw * dx));
            }
        }
        add_places(0u, min(16u, blocks - first));
        barrier();
    }
}
