// Rows of floats in the types of a KV cache: a half-word for each element, or blocks of 32 as ggml's reference quantizers
// make them. x: the floats; w: the words to write.
#include "quants.glsl"

const uint BLOCK_BYTES = TYPE == TYPE_Q8_0 ? 34u : TYPE == TYPE_Q4_1 ? 20u : TYPE == TYPE_Q5_0 ? 22u : TYPE == TYPE_Q5_1 ? 24u : 18u;

// Neighbours share a word at their ends: each changes its own half. at: a multiple of 2.
void store16(uint at, uint value) {
    uint shift = (at & 2u) * 8u;
    atomicAnd(w[at >> 2], 0xffff0000u >> shift);
    atomicOr(w[at >> 2], value << shift);
}

uint half_of(float v) {
    if (TYPE == TYPE_F16) return float_to_half(v);
    uint u = floatBitsToUint(v);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (u >> 16) | 0x40u;
    return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}

// What x86 makes of C's (int) v: beyond the range, and of NaN, the least.
int truncated(float v) {
    return v >= -2147483648.0 && v < 2147483648.0 ? int(v) : int(0x80000000u);
}

// To the nearest, halves away from zero.
int rounded(float v) {
    int i = truncated(v);
    if (i == int(0x80000000u)) return i;
    float rest = v - float(i);
    return rest >= 0.5 ? i + 1 : rest <= -0.5 ? i - 1 : i;
}

// IQ4_NL: the code of the value next to v, the upper of two that are as near.
uint nearest(float v) {
    if (v <= -127.0) return 0u;
    if (v >= 113.0) return 15u;
    uint low = 0u, high = 15u;
    while (high - low > 1u) {
        uint middle = (low + high) / 2u;
        if (v < float(signed_value_of(middle))) {
            high = middle;
        } else {
            low = middle;
        }
    }
    return v - float(signed_value_of(high - 1u)) < float(signed_value_of(high)) - v ? high - 1u : high;
}

// IQ4_NL: how well values times 1 / id fit.
void fit_sums(uint from, float id, out float sum_qx, out float sum_q2) {
    sum_qx = 0.0;
    sum_q2 = 0.0;
    for (uint i = 0u; i < 32u; i++) {
        float v = x[from + i], weight = v * v, q = float(signed_value_of(nearest(id * v)));
        sum_qx = sum_qx + (weight * q) * v;
        sum_q2 = sum_q2 + (weight * q) * q;
    }
}

// IQ4_NL: the scale, the best of 16. top: the element of the largest magnitude.
float fit(uint from, float top) {
    if (abs(top) < uintBitsToFloat(0x26901d7du)) return 0.0; // 1e-15
    float sum_qx, sum_q2;
    fit_sums(from, div(1.0, div(-top, -127.0)), sum_qx, sum_q2);
    float scale = sum_q2 > 0.0 ? div(sum_qx, sum_q2) : 0.0;
    float best = scale * sum_qx;
    for (int trial = -7; trial <= 7; trial++) {
        fit_sums(from, div(float(trial) - 127.0, top), sum_qx, sum_q2);
        if (sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2) {
            scale = div(sum_qx, sum_q2);
            best = scale * sum_qx;
        }
    }
    return scale;
}

// A code as a byte; least: the smallest element of its block.
uint code(float v, float id, float least) {
    int q;
    switch (TYPE) {
    case TYPE_IQ4_NL:
        return nearest(id * v);
    case TYPE_Q8_0:
        q = rounded(v * id);
        break;
    case TYPE_Q4_0:
        q = truncated(v * id + 8.5);
        break;
    case TYPE_Q5_0:
        q = truncated(v * id + 16.5);
        break;
    default:
        q = truncated((v - least) * id + 0.5);
    }
    // As an int8, of which the larger ones are cut to the last code.
    q = (q << 24) >> 24;
    if (TYPE == TYPE_Q4_0 || TYPE == TYPE_Q4_1) q = min(q, 15);
    if (TYPE == TYPE_Q5_0) q = min(q, 31);
    return uint(q) & 0xffu;
}

// One block, at byte `to`.
void quantize(uint to, uint from) {
    float largest = 0.0, top = 0.0, least = uintBitsToFloat(0x7f7fffffu), most = -least;
    for (uint i = 0u; i < 32u; i++) {
        float v = x[from + i];
        if (abs(v) > largest) {
            largest = abs(v);
            top = v;
        }
        if (v < least) least = v;
        if (v > most) most = v;
    }
    bool five = TYPE == TYPE_Q5_0 || TYPE == TYPE_Q5_1, has_least = TYPE == TYPE_Q4_1 || TYPE == TYPE_Q5_1;
    float d;
    if (TYPE == TYPE_IQ4_NL) {
        d = fit(from, top);
    } else if (has_least) {
        d = div(most - least, five ? 31.0 : 15.0);
    } else {
        d = TYPE == TYPE_Q8_0 ? div(largest, 127.0) : div(top, five ? -16.0 : -8.0);
    }
    float id = d != 0.0 ? div(1.0, d) : 0.0;
    store16(to, float_to_half(d));
    to += 2u;
    if (has_least) {
        store16(to, float_to_half(least));
        to += 2u;
    }
    if (five) {
        uint high = 0u;
        for (uint i = 0u; i < 32u; i++) high |= ((code(x[from + i], id, least) >> 4) & 1u) << i;
        store16(to, high & 0xffffu);
        store16(to + 2u, high >> 16);
        to += 4u;
    }
    if (TYPE == TYPE_Q8_0) {
        for (uint i = 0u; i < 32u; i += 2u) {
            store16(to + i, code(x[from + i], id, least) | (code(x[from + i + 1u], id, least) << 8));
        }
        return;
    }
    for (uint i = 0u; i < 16u; i += 2u) {
        uint pair = 0u;
        for (uint j = 0u; j < 2u; j++) {
            uint low = code(x[from + i + j], id, least), high = code(x[from + i + j + 16u], id, least);
            pair |= (((low & 15u) | (high << 4)) & 0xffu) << (8u * j);
        }
        store16(to + i, pair);
    }
}
