#version 450
#extension GL_GOOGLE_include_directive : require
#include "float.glsl"
layout(local_size_x = 1) in;

// Float operations with IEEE's subnormal numbers on devices that take them for zeros, in operands and in results. On such devices
// the loader (subnormals.rs) puts these functions into every shader and calls them for its operations, by these names.

const uint MAGNITUDE = 0x7fffffffu;
const uint SIGN = 0x80000000u;
const uint INFINITE = 0x7f800000u;

uint magnitude(const float a) {
    return floatBitsToUint(a) & MAGNITUDE;
}

// a * 2^100, for |a| < 2^27.
float scaled_up(const float a) {
    uint u = floatBitsToUint(a), m = u & MAGNITUDE;
    if (m >= 0x00800000u) return uintBitsToFloat(u + (100u << 23));
    return uintBitsToFloat((u & SIGN) | floatBitsToUint(float(m) * uintBitsToFloat(78u << 23)));
}

float kept_sum(const float a, const float b) {
    float r = a + b;
    // From 2^-100 on, a flushed operand was too small to count.
    if (!(magnitude(r) < 27u << 23)) return r;
    uint ua = floatBitsToUint(a), ub = floatBitsToUint(b);
    if ((ua ^ ub) == SIGN) return 0.0;
    // Both are below 2^-75 then. Sums that are subnormal are exact, so scaling does not change a rounding.
    float s = scaled_up(a) + scaled_up(b);
    uint u = floatBitsToUint(s), m = u & MAGNITUDE;
    if (m >= 101u << 23) return uintBitsToFloat(u - (100u << 23));
    return uintBitsToFloat((u & SIGN) | uint(uintBitsToFloat(m) * uintBitsToFloat(176u << 23)));
}

float kept_negation(const float a) {
    return uintBitsToFloat(floatBitsToUint(a) ^ SIGN);
}

float kept_difference(const float a, const float b) {
    return kept_sum(a, kept_negation(b));
}

float kept_product(const float a, const float b) {
    float r = a * b;
    // Above the smallest normal number and finite, nothing was flushed.
    if (magnitude(r) - 0x00800001u < INFINITE - 0x00800001u) return r;
    uint ma = magnitude(a), mb = magnitude(b), s = (floatBitsToUint(a) ^ floatBitsToUint(b)) & SIGN;
    if (ma > INFINITE || mb > INFINITE) return QUIET_NAN;
    if (ma == INFINITE || mb == INFINITE) return ma == 0u || mb == 0u ? QUIET_NAN : uintBitsToFloat(s | INFINITE);
    if (ma == 0u || mb == 0u) return uintBitsToFloat(s);
    uint na, nb, high, low;
    int ea, eb;
    split_float(ma, na, ea);
    split_float(mb, nb, eb);
    umulExtended(na, nb, high, low);
    return round_to_float(s, ea + eb + 22, (high << 10) | (low >> 22), (low & 0x3fffffu) != 0u);
}

float kept_abs(const float a) {
    return uintBitsToFloat(magnitude(a));
}

// Integers in the order of the floats; zeros of both signs are the same.
int order(const float a) {
    int m = int(magnitude(a));
    return floatBitsToUint(a) >= SIGN ? -m : m;
}

bool ordered(const float a, const float b) {
    return magnitude(a) <= INFINITE && magnitude(b) <= INFINITE;
}

bool kept_equal(const float a, const float b) {
    return ordered(a, b) && order(a) == order(b);
}

bool kept_different(const float a, const float b) {
    return !kept_equal(a, b);
}

bool kept_less(const float a, const float b) {
    return ordered(a, b) && order(a) < order(b);
}

bool kept_greater(const float a, const float b) {
    return kept_less(b, a);
}

bool kept_less_equal(const float a, const float b) {
    return ordered(a, b) && order(a) <= order(b);
}

bool kept_greater_equal(const float a, const float b) {
    return kept_less_equal(b, a);
}

float kept_max(const float a, const float b) {
    return kept_less(a, b) ? b : a;
}

float kept_min(const float a, const float b) {
    return kept_less(b, a) ? b : a;
}

// Only so that the compiler keeps them all.
void main() {
    float a = 1.0, b = 2.0;
    a = kept_difference(kept_product(a, b), kept_abs(kept_max(a, kept_min(a, b))));
    if (kept_greater(a, b) || kept_greater_equal(a, b) || kept_different(a, b)) a = b;
}
