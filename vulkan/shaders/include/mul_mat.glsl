// Tiles of ROWS rows of weights and TOKENS rows of x for each 16 invocations, which are the 16 lanes of every sum.
#ifdef INTEGER_DOT
#extension GL_EXT_spirv_intrinsics : require
#endif
#include "group.glsl"
#include "float.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint TOKENS = 1;
const uint OUTPUTS = ROWS * TOKENS; // 16 at most: one for each lane
#include "mul_mat_operands.glsl"

uint lane;
#ifdef SUBGROUPS
uint mine[OUTPUTS]; // this lane of each output
uint whole;         // output `lane`, all lanes together
#endif
uint w_row[ROWS];   // byte of each row of w
uint x_row[TOKENS]; // word of each row of x, or of its record
shared uint lanes[64u * OUTPUTS];

// The lanes of output o of this invocation's 16; lane l is 4 * OUTPUTS behind lane l - 1.
uint lanes_of(uint o) {
    return invocation() / 16u * OUTPUTS + o;
}
const uint LANE = 4u * OUTPUTS;

#ifdef INTEGER_LANES
#define JOINED(a, b) ((a) + (b))
#else
#define JOINED(a, b) floatBitsToUint(uintBitsToFloat(a) + uintBitsToFloat(b))
#endif

#ifdef SUBGROUPS
const uint NEAR = SUBGROUP < 16u ? SUBGROUP : 16u, FAR = 16u / NEAR;

void put_lane(uint o, uint bits) {
    mine[o] = bits;
}
// Steps of the tree beyond a subgroup through shared memory, the others by shuffles; then the sum of output o is with lane o.
void gather() {
    if (FAR > 1u) {
        for (uint o = 0u; o < OUTPUTS; o++) lanes[lanes_of(o) + lane * LANE] = mine[o];
        barrier();
    }
    for (uint o = 0u; o < OUTPUTS; o++) {
        uint v = mine[o];
        if (FAR > 1u) {
            uint far[FAR];
            for (uint j = 0u; j < FAR; j++) far[j] = lanes[lanes_of(o) + (lane % NEAR + j * NEAR) * LANE];
            for (uint h = FAR / 2u; h > 0u; h >>= 1) {
                for (uint j = 0u; j < h; j++) far[j] = JOINED(far[j], far[j + h]);
            }
            v = far[0];
        }
        for (uint h = NEAR / 2u; h > 0u; h >>= 1) v = JOINED(v, subgroupShuffleXor(v, h));
        if (lane == o) whole = v;
    }
}
uint gathered(uint o) {
    return whole;
}
#else
void put_lane(uint o, uint bits) {
    lanes[lanes_of(o) + lane * LANE] = bits;
}
void gather() {
    barrier();
}
uint gathered(uint o) {
    uint v[16];
    for (uint l = 0u; l < 16u; l++) v[l] = lanes[lanes_of(o) + l * LANE];
    for (uint h = 8u; h > 0u; h >>= 1) {
        for (uint l = 0u; l < h; l++) v[l] = JOINED(v[l], v[l + h]);
    }
    return v[0];
}
#endif

#ifdef INTEGER_DOT
// One instruction for four products, where the device has it. Codes are below 128, so that they are signed bytes too.
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6018, 6019], id = 4450)
int signed_dot(uint a, uint b, spirv_literal int format_4x8_bit);
int dot4(uint codes, uint q) {
    return signed_dot(codes, q, 0);
}
int dot4s(uint codes, uint q) {
    return signed_dot(codes, q, 0);
}
int sum4(uint q) {
    return signed_dot(0x01010101u, q, 0);
}
#else
// Byte j of a word, as unsigned and signed.
#define BYTE(v, j) int(((v) >> (8 * (j))) & 0xffu)
#define SBYTE(v, j) (int((v) << (24 - 8 * (j))) >> 24)
// Codes without sign times int8.
int dot4(uint codes, uint q) {
    return BYTE(codes, 0) * SBYTE(q, 0) + BYTE(codes, 1) * SBYTE(q, 1) + BYTE(codes, 2) * SBYTE(q, 2) + BYTE(codes, 3) * SBYTE(q, 3);
}
int dot4s(uint codes, uint q) {
    return SBYTE(codes, 0) * SBYTE(q, 0) + SBYTE(codes, 1) * SBYTE(q, 1) + SBYTE(codes, 2) * SBYTE(q, 2) + SBYTE(codes, 3) * SBYTE(q, 3);
}
int sum4(uint q) {
    return SBYTE(q, 0) + SBYTE(q, 1) + SBYTE(q, 2) + SBYTE(q, 3);
}
#endif

// By the shader: lanes, by put_lane; then output o (row o / TOKENS, token o % TOKENS), from what is gathered of it.
void accumulate();
float result(uint o);

void main() {
    uint row_tiles = (p.len[0] + 4u * ROWS - 1u) / (4u * ROWS), token_tiles = (p.len[1] + TOKENS - 1u) / TOKENS;
    uint item = group_index();
    if (item >= row_tiles * token_tiles * p.len[2] * p.len[3]) return;
    lane = invocation() % 16u;
    uint row = (item % row_tiles * 4u + invocation() / 16u) * ROWS;
    item /= row_tiles;
    uint token = item % token_tiles * TOKENS;
    item /= token_tiles;
    uint i2 = p.start[2] + item % p.len[2], i3 = p.start[3] + item / p.len[2];
    uint w_base = p.w_at + i2 / p.r2 * p.w_nb[1] + i3 / p.r3 * p.w_nb[2], x_base = p.x_at + i2 * p.x_nb[1] + i3 * p.x_nb[2];
    // Beyond the end the last row is computed again, and not stored.
    for (uint r = 0u; r < ROWS; r++) w_row[r] = w_base + (p.start[0] + min(row + r, p.len[0] - 1u)) * p.w_nb[0];
    for (uint t = 0u; t < TOKENS; t++) x_row[t] = x_base + (p.start[1] + min(token + t, p.len[1] - 1u)) * p.x_nb[0];
    accumulate();
    gather();
    uint to = p.y_at + i2 * p.y_nb[1] + i3 * p.y_nb[2] + p.start[0] + row + (p.start[1] + token) * p.y_nb[0];
    uint r = lane / TOKENS, t = lane % TOKENS;
    if (lane < OUTPUTS && row + r < p.len[0] && token + t < p.len[1]) y[to + r + t * p.y_nb[0]] = result(lane);
}
