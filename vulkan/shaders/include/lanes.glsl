// Sums and maxima over the 64 invocations of a workgroup, which are the lanes.
shared float lanes[64];

// The tree over the lanes; every invocation gets the sum.
float tree64(float lane) {
    uint i = gl_LocalInvocationID.x;
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
    uint i = gl_LocalInvocationID.x;
    lanes[i] = lane;
    barrier();
    for (uint h = 32u; h > 0u; h >>= 1) {
        if (i < h) lanes[i] = lanes[i + h] > lanes[i] ? lanes[i + h] : lanes[i];
        barrier();
    }
    float top = lanes[0];
    barrier();
    return top;
}

// What invocation 0 computed, for all.
float of_first(float v) {
    if (gl_LocalInvocationID.x == 0u) lanes[0] = v;
    barrier();
    v = lanes[0];
    barrier();
    return v;
}
