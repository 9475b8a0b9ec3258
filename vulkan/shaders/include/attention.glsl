// Attention in three passes over scratch memory: scores, then weights and values of each chunk of 256 positions, then
// the chunks' sum. The box: heads, tokens, and positions or chunks, sequences.
#include "group.glsl"
#include "float.glsl"
layout(local_size_x = 64) in;
layout(push_constant) uniform Push {
    uint start[4];
    uint len[4];
    // q or the result, K or V (in bytes), span; in words.
    uint x_at, x_nb[2];
    uint cache_at, cache_nb[3];
    uint span_at;
    uint head, n_head, group, n_ctx, n_seq, chunks;
    float scale;
    uint scores_at, parts_at, first_token, step;
} p;

const uint CHUNK = 256u;

// Sequence, first visible position, and how many are visible; none where the span is out of range.
#define VISIBLE(t) visible(span[p.span_at + 3u * (t)], span[p.span_at + 3u * (t) + 1u], span[p.span_at + 3u * (t) + 2u])
bool in_range(int seq, int first, int end) {
    return seq >= 0 && uint(seq) < p.n_seq && first >= 0 && first <= end && uint(end) <= p.n_ctx && uint(first) < p.n_ctx;
}
uvec3 visible(int seq, int first, int end) {
    return in_range(seq, first, end) ? uvec3(seq, first, end - first) : uvec3(0u);
}
// Scratch of a query: its scores by visible position; for each chunk the values' sum, and the weights' sum behind it.
uint scores_of(uint t, uint h) {
    return p.scores_at + ((t - p.first_token) * p.n_head + h) * p.n_ctx;
}
uint part_of(uint t, uint h, uint chunk, uint head_v) {
    return p.parts_at + (((t - p.first_token) * p.n_head + h) * p.chunks + chunk) * (head_v + 1u);
}
