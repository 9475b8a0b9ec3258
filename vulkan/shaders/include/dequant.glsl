// Element i of the row of weights at byte `row`, in f32. TYPE: ggml's number of the type.
#include "bytes.glsl"
#include "float.glsl"

#define TYPE_F32 0u
#define TYPE_F16 1u
#define TYPE_Q4_0 2u
#define TYPE_Q8_0 8u
#define TYPE_Q4_K 12u
#define TYPE_Q6_K 14u
#define TYPE_BF16 30u
#define TYPE_TQ1_0 34u
#define TYPE_TQ2_0 35u

// Scale and minimum of sub-block j of the Q4_K block at byte b.
uvec2 q4_k_scale_min(uint b, uint j) {
    uint s = b + 4u;
    if (j < 4u) return uvec2(load8(s + j) & 63u, load8(s + j + 4u) & 63u);
    uint mixed = load8(s + j + 4u);
    return uvec2((mixed & 15u) | ((load8(s + j - 4u) >> 6) << 4), (mixed >> 4) | ((load8(s + j) >> 6) << 4));
}

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
    case TYPE_Q4_K: {
        b = row + i / 256u * 144u;
        uint q = (load8(b + 16u + j / 64u * 32u + j % 32u) >> (j / 32u % 2u * 4u)) & 15u;
        uvec2 sm = q4_k_scale_min(b, j / 32u);
        float d = half_to_float(load16(b)) * float(sm.x), least = half_to_float(load16(b + 2u)) * float(sm.y);
        return d * float(q) - least;
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
