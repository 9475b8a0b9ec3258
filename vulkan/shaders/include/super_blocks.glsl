// Sums of super-blocks: the lanes' integers come together, and blocks go into the total in order. By the shader: BLOCK_BYTES, and D_AT,
// HAS_MIN and MIN_AT of a block's scales.
const uint TERMS = HAS_MIN ? 2u : 1u;
const uint BATCH = SHUFFLES ? 1u : 16u / OUTPUTS; // blocks for which lanes meet in shared memory: there is one for each of their own outputs
const uint PLACES = SHUFFLES ? 1u : 17u * BATCH;
#include "mul_mat_lanes.glsl"

// Of a block: what this lane has of each output, products and minimums.
int sums[OUTPUTS], mins[OUTPUTS];
// By the shader: adds those of block b.
void add_products(uint b);

// The integer of a block's own output times its scales; d_at: where that of the weights is.
float scaled(uint b, uint d_at, int sum) {
    return float(sum) * (half_to_float(load16(own_w + BLOCK_BYTES * b + d_at)) * uintBitsToFloat(x[own_x + 73u * b]));
}

// The places of a batch: integers of all its blocks, and then terms.
void put_integers(uint i) {
    for (uint o = 0u; o < OUTPUTS; o++) {
        lanes[place(o, 0u, 16u * i + lane)] = uint(sums[o]);
        if (HAS_MIN) lanes[place(o, 1u, 16u * i + lane)] = uint(mins[o]);
    }
}
void add_batch(uint first, uint n) {
    barrier();
    uint o = lane % OUTPUTS, i = lane / OUTPUTS, to = 16u * BATCH + i;
    if (i < n) {
        lanes[place(o, 0u, to)] = floatBitsToUint(scaled(first + i, D_AT, sum_of_places(0u, 16u * i)));
        if (HAS_MIN) lanes[place(o, 1u, to)] = floatBitsToUint(-scaled(first + i, MIN_AT, sum_of_places(1u, 16u * i)));
    }
    add_places(16u * BATCH, n);
}

void accumulate() {
    uint blocks = p.k / 256u;
    for (uint first = 0u; first < blocks; first += BATCH) {
        uint n = min(BATCH, blocks - first);
        for (uint i = 0u; i < n; i++) {
            for (uint o = 0u; o < OUTPUTS; o++) {
                sums[o] = 0;
                mins[o] = 0;
            }
            add_products(first + i);
            if (!SHUFFLES) put_integers(i);
        }
        if (SHUFFLES) {
            total = total + scaled(first, D_AT, shuffled(sums));
            if (HAS_MIN) total = total - scaled(first, MIN_AT, shuffled(mins));
        } else {
            add_batch(first, n);
        }
    }
}
