// The gradient of attention, for one query head of each head of K and V and a block of tokens at a time: scores and the
// gradients of weights; weights, gradients of scores and of q; gradients of K and V.
#include "group.glsl"
#include "float.glsl"
layout(local_size_x = 64) in;
layout(push_constant) uniform Push {
    // Tokens of the block; the query head among those of a head of K and V.
    uint first, count, member;
    // In words; K, V in half-words.
    uint q_at, q_nb1, q_nb2;
    uint dy_at, dy_nb1, dy_nb2;
    uint k_at, k_nb1, k_nb2, k_nb3;
    uint v_at, v_nb1, v_nb2, v_nb3;
    uint span_at;
    uint head, head_v, n_head_kv, group, n_ctx, n_seq;
    float scale;
    // The gradients, parts of the result.
    uint dq_at, dk_at, dv_at;
    // The gradients of scores behind the weights in scratch memory.
    uint ds_at;
    uint step;
} p;

const uint CHUNK = 256u;

#define SPAN(t) uvec3(span[p.span_at + 3u * (t)], span[p.span_at + 3u * (t) + 1u], span[p.span_at + 3u * (t) + 2u])
bool in_range(uvec3 s) {
    return s.x < p.n_seq && s.y <= s.z && s.z <= p.n_ctx && s.y < p.n_ctx;
}
// Scratch of token t of head g of K and V, by position.
uint scratch_of(uint t, uint g) {
    return ((t - p.first) * p.n_head_kv + g) * p.n_ctx;
}
