#version 450
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint TYPE = 35; // ggml's number: TQ1_0, TQ2_0
#include "out_prod_ternary.glsl"
#include "float.glsl"

const uint COLUMNS = 4u;

int trit(uint row, uint i) {
    uint j = i & 255u;
    if (TYPE == 35u) return int((load8(row + i / 256u * 66u + j / 128u * 32u + j % 32u) >> (j / 32u % 4u * 2u)) & 3u) - 1;
    uint at = row + i / 256u * 54u, n;
    if (j < 160u) {
        at += j % 32u;
        n = j / 32u;
    } else if (j < 240u) {
        at += 32u + (j - 160u) % 16u;
        n = (j - 160u) / 16u;
    } else {
        at += 48u + (j - 240u) % 4u;
        n = (j - 240u) / 4u;
    }
    uint fraction = load8(at);
    for (; n > 0u; n--) fraction = (fraction * 3u) & 0xffu;
    return int((fraction * 3u) >> 8) - 1;
}

void main() {
    uint item = group_index() * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    uint blocks = (p.len[1] + COLUMNS - 1u) / COLUMNS;
    if (item >= p.len[0] * blocks * p.len[3] * p.len[4]) return;
    uint i = p.start[0] + item % p.len[0];
    item /= p.len[0];
    uint first = item % blocks * COLUMNS, count = min(COLUMNS, p.len[1] - first), j0 = p.start[1] + first;
    item /= blocks;
    uint i2 = p.start[3] + item % p.len[3], i3 = p.start[4] + item / p.len[3];
    uint at = p.y_at + i2 * p.y_nb[1] + i3 * p.y_nb[2] + i;
    uint a_at = p.a_at + i2 * p.a_nb[1] + i3 * p.a_nb[2], b_at = p.b_at + i2 * p.b_nb[1] + i3 * p.b_nb[2];
    // A divided sum stays an integer until its last part.
    bool last = p.start[2] + p.len[2] >= p.rows;
    int sums[COLUMNS];
    for (uint c = 0u; c < COLUMNS; c++) {
        sums[c] = p.start[2] > 0u && c < count ? int(y[at + (j0 + c) * p.y_nb[0]]) : 0;
    }
    for (uint r = p.start[2]; r < p.start[2] + p.len[2]; r++) {
        int av = trit(a_at + r * p.a_nb[0], i);
        for (uint c = 0u; c < COLUMNS; c++) {
            sums[c] += av * int(b[b_at + (j0 + min(c, count - 1u)) * p.b_nb[0] + 1u + r]);
        }
    }
    for (uint c = 0u; c < count; c++) {
        float s = uintBitsToFloat(b[b_at + (j0 + c) * p.b_nb[0]]);
        y[at + (j0 + c) * p.y_nb[0]] = last ? floatBitsToUint(float(sums[c]) * (p.d * s)) : uint(sums[c]);
    }
}
