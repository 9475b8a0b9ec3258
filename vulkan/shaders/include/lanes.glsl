// Sums and maxima over the 64 invocations of a workgroup, which are the lanes.
shared float lanes[64];

float larger(float a, float b) {
    return b > a ? b : a;
}

#ifdef SUBGROUPS
// Steps of the tree as far apart as a subgroup is large, or farther: each invocation takes them alone, of all lanes that end
// up in its own. Nearer ones are shuffles: every invocation gets what the first would.
const uint FAR = 64u / SUBGROUP;
float far[FAR];

void spread(float lane) {
    lanes[invocation()] = lane;
    barrier();
    for (uint j = 0u; j < FAR; j++) far[j] = lanes[gl_SubgroupInvocationID + j * SUBGROUP];
    barrier();
}
float tree64(float lane) {
    if (FAR > 1u) {
        spread(lane);
        for (uint h = FAR / 2u; h > 0u; h >>= 1) {
            for (uint j = 0u; j < h; j++) far[j] = far[j] + far[j + h];
        }
        lane = far[0];
    }
    for (uint h = SUBGROUP / 2u; h > 0u; h >>= 1) lane = lane + subgroupShuffleXor(lane, h);
    return lane;
}
float max64(float lane) {
    if (FAR > 1u) {
        spread(lane);
        lane = far[0];
        for (uint j = 1u; j < FAR; j++) lane = larger(lane, far[j]);
    }
    for (uint h = SUBGROUP / 2u; h > 0u; h >>= 1) lane = larger(lane, subgroupShuffleXor(lane, h));
    return lane;
}
#else
// The tree over the lanes; every invocation gets the sum.
float tree64(float lane) {
    uint i = invocation();
    lanes[i] = lane;
    barrier();
    for (uint h = 32u; h > 0u; h >>= 1) {
        if (i < h) lanes[i] = lanes[i] + lanes[i + h];
        barrier();
    }
    float sum = lanes[0];
    barrier();
    return sum;
}

float max64(float lane) {
    uint i = invocation();
    lanes[i] = lane;
    barrier();
    for (uint h = 32u; h > 0u; h >>= 1) {
        if (i < h) lanes[i] = larger(lanes[i], lanes[i + h]);
        barrier();
    }
    float top = lanes[0];
    barrier();
    return top;
}
#endif

// What invocation 0 computed, for all.
float of_first(float v) {
    if (invocation() == 0u) lanes[0] = v;
    barrier();
    v = lanes[0];
    barrier();
    return v;
}
