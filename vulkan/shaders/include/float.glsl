// The float arithmetic of docs/numerics.md. Only operations that Vulkan rounds correctly (+ - *), integers and bit
// casts: its division and square root are not exact. The loader forbids contraction of every operation (spirv.rs).
#ifndef FLOAT_GLSL
#define FLOAT_GLSL

#define INFINITY uintBitsToFloat(0x7f800000u)
#define NEGATIVE_INFINITY uintBitsToFloat(0xff800000u)
#define QUIET_NAN uintBitsToFloat(0x7fc00000u)

// m * 2^e with the sign bit s, rounded to nearest even. m is in [2^24, 2^26); sticky: something below m was cut off.
float round_to_float(uint s, int e, uint m, bool sticky) {
    int bits = findMSB(m) + 1;
    int biased = e + bits - 1 + 127;
    if (biased >= 255) return uintBitsToFloat(s | 0x7f800000u);
    int shift = bits - 24;
    if (biased <= 0) {
        shift = min(shift + 1 - biased, 28);
        biased = 1; // Without the implicit bit in r this adds nothing below.
    }
    uint r = m >> shift;
    uint rest = m & ((1u << shift) - 1u);
    uint middle = 1u << (shift - 1);
    if (rest > middle || (rest == middle && (sticky || (r & 1u) == 1u))) r++;
    // The implicit bit of r, or a carry into it, counts the exponent up by one.
    return uintBitsToFloat(s | ((uint(biased - 1) << 23) + r));
}

// A finite magnitude above zero as m * 2^e with m in [2^23, 2^24).
void split_float(uint magnitude, out uint m, out int e) {
    int biased = int(magnitude >> 23);
    m = magnitude & 0x7fffffu;
    if (biased == 0) {
        int up = 23 - findMSB(m);
        m <<= up;
        e = -149 - up;
    } else {
        m |= 0x800000u;
        e = biased - 150;
    }
}

// a / b, correctly rounded.
float div(float a, float b) {
    uint ua = floatBitsToUint(a), ub = floatBitsToUint(b);
    uint s = (ua ^ ub) & 0x80000000u;
    uint ma = ua & 0x7fffffffu, mb = ub & 0x7fffffffu;
    if (ma > 0x7f800000u || mb > 0x7f800000u) return QUIET_NAN;
    if (ma == 0x7f800000u) return mb == 0x7f800000u ? QUIET_NAN : uintBitsToFloat(s | 0x7f800000u);
    if (mb == 0x7f800000u) return uintBitsToFloat(s);
    if (mb == 0u) return ma == 0u ? QUIET_NAN : uintBitsToFloat(s | 0x7f800000u);
    if (ma == 0u) return uintBitsToFloat(s);
    uint na, nb;
    int ea, eb;
    split_float(ma, na, ea);
    split_float(mb, nb, eb);
    // Long division: the quotient is in (1/2, 2), so 25 fraction bits make 25 or 26 bits.
    uint q = 0u, rest = na;
    for (int i = 0; i < 26; i++) {
        q <<= 1;
        if (rest >= nb) {
            rest -= nb;
            q |= 1u;
        }
        rest <<= 1;
    }
    return round_to_float(s, ea - eb - 25, q, rest != 0u);
}

// The square root, correctly rounded.
float square_root(float a) {
    uint u = floatBitsToUint(a);
    if ((u & 0x7fffffffu) == 0u) return a;
    if (u > 0x7f800000u) return QUIET_NAN;
    if (u == 0x7f800000u) return a;
    uint m;
    int e;
    split_float(u, m, e);
    if ((e & 1) != 0) {
        m <<= 1;
        e -= 1;
    }
    // Two bits of m * 2^26 at a time, from the top.
    uint root = 0u, rest = 0u;
    for (int i = 0; i < 26; i++) {
        uint pair = i < 13 ? (m >> (24 - 2 * i)) & 3u : 0u;
        rest = (rest << 2) | pair;
        uint trial = (root << 2) | 1u;
        root <<= 1;
        if (rest >= trial) {
            rest -= trial;
            root |= 1u;
        }
    }
    return round_to_float(0u, e / 2 - 13, root, rest != 0u);
}

// Round half to even, for |v| < 2^22.
float rne(float v) {
    return (v + 12582912.0) - 12582912.0;
}

// To 13 bits: products with an F16 are exact.
float round13(float x) {
    float c = x * 2049.0;
    float rounded = c - (c - x);
    if (!(abs(rounded) < 2.596148429267413814e33)) return uintBitsToFloat(0x7fc00000u); // 2^111
    return abs(rounded) < 7.888609052210118054e-31 ? 0.0 : rounded; // 2^-100
}

// To 16 bits, times 2^59: products with a BF16 are exact.
float bf16_activation(float x) {
    float c = x * 257.0;
    float rounded = c - (c - x);
    if (!(abs(rounded) < 1099511627776.0)) return uintBitsToFloat(0x7fc00000u); // 2^40
    return abs(rounded) < 8.673617379884035472e-19 ? 0.0 : rounded * 576460752303423488.0; // 2^-60, 2^59
}

float exponential(float x) {
    if (!(x >= -86.0)) return 0.0;
    x = x > 88.0 ? 88.0 : x;
    float k = rne(x * 1.44269504);
    float r = (x - k * 0.693359375) - k * -2.12194440e-4;
    float p = 1.9875691500e-4;
    p = p * r + 1.3981999507e-3;
    p = p * r + 8.3334519073e-3;
    p = p * r + 4.1665795894e-2;
    p = p * r + 1.6666665459e-1;
    p = p * r + 5.0000001201e-1;
    p = p * (r * r) + r;
    p = p + 1.0;
    return p * uintBitsToFloat(uint(int(k) + 127) << 23);
}

float logarithm(float x) {
    uint u = floatBitsToUint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u || u == 0x7f800000u) return x;
    if (u < 0x00800000u || u >= 0x80000000u) return NEGATIVE_INFINITY;
    uint b = u - 0x3f3504f3u;
    float k = float(int(b) >> 23);
    float r = uintBitsToFloat((b & 0x7fffffu) + 0x3f3504f3u) - 1.0;
    float z = r * r;
    float p = 7.0376836292e-2;
    p = p * r - 1.1514610310e-1;
    p = p * r + 1.1676998740e-1;
    p = p * r - 1.2420140846e-1;
    p = p * r + 1.4249322787e-1;
    p = p * r - 1.6668057665e-1;
    p = p * r + 2.0000714765e-1;
    p = p * r - 2.4999993993e-1;
    p = p * r + 3.3333331174e-1;
    p = (p * r) * z;
    p = p + k * -2.12194440e-4;
    p = p - 0.5 * z;
    return (r + p) + k * 0.693359375;
}

// f16 bits to f32, exactly. In integers: a device may flush subnormal f16.
float half_to_float(uint h) {
    uint s = (h & 0x8000u) << 16, e = (h >> 10) & 31u, m = h & 0x3ffu;
    if (e == 31u) return uintBitsToFloat(s | 0x7f800000u | (m << 13));
    if (e != 0u) return uintBitsToFloat(s | ((e + 112u) << 23) | (m << 13));
    // m * 2^-24: both factors and the product are normal numbers, or zero.
    return uintBitsToFloat(s | floatBitsToUint(float(m) * uintBitsToFloat(0x33800000u)));
}

// f32 to f16 bits, to nearest even, subnormals and overflow included.
uint float_to_half(float f) {
    uint u = floatBitsToUint(f), s = (u >> 16) & 0x8000u, m = u & 0x7fffffu;
    int e = int((u >> 23) & 255u);
    if (e == 255) return s | 0x7c00u | (m != 0u ? 0x200u | (m >> 13) : 0u);
    e -= 112;
    if (e >= 31) return s | 0x7c00u;
    uint shift = 13u, r;
    if (e <= 0) {
        if (e < -10) return s;
        m |= 0x800000u;
        shift = uint(14 - e);
        r = m >> shift;
    } else {
        r = (uint(e) << 10) | (m >> 13);
    }
    uint rest = m & ((1u << shift) - 1u), middle = 1u << (shift - 1u);
    if (rest > middle || (rest == middle && (r & 1u) == 1u)) r++;
    return s | r;
}

#endif
