#version 450
#extension GL_GOOGLE_include_directive : require
#include "mul_mat.glsl"

void accumulate() {
    float sums[OUTPUTS];
    for (uint o = 0u; o < OUTPUTS; o++) sums[o] = 0.0;
    for (uint b = 0u; b < p.k / 256u; b++) {
        int parts[OUTPUTS];
        for (uint o = 0u; o < OUTPUTS; o++) parts[o] = 0;
        for (uint g = lane; g < 64u; g += 16u) {
            uint i = 4u * g, half_ = i / 128u, part = i / 32u % 4u, l = i % 32u;
            uint q[TOKENS];
            for (uint t = 0u; t < TOKENS; t++) q[t] = x[x_row[t] + 73u * b + 9u + g];
            for (uint r = 0u; r < ROWS; r++) {
                uint at = w_row[r] + 210u * b;
                uint low = (load32(at + 64u * half_ + 32u * (part % 2u) + l) >> (part / 2u * 4u)) & 0x0f0f0f0fu;
                uint high = (load32(at + 128u + 32u * half_ + l) >> (2u * part)) & 0x03030303u;
                int scale = load8s(at + 192u + g / 4u);
                for (uint t = 0u; t < TOKENS; t++) {
                    parts[r * TOKENS + t] += scale * (dot4(low | (high << 4), q[t]) - 32 * sum4(q[t]));
                }
            }
        }
        for (uint o = 0u; o < OUTPUTS; o++) {
            float d = half_to_float(load16(w_row[o / TOKENS] + 210u * b + 208u)) * uintBitsToFloat(x[x_row[o % TOKENS] + 73u * b]);
            sums[o] = sums[o] + float(parts[o]) * d;
        }
    }
    for (uint o = 0u; o < OUTPUTS; o++) put_lane(o, floatBitsToUint(sums[o]));
}
float result(uint o) {
    return tree16(o);
}
