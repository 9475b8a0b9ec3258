#version 450
#extension GL_GOOGLE_include_directive : require
#include "coopmat.glsl"
// The sums of out_prod_ternary.comp by cooperative matrices, one for the high and one for the low byte of the codes in b: a
// workgroup unpacks a block's columns of 64 rows of weights at a time, and multiplies them with TOKENS rows of b.
layout(constant_id = 0) const uint TYPE = 35; // ggml's number: TQ1_0, TQ2_0
layout(constant_id = 1) const uint TOKENS = 32;
#include "out_prod_ternary.glsl"
#include "ternary.glsl"

const uint COLUMNS = 256u, MY_COLUMNS = COLUMNS / TEAM;
const uint HIGH = MY_COLUMNS / M, WIDE = TOKENS / N;
// Rows of weights at a time. (Four words more: columns are then in different banks, and at multiples of 16 bytes.)
const uint RUN = 64u, WORDS = RUN / 4u, STRIDE = WORDS + 4u;
// For each column its weights, of which four int8 are a word; then for each token the high bytes, and the low ones. At the end
// sums, for each subgroup and token of its columns.
shared uint tile[(COLUMNS + 2u * TOKENS) * STRIDE];

// The block at byte `block` of row 0; from row `first`.
void unpack(uint block, uint first, uint end) {
    for (uint i = invocation(); i < WORDS * BLOCK_WORDS; i += WORKGROUP) {
        uint n = i % BLOCK_WORDS, four = i / BLOCK_WORDS;
        uvec2 word[4];
        for (uint l = 0u; l < 4u; l++) {
            // Beyond the end the last row again: there b is zero.
            uint r = min(first + 4u * four + l, end - 1u);
            word[l] = first_codes(load32(block + r * p.a_nb[0] + 4u * n));
        }
        for (uint part = 0u; part < parts_of(n); part++) {
            uint at = 4u * place_of(n, part) * STRIDE + four;
            uint column[4] = uint[](0u, 0u, 0u, 0u);
            for (uint l = 0u; l < 4u; l++) {
                // Codes are one more than weights.
                uint weights = ((next_codes(word[l]) | 0x80808080u) - 0x01010101u) ^ 0x80808080u;
                for (uint c = 0u; c < 4u; c++) column[c] |= ((weights >> (8u * c)) & 0xffu) << (8u * l);
            }
            for (uint c = 0u; c < 4u; c++) tile[at + c * STRIDE] = column[c];
        }
    }
}

// The record of row t of b; beyond the end the last one again, which is not stored.
uint b_row(uint b_base, uint t) {
    return b_base + (p.start[1] + min(t, p.len[1] - 1u)) * p.b_nb[0];
}

// Codes of the TOKENS rows of b from `token`, from row `first` of the weights: 256 * high + low, both signed bytes.
void split(uint b_base, uint token, uint first, uint end) {
    for (uint i = invocation(); i < TOKENS * WORDS; i += WORKGROUP) {
        uint t = i / WORDS, four = i % WORDS, from = b_row(b_base, token + t), high = 0u, low = 0u;
        for (uint l = 0u; l < 4u; l++) {
            uint r = first + 4u * four + l;
            int q = r < end ? int(b[from + 1u + r]) : 0;
            high |= (uint((q + 128) >> 8) & 0xffu) << (8u * l);
            low |= (uint(q) & 0xffu) << (8u * l);
        }
        tile[(COLUMNS + t) * STRIDE + four] = high;
        tile[(COLUMNS + TOKENS + t) * STRIDE + four] = low;
    }
}

void main() {
    uint blocks = p.len[0] / COLUMNS, token_tiles = (p.len[1] + TOKENS - 1u) / TOKENS;
    uint item = group_index();
    if (item >= blocks * token_tiles * p.len[3] * p.len[4]) return;
    uint block = item % blocks;
    item /= blocks;
    uint token = item % token_tiles * TOKENS;
    item /= token_tiles;
    uint i2 = p.start[3] + item % p.len[3], i3 = p.start[4] + item / p.len[3];
    uint a_base = p.a_at + i2 * p.a_nb[1] + i3 * p.a_nb[2] + block * BLOCK_BYTES;
    uint b_base = p.b_at + i2 * p.b_nb[1] + i3 * p.b_nb[2];
    uint end = p.start[2] + p.len[2], mine = gl_SubgroupID * MY_COLUMNS;

    SUMS high[HIGH * WIDE], low[HIGH * WIDE];
    [[unroll]] for (uint i = 0u; i < HIGH * WIDE; i++) {
        high[i] = SUMS(0);
        low[i] = SUMS(0);
    }
    for (uint first = p.start[2]; first < end; first += RUN) {
        barrier();
        unpack(a_base, first, end);
        split(b_base, token, first, end);
        barrier();
        for (uint k = 0u; k < RUN; k += K) {
            WEIGHTS w[HIGH];
            [[unroll]] for (uint r = 0u; r < HIGH; r++) coopMatLoad(w[r], tile, (mine + r * M) * STRIDE + k / 4u, STRIDE, BY_ROWS);
            [[unroll]] for (uint t = 0u; t < WIDE; t++) {
                ACTIVATIONS of_high, of_low;
                uint at = (COLUMNS + t * N) * STRIDE + k / 4u;
                coopMatLoad(of_high, tile, at, STRIDE, BY_COLUMNS);
                coopMatLoad(of_low, tile, at + TOKENS * STRIDE, STRIDE, BY_COLUMNS);
                [[unroll]] for (uint r = 0u; r < HIGH; r++) {
                    high[r * WIDE + t] = coopMatMulAdd(w[r], of_high, high[r * WIDE + t]);
                    low[r * WIDE + t] = coopMatMulAdd(w[r], of_low, low[r * WIDE + t]);
                }
            }
        }
    }
    // A divided sum stays an integer until its last part.
    bool last = end >= p.rows;
    uint sums = gl_SubgroupID * MY_COLUMNS * N, to = p.y_at + i2 * p.y_nb[1] + i3 * p.y_nb[2] + block * COLUMNS + mine;
    [[unroll]] for (uint t = 0u; t < WIDE; t++) {
        barrier();
        [[unroll]] for (uint r = 0u; r < HIGH; r++) {
            coopMatStore(high[r * WIDE + t] * SUMS(256) + low[r * WIDE + t], tile, sums + r * M, MY_COLUMNS, BY_COLUMNS);
        }
        barrier();
        for (uint i = gl_SubgroupInvocationID; i < MY_COLUMNS * N; i += SUBGROUP) {
            uint j = token + t * N + i / MY_COLUMNS;
            if (j >= p.len[1]) continue;
            uint at = to + (p.start[1] + j) * p.y_nb[0] + i % MY_COLUMNS;
            int sum = int(tile[sums + i]) + (p.start[2] > 0u ? int(y[at]) : 0);
            y[at] = last ? floatBitsToUint(float(sum) * (p.d * uintBitsToFloat(b[b_row(b_base, j)]))) : uint(sum);
        }
    }
}
