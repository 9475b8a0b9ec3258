#version 450
#extension GL_GOOGLE_include_directive : require
#include "mul_mat.glsl"
const uint TERMS = 1u, PLACES = 16u;
#include "mul_mat_lanes.glsl"
layout(constant_id = 2) const uint TYPE = 35; // ggml's number: TQ1_0, TQ2_0
#include "ternary.glsl"

// One scale in the whole tensor, and one for each token: a single sum of integers.
void accumulate() {
    int sums[OUTPUTS];
    for (uint o = 0u; o < OUTPUTS; o++) sums[o] = 0;
    if (lane < BLOCK_WORDS) {
        uint parts = parts_of(lane);
        for (uint b = 0u; b < p.k / 256u; b++) {
            uvec2 word[ROWS];
            for (uint r = 0u; r < ROWS; r++) word[r] = first_codes(load32(w_row[r] + b * BLOCK_BYTES + 4u * lane));
            for (uint part = 0u; part < parts; part++) {
                uint place = 2u + b * 64u + place_of(lane, part);
                uint q[TOKENS];
                for (uint t = 0u; t < TOKENS; t++) q[t] = x[x_row[t] + place];
                for (uint r = 0u; r < ROWS; r++) {
                    uint codes = next_codes(word[r]);
                    for (uint t = 0u; t < TOKENS; t++) sums[r * TOKENS + t] += dot4(codes, q[t]);
                }
            }
        }
    }
    if (!SHUFFLES) {
        for (uint o = 0u; o < OUTPUTS; o++) lanes[place(o, 0u, lane)] = uint(sums[o]);
        barrier();
    }
    int sum = SHUFFLES ? shuffled(sums) : sum_of_places(0u, 0u);
    // Codes are one more than weights.
    total = float(sum - int(x[own_x + 1u])) * (p.d * uintBitsToFloat(x[own_x]));
}
