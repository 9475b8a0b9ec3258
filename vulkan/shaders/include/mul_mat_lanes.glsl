// How the lanes of a sum come together. By the shader: TERMS and PLACES, of each output in shared memory.
const uint STRIDE = 4u * OUTPUTS + 1u; // places of an output lie in different banks
shared uint lanes[TERMS * PLACES * STRIDE];

uint place(uint o, uint term, uint i) {
    return (term * PLACES + i) * STRIDE + invocation() / 16u * OUTPUTS + o;
}

// Terms of n places, one place after the other, when all are there.
void add_places(uint first, uint n) {
    barrier();
    for (uint i = first; i < first + n; i++) {
        for (uint term = 0u; term < TERMS; term++) total = total + uintBitsToFloat(lanes[place(lane % OUTPUTS, term, i)]);
    }
}

// Integers: 16 places from this one on.
int sum_of_places(uint term, uint first) {
    int sum = 0;
    for (uint l = 0u; l < 16u; l++) sum += int(lanes[place(lane % OUTPUTS, term, first + l)]);
    return sum;
}

// Integers of each output, over the lanes, where SHUFFLES.
int shuffled(int v[OUTPUTS]) {
#ifdef SUBGROUPS
    // Of two lanes that differ in bit h, each takes the half of the outputs that it is to have. Loops of fixed lengths: v can stay in registers.
    for (uint h = 8u; h > 0u; h >>= 1) {
        bool upper = (lane & h) != 0u;
        for (uint o = 0u; o < OUTPUTS / 2u; o++) {
            if (h < OUTPUTS && o < h) v[o] = (upper ? v[o + h] : v[o]) + subgroupShuffleXor(upper ? v[o] : v[o + h], h);
        }
    }
    for (uint h = 8u; h >= OUTPUTS; h >>= 1) v[0] += subgroupShuffleXor(v[0], h);
#endif
    return v[0];
}
