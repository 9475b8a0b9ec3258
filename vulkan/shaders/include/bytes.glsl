// Bytes of the weights `w`, an array of words. Blocks of an odd number of half-words lie across words.
#ifndef BYTES_GLSL
#define BYTES_GLSL
uint load8(uint at) {
    return (w[at >> 2] >> ((at & 3u) * 8u)) & 0xffu;
}
int load8s(uint at) {
    return int(load8(at) << 24) >> 24;
}
// at: a multiple of 2.
uint load16(uint at) {
    return (w[at >> 2] >> ((at & 2u) * 8u)) & 0xffffu;
}
// Any at. Does not touch the next word where it needs none of it.
uint load32_any(uint at) {
    uint low = w[at >> 2], shift = (at & 3u) * 8u;
    return shift == 0u ? low : (low >> shift) | (w[(at >> 2) + 1u] << (32u - shift));
}
// at: a multiple of 2. Does not touch the next word where it needs none of it.
uint load32(uint at) {
    uint low = w[at >> 2];
    return (at & 2u) == 0u ? low : (low >> 16) | (w[(at >> 2) + 1u] << 16);
}
#endif
