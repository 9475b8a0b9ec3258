// Parts of blocks that several shaders decode. TYPE: ggml's number of the weights' type.
#include "bytes.glsl"
#include "float.glsl"

#define TYPE_F32 0u
#define TYPE_F16 1u
#define TYPE_Q4_0 2u
#define TYPE_Q4_1 3u
#define TYPE_Q5_0 6u
#define TYPE_Q5_1 7u
#define TYPE_Q8_0 8u
#define TYPE_Q2_K 10u
#define TYPE_Q3_K 11u
#define TYPE_Q4_K 12u
#define TYPE_Q5_K 13u
#define TYPE_Q6_K 14u
#define TYPE_IQ4_NL 20u
#define TYPE_IQ4_XS 23u
#define TYPE_BF16 30u
#define TYPE_TQ1_0 34u
#define TYPE_TQ2_0 35u
#define TYPE_MXFP4 39u

// What a code of 4 bits stands for, as a signed byte. MXFP4: doubled.
uint value_of(uint code) {
    // Not chosen by `?:`: with a constant, that is a form of SPIR-V 1.4 which Mesa 22 gets wrong for vectors.
    uvec4 values = uvec4(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);
    if (TYPE == TYPE_MXFP4) values = uvec4(0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu);
    return (values[code >> 2] >> ((code & 3u) * 8u)) & 0xffu;
}
int signed_value_of(uint code) {
    return int(value_of(code) << 24) >> 24;
}
// Of four codes in the bytes of a word.
uint values_of(uint codes) {
    return value_of(codes & 15u) | (value_of((codes >> 8) & 15u) << 8) | (value_of((codes >> 16) & 15u) << 16) | (value_of(codes >> 24) << 24);
}
// Half of 2^(e - 127), for doubled values.
float mxfp4_scale(uint e) {
    return uintBitsToFloat(e < 2u ? 0x00200000u << e : (e - 1u) << 23);
}
// Scale and minimum of sub-block j of the Q4_K or Q5_K block at byte b.
uvec2 k_scale_min(uint b, uint j) {
    uint s = b + 4u;
    if (j < 4u) return uvec2(load8(s + j) & 63u, load8(s + j + 4u) & 63u);
    uint mixed = load8(s + j + 4u);
    return uvec2((mixed & 15u) | ((load8(s + j - 4u) >> 6) << 4), (mixed >> 4) | ((load8(s + j) >> 6) << 4));
}
// Scale of sub-block j of the Q3_K block at byte b.
int q3_k_scale(uint b, uint j) {
    uint s = b + 96u;
    uint low = (load8(s + j % 8u) >> (j / 8u * 4u)) & 15u, high = (load8(s + 8u + j % 4u) >> (j / 4u * 2u)) & 3u;
    return int(low | (high << 4)) - 32;
}
// Scale of sub-block j of the IQ4_XS block at byte b.
int iq4_xs_scale(uint b, uint j) {
    uint low = (load8(b + 4u + j / 2u) >> (j % 2u * 4u)) & 15u, high = (load16(b + 2u) >> (2u * j)) & 3u;
    return int(low | (high << 4)) - 32;
}
