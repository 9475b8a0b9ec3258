// Element i of the row of weights at byte `row`, in f32. TYPE: ggml's number of the type.
#include "quants.glsl"

// Trit number n of a byte of TQ1_0.
int trit(uint byte, uint n) {
    for (; n > 0u; n--) byte = (byte * 3u) & 0xffu;
    return int((byte * 3u) >> 8) - 1;
}

float dequant(uint row, uint i) {
    uint b, j = i & 255u;
    switch (TYPE) {
    case TYPE_F32:
        return uintBitsToFloat(w[(row >> 2) + i]);
    case TYPE_F16:
        return half_to_float(load16(row + 2u * i));
    case TYPE_BF16:
        return uintBitsToFloat(load16(row + 2u * i) << 16);
    case TYPE_Q8_0:
        b = row + i / 32u * 34u;
        return float(load8s(b + 2u + i % 32u)) * half_to_float(load16(b));
    case TYPE_Q4_0:
        b = row + i / 32u * 18u;
        j = i % 32u;
        return float(int((load8(b + 2u + j % 16u) >> (j / 16u * 4u)) & 15u) - 8) * half_to_float(load16(b));
    case TYPE_IQ4_NL:
        b = row + i / 32u * 18u;
        j = i % 32u;
        return half_to_float(load16(b)) * float(signed_value_of((load8(b + 2u + j % 16u) >> (j / 16u * 4u)) & 15u));
    case TYPE_MXFP4:
        b = row + i / 32u * 17u;
        j = i % 32u;
        return float(signed_value_of((load8(b + 1u + j % 16u) >> (j / 16u * 4u)) & 15u)) * mxfp4_scale(load8(b));
    case TYPE_Q4_1:
        b = row + i / 32u * 20u;
        j = i % 32u;
        return float((load8(b + 4u + j % 16u) >> (j / 16u * 4u)) & 15u) * half_to_float(load16(b)) + half_to_float(load16(b + 2u));
    case TYPE_Q5_0: {
        b = row + i / 32u * 22u;
        j = i % 32u;
        uint q = ((load8(b + 6u + j % 16u) >> (j / 16u * 4u)) & 15u) | (((load8(b + 2u + j / 8u) >> (j % 8u)) & 1u) << 4);
        return float(int(q) - 16) * half_to_float(load16(b));
    }
    case TYPE_Q5_1: {
        b = row + i / 32u * 24u;
        j = i % 32u;
        uint q = ((load8(b + 8u + j % 16u) >> (j / 16u * 4u)) & 15u) | (((load8(b + 4u + j / 8u) >> (j % 8u)) & 1u) << 4);
        return float(q) * half_to_float(load16(b)) + half_to_float(load16(b + 2u));
    }
    case TYPE_Q2_K: {
        b = row + i / 256u * 84u;
        uint q = (load8(b + 16u + j / 128u * 32u + j % 32u) >> (j / 32u % 4u * 2u)) & 3u, sm = load8(b + j / 16u);
        float d = half_to_float(load16(b + 80u)) * float(sm & 15u), least = half_to_float(load16(b + 82u)) * float(sm >> 4);
        return d * float(q) - least;
    }
    case TYPE_Q3_K: {
        b = row + i / 256u * 110u;
        uint low = (load8(b + 32u + j / 128u * 32u + j % 32u) >> (j / 32u % 4u * 2u)) & 3u;
        uint high = (load8(b + j % 32u) >> (j / 32u)) & 1u;
        float d = half_to_float(load16(b + 108u)) * float(q3_k_scale(b, j / 16u));
        return d * float(int(low | (high << 2)) - 4);
    }
    case TYPE_Q4_K:
    case TYPE_Q5_K: {
        bool five = TYPE == TYPE_Q5_K;
        b = row + i / 256u * (five ? 176u : 144u);
        uint q = (load8(b + (five ? 48u : 16u) + j / 64u * 32u + j % 32u) >> (j / 32u % 2u * 4u)) & 15u;
        if (five) q |= ((load8(b + 16u + j % 32u) >> (j / 32u)) & 1u) << 4;
        uvec2 sm = k_scale_min(b, j / 32u);
        float d = half_to_float(load16(b)) * float(sm.x), least = half_to_float(load16(b + 2u)) * float(sm.y);
        return d * float(q) - least;
    }
    case TYPE_IQ4_XS: {
        b = row + i / 256u * 136u;
        float d = half_to_float(load16(b)) * float(iq4_xs_scale(b, j / 32u));
        uint byte = load8(b + 8u + j / 32u * 16u + j % 16u);
        return d * float(signed_value_of((byte >> (j / 16u % 2u * 4u)) & 15u));
    }
    case TYPE_Q6_K: {
        b = row + i / 256u * 210u;
        uint h = j / 128u, part = j / 32u % 4u, l = j % 32u;
        uint low = (load8(b + 64u * h + 32u * (part % 2u) + l) >> (part / 2u * 4u)) & 15u;
        uint high = (load8(b + 128u + 32u * h + l) >> (2u * part)) & 3u;
        float d = half_to_float(load16(b + 208u)) * float(load8s(b + 192u + j / 16u));
        return d * float(int(low | (high << 4)) - 32);
    }
    case TYPE_TQ1_0: {
        b = row + i / 256u * 54u;
        float d = half_to_float(load16(b + 52u));
        if (j < 160u) return float(trit(load8(b + j % 32u), j / 32u)) * d;
        if (j < 240u) return float(trit(load8(b + 32u + (j - 160u) % 16u), (j - 160u) / 16u)) * d;
        return float(trit(load8(b + 48u + (j - 240u) % 4u), (j - 240u) / 4u)) * d;
    }
    case TYPE_TQ2_0:
        b = row + i / 256u * 66u;
        return float(int((load8(b + j / 128u * 32u + j % 32u) >> (j / 32u % 4u * 2u)) & 3u) - 1) * half_to_float(load16(b + 64u));
    }
    return QUIET_NAN;
}
