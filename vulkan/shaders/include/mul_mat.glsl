// Tiles of ROWS rows of weights and TOKENS rows of x for each 16 invocations, which are the 16 lanes of every sum.
#ifdef INTEGER_DOT
#extension GL_EXT_spirv_intrinsics : require
#endif
#include "group.glsl"
#include "float.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint TOKENS = 1;
const uint OUTPUTS = ROWS * TOKENS; // a power of two, 16 at most: one for each lane
// Whether the lanes of a sum can shuffle.
#ifdef SUBGROUPS
const bool SHUFFLES = SUBGROUP >= 16u;
#else
const bool SHUFFLES = false;
#endif
#include "mul_mat_operands.glsl"

uint lane;
uint w_row[ROWS];   // byte of each row of w
uint x_row[TOKENS]; // word of each row of x, or of its record
// This invocation's own output is `lane % OUTPUTS`: row and record of that, and its sum.
uint own_w, own_x;
float total = 0.0;

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

// By the shader: all lanes together, the total of each one's own output.
void accumulate();

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
    uint r = lane % OUTPUTS / TOKENS, t = lane % TOKENS;
    own_w = w_base + (p.start[0] + min(row + r, p.len[0] - 1u)) * p.w_nb[0];
    own_x = x_base + (p.start[1] + min(token + t, p.len[1] - 1u)) * p.x_nb[0];
    accumulate();
    uint to = p.y_at + i2 * p.y_nb[1] + i3 * p.y_nb[2] + p.start[0] + row + (p.start[1] + token) * p.y_nb[0];
    if (lane < OUTPUTS && row + r < p.len[0] && token + t < p.len[1]) y[to + r + t * p.y_nb[0]] = total;
}
