#version 450
#extension GL_GOOGLE_include_directive : require
#include "coopmat.glsl"
// The sums of mul_mat_ternary.comp by cooperative matrices: a workgroup unpacks ROWS rows of weights, a part of a block at a
// time, and multiplies them with TOKENS rows of x.
layout(constant_id = 0) const uint ROWS = 64;
layout(constant_id = 1) const uint TOKENS = 64;
layout(constant_id = 2) const uint TYPE = 35; // ggml's number: TQ1_0, TQ2_0
#include "mul_mat_operands.glsl"
#include "ternary.glsl"

// Rows and tokens of each subgroup, and the matrices that they are.
const uint ACROSS = TOKENS > 32u ? 2u : 1u;
const uint MY_ROWS = ROWS * ACROSS / TEAM, MY_TOKENS = TOKENS / ACROSS;
const uint HIGH = MY_ROWS / M, WIDE = MY_TOKENS / N;

// A block's words of codes are unpacked in two halves, each of which is a run of columns: words of the longer run, and
// from one row of the tile to the next. (Four more: rows are then in different banks, and at multiples of 16 bytes.)
const uint RUN = TYPE == TQ1_0 ? 40u : 32u;
const uint STRIDE = RUN + 4u;
// Rows of weights, then those of x, of which four int8 are a word. At the end the sums, token by token.
shared uint tile[(ROWS + TOKENS) * STRIDE];

void unpack(uint b, uint half_, uint w_base, uint row) {
    uint first = 8u * half_, count = min(8u, BLOCK_WORDS - first);
    for (uint i = invocation(); i < ROWS * count; i += WORKGROUP) {
        uint r = i / count, n = first + i % count;
        // Beyond the end the last row is computed again, and not stored.
        uint w_row = w_base + (p.start[0] + min(row + r, p.len[0] - 1u)) * p.w_nb[0];
        uvec2 word = first_codes(load32(w_row + b * BLOCK_BYTES + 4u * n));
        for (uint part = 0u; part < parts_of(n); part++) {
            tile[r * STRIDE + place_of(n, part) - half_ * RUN] = next_codes(word);
        }
    }
}

uint x_row(uint x_base, uint t) {
    return x_base + (p.start[1] + min(t, p.len[1] - 1u)) * p.x_nb[0];
}

void main() {
    uint row_tiles = (p.len[0] + ROWS - 1u) / ROWS, token_tiles = (p.len[1] + TOKENS - 1u) / TOKENS;
    uint item = group_index();
    if (item >= row_tiles * token_tiles * p.len[2] * p.len[3]) return;
    uint row = item % row_tiles * ROWS;
    item /= row_tiles;
    uint token = item % token_tiles * TOKENS;
    item /= token_tiles;
    uint i2 = p.start[2] + item % p.len[2], i3 = p.start[3] + item / p.len[2];
    uint w_base = p.w_at + i2 / p.r2 * p.w_nb[1] + i3 / p.r3 * p.w_nb[2], x_base = p.x_at + i2 * p.x_nb[1] + i3 * p.x_nb[2];
    uint my_row = gl_SubgroupID / ACROSS * MY_ROWS, my_token = gl_SubgroupID % ACROSS * MY_TOKENS;

    SUMS sums[HIGH * WIDE];
    [[unroll]] for (uint i = 0u; i < HIGH * WIDE; i++) {
        sums[i] = SUMS(0);
    }
    for (uint b = 0u; b < p.k / 256u; b++) {
        for (uint half_ = 0u; half_ < 2u; half_++) {
            uint run = half_ == 0u ? RUN : 64u - RUN;
            barrier();
            unpack(b, half_, w_base, row);
            for (uint i = invocation(); i < TOKENS * run; i += WORKGROUP) {
                uint t = i / run, j = i % run;
                tile[(ROWS + t) * STRIDE + j] = x[x_row(x_base, token + t) + 2u + b * 64u + half_ * RUN + j];
            }
            barrier();
            for (uint k = 0u; k < 4u * run; k += K) {
                WEIGHTS codes[HIGH];
                [[unroll]] for (uint r = 0u; r < HIGH; r++) {
                    coopMatLoad(codes[r], tile, (my_row + r * M) * STRIDE + k / 4u, STRIDE, BY_ROWS);
                }
                [[unroll]] for (uint t = 0u; t < WIDE; t++) {
                    ACTIVATIONS q;
                    uint at = (ROWS + my_token + t * N) * STRIDE + k / 4u;
                    coopMatLoad(q, tile, at, STRIDE, BY_COLUMNS);
                    [[unroll]] for (uint r = 0u; r < HIGH; r++) {
                        sums[r * WIDE + t] = coopMatMulAdd(codes[r], q, sums[r * WIDE + t]);
                    }
                }
            }
        }
    }
    barrier();
    [[unroll]] for (uint r = 0u; r < HIGH; r++) {
        [[unroll]] for (uint t = 0u; t < WIDE; t++) {
            uint at = (my_token + t * N) * ROWS + my_row + r * M;
            coopMatStore(sums[r * WIDE + t], tile, at, ROWS, BY_COLUMNS);
        }
    }
    barrier();
    uint to = p.y_at + i2 * p.y_nb[1] + i3 * p.y_nb[2] + p.start[0] + row + (p.start[1] + token) * p.y_nb[0];
    for (uint i = invocation(); i < ROWS * TOKENS; i += WORKGROUP) {
        uint r = i % ROWS, t = i / ROWS;
        if (row + r >= p.len[0] || token + t >= p.len[1]) continue;
        uint record = x_row(x_base, token + t);
        // Codes are one more than weights.
        y[to + r + t * p.y_nb[0]] = float(int(tile[i]) - int(x[record + 1u])) * (p.d * uintBitsToFloat(x[record]));
    }
}
