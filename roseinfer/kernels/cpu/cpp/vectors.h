// Vectors of 16 floats, or 8 without AVX-512, and loads and stores of the two element types: float, and bfloat16 as bits
// in uint16_t. Arithmetic is in float and rounded once. Vectors use the compiler's vector extension, so any
// little-endian target works. A compiler keeps vectors that are wider than the processor's in memory, where they are many
// times slower.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include <omp.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

#ifdef __AVX512F__
constexpr int64_t W = 16;  // lanes
#else
constexpr int64_t W = 8;
#endif
typedef float F __attribute__((vector_size(4 * W)));
typedef uint32_t U __attribute__((vector_size(4 * W)));
typedef int32_t I __attribute__((vector_size(4 * W)));
typedef uint16_t H __attribute__((vector_size(2 * W)));

// Minimum elements for which several threads are faster than one.
constexpr int64_t PARALLEL = 1 << 14;

inline F load(const float* p) {
    F value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

inline F load(const uint16_t* p) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    return (F)((U)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))) << 16);
#else
    H bits;
    std::memcpy(&bits, p, sizeof bits);
    return (F)(__builtin_convertvector(bits, U) << 16);
#endif
}

inline void store(float* p, F value) { std::memcpy(p, &value, sizeof value); }

inline void store(uint16_t* p, F value) {
#ifdef __AVX512BF16__
    const __m256bh narrow = _mm512_cvtneps_pbh((__m512)value);
    std::memcpy(p, &narrow, sizeof narrow);
#else
    const U bits = (U)value, is_nan = (U)(value != value);
    const U rounded = bits + 0x7FFF + ((bits >> 16) & 1);  // to nearest, ties to even
    const U bits_of_high = ((rounded & ~is_nan) | (0x7FC00000u & is_nan)) >> 16;
#if defined(__AVX2__) && !defined(__AVX512F__)
    const __m256i packed = _mm256_packus_epi32((__m256i)bits_of_high, (__m256i)bits_of_high);  // within each half
    const __m128i high = _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
    const H high = __builtin_convertvector(bits_of_high, H);
#endif
    std::memcpy(p, &high, sizeof high);
#endif
}

inline F all(float value) { return value - F{}; }

// The lower half of a vector, combined with the upper half.
template <typename Combine>
inline auto folded(F value, Combine combine) {
    typedef float F8 __attribute__((vector_size(32)));
    if constexpr (W == 8) {
        return value;
    } else {
        F8 halves[2];
        std::memcpy(halves, &value, sizeof value);
        return combine(halves[0], halves[1]);
    }
}

inline float sum(F value) {
    typedef float F4 __attribute__((vector_size(16)));
    const auto eight = folded(value, [](auto a, auto b) { return a + b; });
    F4 fours[2];
    std::memcpy(fours, &eight, sizeof eight);
    const F4 four = fours[0] + fours[1];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

// Largest of the lanes.
inline float largest(F value) {
    typedef float F4 __attribute__((vector_size(16)));
    const auto eight = folded(value, [](auto a, auto b) { return a > b ? a : b; });
    F4 fours[2];
    std::memcpy(fours, &eight, sizeof eight);
    const F4 four = fours[0] > fours[1] ? fours[0] : fours[1];
    const float low = four[0] > four[1] ? four[0] : four[1], high = four[2] > four[3] ? four[2] : four[3];
    return low > high ? low : high;
}

// Sum the lanes of W vectors at once, in about three instructions per vector. Lane 4 * row + j of the result is the sum
// of the lanes of values[j][row].
inline F sums_of(const F (&values)[4][W / 4]) {
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
#elif defined(__AVX2__)
    __m256 rows[2];  // lane j of both halves: a part of the sum of values[j][row]
    for (int row = 0; row < 2; ++row)
        rows[row] = _mm256_hadd_ps(_mm256_hadd_ps((__m256)values[0][row], (__m256)values[1][row]),
                                   _mm256_hadd_ps((__m256)values[2][row], (__m256)values[3][row]));
    return (F)_mm256_add_ps(_mm256_permute2f128_ps(rows[0], rows[1], 0x20),
                            _mm256_permute2f128_ps(rows[0], rows[1], 0x31));
#else
    F out;
    for (int j = 0; j < 4; ++j)
        for (int row = 0; row < W / 4; ++row) out[4 * row + j] = sum(values[j][row]);
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
