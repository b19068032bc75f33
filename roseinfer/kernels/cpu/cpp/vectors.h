// Vectors of 16 floats, and loads and stores of the two element types: float, and bfloat16 as bits in uint16_t.
// Arithmetic is in float and rounded once. Vectors use the compiler's vector extension, so any little-endian target
// works.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include <omp.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int64_t W = 16;  // lanes
typedef float F __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint16_t H __attribute__((vector_size(32)));

// Minimum elements for which several threads are faster than one.
constexpr int64_t PARALLEL = 1 << 14;

inline F load(const float* p) {
    F value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

inline F load(const uint16_t* p) {
    H bits;
    std::memcpy(&bits, p, sizeof bits);
    return (F)(__builtin_convertvector(bits, U) << 16);
}

inline void store(float* p, F value) { std::memcpy(p, &value, sizeof value); }

inline void store(uint16_t* p, F value) {
#ifdef __AVX512BF16__
    const __m256bh narrow = _mm512_cvtneps_pbh((__m512)value);
    std::memcpy(p, &narrow, sizeof narrow);
#else
    const U bits = (U)value, is_nan = (U)(value != value);
    const U rounded = bits + 0x7FFF + ((bits >> 16) & 1);  // to nearest, ties to even
    const H high = __builtin_convertvector(((rounded & ~is_nan) | (0x7FC00000u & is_nan)) >> 16, H);
    std::memcpy(p, &high, sizeof high);
#endif
}

inline F all(float value) { return value - F{}; }

inline float sum(F value) {
    typedef float F8 __attribute__((vector_size(32)));
    typedef float F4 __attribute__((vector_size(16)));
    F8 eights[2];
    std::memcpy(eights, &value, sizeof value);
    const F8 eight = eights[0] + eights[1];
    F4 fours[2];
    std::memcpy(fours, &eight, sizeof eight);
    const F4 four = fours[0] + fours[1];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

// Largest of the 16 lanes.
inline float largest(F value) {
    typedef float F8 __attribute__((vector_size(32)));
    typedef float F4 __attribute__((vector_size(16)));
    F8 eights[2];
    std::memcpy(eights, &value, sizeof value);
    const F8 eight = eights[0] > eights[1] ? eights[0] : eights[1];
    F4 fours[2];
    std::memcpy(fours, &eight, sizeof eight);
    const F4 four = fours[0] > fours[1] ? fours[0] : fours[1];
    const float low = four[0] > four[1] ? four[0] : four[1], high = four[2] > four[3] ? four[2] : four[3];
    return low > high ? low : high;
}

// Sum the lanes of 16 vectors at once, in about three instructions per vector. Lane 4 * row + j of the result is the
// sum of the lanes of values[j][row].
inline F sums_of(const F (&values)[4][4]) {
#ifdef __AVX512F__
    __m512 quarters[4];
    for (int j = 0; j < 4; ++j) {
        __m512 halves[2];
        for (int i = 0; i < 2; ++i) {
            const __m512 a = (__m512)values[j][2 * i], b = (__m512)values[j][2 * i + 1];
            halves[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
        }
        quarters[j] = _mm512_add_ps(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88),
                                    _mm512_shuffle_f32x4(halves[0], halves[1], 0xDD));
    }
    __m512d pairs[2];
    for (int i = 0; i < 2; ++i) {
        const __m512 a = quarters[2 * i], b = quarters[2 * i + 1];
        pairs[i] = (__m512d)_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    }
    return (F)_mm512_add_ps((__m512)_mm512_unpacklo_pd(pairs[0], pairs[1]),
                            (__m512)_mm512_unpackhi_pd(pairs[0], pairs[1]));
#else
    F out;
    for (int j = 0; j < 4; ++j)
        for (int row = 0; row < 4; ++row) out[4 * row + j] = sum(values[j][row]);
    return out;
#endif
}

// exp(x) by the method of Cephes' expf: 2^n times a polynomial. The error is at most 2 units in the last place.
inline F exponential(F x) {
    x = x < -87.f ? all(-87.f) : x;
    x = x > 88.f ? all(88.f) : x;
    const F shifted = x * 1.44269504f + (x < 0.f ? all(-0.5f) : all(0.5f));
    const I n = __builtin_convertvector(shifted, I);  // rounds towards zero
    const F whole = __builtin_convertvector(n, F);
    const F r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    F y = all(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.f;
    return y * (F)((n + 127) << 23);
}

// tanh(x), within 2e-7.
inline F hyperbolic_tangent(F x) {
    const F power = exponential(x < 0.f ? 2.f * x : -2.f * x), size = (1.f - power) / (1.f + power);
    return x < 0.f ? -size : size;
}

inline int64_t thread_number() { return omp_get_thread_num(); }
inline int64_t thread_count() { return omp_get_num_threads(); }

inline float as_float(float value) { return value; }

inline float as_float(int8_t value) { return value; }

inline float as_float(uint16_t value) {
    const uint32_t bits = (uint32_t)value << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

template <typename T>
inline T rounded(float value);

template <>
inline float rounded<float>(float value) {
    return value;
}

template <>
inline uint16_t rounded<uint16_t>(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return value == value ? (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 : 0x7FC0;
}

}  // namespace
