// Attention of one new token per request over the keys and values of the paged cache.

#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "vectors.h"

namespace {

// The way from the products of a query with keys to the scores of a softmax: `Scoring` in attention_spec.py.
struct Scoring {
    int64_t window;  // 0: no sliding window
    float scale;     // factor on the products
    float softcap;   // bound c of the scores, c * tanh(score / c); 0: no bound
    const float* sinks;  // score of each head's sink, which has no value; null: no sinks

    // Score of a head's sink, -infinity if there is none.
    float sink(int64_t head) const { return sinks == nullptr ? -INFINITY : sinks[head]; }

    // Scoring of the heads from this one on.
    Scoring from_head(int64_t head) const {
        return {window, scale, softcap, sinks == nullptr ? nullptr : sinks + head};
    }

    F of(F product) const {
        const F score = product * scale;
        return softcap > 0.f ? hyperbolic_tangent(score / softcap) * softcap : score;
    }
};

// First token that the last token of a request of this length attends to. Window 0: no sliding window.
inline int64_t first_in_window(int64_t length, int64_t window) {
    return window > 0 && length > window ? length - window : 0;
}

// Write the slots of a request's tokens [first, length), padded with the last slot to a multiple of W.
inline void find_slots(const int32_t* table, int64_t first, int64_t length, int64_t block_size, int32_t* slots) {
    int32_t slot = 0;
    int64_t at = first;
    for (int64_t block = first / block_size; at < length; ++block) {
        const int64_t stop = (block + 1) * block_size < length ? (block + 1) * block_size : length;
        for (; at < stop; ++at) *slots++ = slot = table[block] * block_size + (at - block * block_size);
    }
    for (; (at - first) % W != 0; ++at) *slots++ = slot;
}

// Addresses of W tokens' keys or values.
template <typename T>
struct Rows {
    const T* row[W];

    Rows(const T* cache, const int32_t* slots, int64_t slot_stride) {
        for (int64_t i = 0; i < W; ++i) row[i] = cache + slots[i] * slot_stride;
    }

    // The rows are not adjacent in memory, so the hardware prefetcher does not load them in time.
    void fetch(int64_t head_dim) const {
        for (int64_t at = 0; at < head_dim; at += 64 / sizeof(T)) {
#pragma GCC unroll 16
            for (int64_t i = 0; i < W; ++i) __builtin_prefetch(row[i] + at);
        }
    }
};

// True if values are multiplied in pairs: bfloat16, and an even number of vectors per head.
template <typename T, int64_t PARTS>
constexpr bool PAIRED = std::is_same_v<T, uint16_t> && PARTS % 2 == 0;

// Dot products of a query with W keys.
template <int64_t HEAD_DIM, typename T>
inline F scores_of(const T* q, const Rows<T>& keys, int64_t head_dim) {
    const int64_t size = HEAD_DIM == 0 ? head_dim : HEAD_DIM;
    F products[4][W / 4] = {};  // key 4 * row + j at [j][row]
#ifdef __AVX512BF16__
    if constexpr (std::is_same_v<T, uint16_t>) {
        if (size % (2 * W) == 0) {
            for (int64_t i = 0; i < size; i += 2 * W) {
                const __m512bh own = (__m512bh)_mm512_loadu_si512(q + i);
#pragma GCC unroll 16
                for (int64_t at = 0; at < W; ++at) {
                    F& sums = products[at % 4][at / 4];
                    sums = (F)_mm512_dpbf16_ps((__m512)sums, own, (__m512bh)_mm512_loadu_si512(keys.row[at] + i));
                }
            }
            return sums_of(products);
        }
    }
#endif
    for (int64_t i = 0; i < size; i += W) {
        const F own = load(q + i);
#pragma GCC unroll 16
        for (int64_t at = 0; at < W; ++at) products[at % 4][at / 4] += own * load(keys.row[at] + i);
    }
    return sums_of(products);
}

// Scale `length` scores and convert them to attention weights; weights from `length` to `padded` become 0. `weights`
// may be `scores`. `sink` is a score that takes part, already scaled, or -infinity.
template <typename O>
inline void softmax(float* scores, int64_t length, int64_t padded, float scale, float sink, O* weights) {
    for (int64_t at = length; at < padded; ++at) scores[at] = -INFINITY;
    F best = load(scores), total{};
    for (int64_t at = W; at < padded; at += W) {
        const F score = load(scores + at);
        best = score > best ? score : best;
    }
    const float most = std::max(largest(best), sink / scale);
    for (int64_t at = 0; at < padded; at += W) {
        // Weights far below the best one, such as those of the padding, must be 0, but exponential() is at least e^-87.
        const F shifted = (load(scores + at) - most) * scale;
        const F weight = shifted < -87.f ? all(0.f) : exponential(shifted);
        store(scores + at, weight);
        total += weight;
    }
    const float inverse = 1.f / (sum(total) + std::exp(sink - most * scale));
    for (int64_t at = 0; at < padded; at += W) store(weights + at, load(scores + at) * inverse);
}

// Add W weighted values to the sums of HEADS heads; weights[head * padded + i] belongs to row i. If pairs of bfloat16
// are multiplied, weights are rounded to bfloat16, and each two sums hold their elements interleaved, which `put`
// reverts.
template <int HEADS, int64_t PARTS, typename T>
inline void add_values(const Rows<T>& values, const float* weights, int64_t padded, int64_t parts,
                       F (&sums)[HEADS][PARTS]) {
#ifdef __AVX512BF16__
    if constexpr (PAIRED<T, PARTS>) {
        uint16_t rounded[HEADS][W];
        for (int head = 0; head < HEADS; ++head) store(rounded[head], load(weights + head * padded));
        for (int64_t at = 0; at < W; at += 2) {
            __m512i part[PARTS];
            for (int64_t i = 0; i < PARTS; i += 2) {
                const __m512i first = _mm512_loadu_si512(values.row[at] + i * W);
                const __m512i second = _mm512_loadu_si512(values.row[at + 1] + i * W);
                part[i] = _mm512_unpacklo_epi16(first, second);
                part[i + 1] = _mm512_unpackhi_epi16(first, second);
            }
            for (int head = 0; head < HEADS; ++head) {
                int32_t both;
                std::memcpy(&both, rounded[head] + at, sizeof both);
                const __m512bh weight = (__m512bh)_mm512_set1_epi32(both);
                for (int64_t i = 0; i < PARTS; ++i)
                    sums[head][i] = (F)_mm512_dpbf16_ps((__m512)sums[head][i], weight, (__m512bh)part[i]);
            }
        }
        return;
    }
#endif
    for (int64_t at = 0; at < W; ++at) {
        F part[PARTS];
        for (int64_t i = 0; i < parts; ++i) part[i] = load(values.row[at] + i * W);
        for (int head = 0; head < HEADS; ++head) {
            const float weight = weights[head * padded + at];
            for (int64_t i = 0; i < parts; ++i) sums[head][i] += part[i] * weight;
        }
    }
}

// Store one head's sums in the order of its elements.
template <int64_t PARTS, typename T>
inline void put(const F (&sums)[PARTS], int64_t parts, T* out) {
#ifdef __AVX512BF16__
    if constexpr (PAIRED<T, PARTS>) {
        for (int64_t i = 0; i < PARTS; i += 2) {
            const __m512 low = (__m512)sums[i], high = (__m512)sums[i + 1];
            // Quarters of 8 elements: the first four of each are in low, the last four in high.
            const __m512 ab = _mm512_shuffle_f32x4(low, high, 0x44), cd = _mm512_shuffle_f32x4(low, high, 0xEE);
            store(out + i * W, (F)_mm512_shuffle_f32x4(ab, ab, 0xD8));
            store(out + (i + 1) * W, (F)_mm512_shuffle_f32x4(cd, cd, 0xD8));
        }
        return;
    }
#endif
    for (int64_t i = 0; i < parts; ++i) store(out + i * W, sums[i]);
}

// Compute attention of one request for the heads that share a key head, over `count` slots: all scores, then the
// weighted sum of the values.
template <typename T, int64_t HEAD_DIM>
void attend(const T* q, const T* keys, const T* values, const int32_t* slots, T* out, float* scores, int64_t count,
            int64_t sharing, int64_t head_dim, int64_t slot_stride, const Scoring& scoring) {
    constexpr int64_t MOST = (HEAD_DIM == 0 ? 256 : HEAD_DIM) / W;  // _MAX_HEAD_DIM in native_kernels.py
    constexpr int64_t PARTS = HEAD_DIM == 0 ? MOST + 1 : MOST;      // odd, hence not PAIRED, if head_dim is not known
    const int64_t parts = (HEAD_DIM == 0 ? head_dim : HEAD_DIM) / W, padded = (count + W - 1) / W * W;
    for (int64_t at = 0; at < padded; at += W) {
        if (at + W < padded) Rows<T>(keys, slots + at + W, slot_stride).fetch(head_dim);
        Rows<T>(values, slots + at, slot_stride).fetch(head_dim);
        const Rows<T> own(keys, slots + at, slot_stride);
        for (int64_t head = 0; head < sharing; ++head)
            store(scores + head * padded + at, scoring.of(scores_of<HEAD_DIM>(q + head * head_dim, own, head_dim)));
    }
    for (int64_t head = 0; head < sharing; ++head)
        softmax(scores + head * padded, count, padded, 1.f, scoring.sink(head), scores + head * padded);
    // Process as many heads at once as fit into registers, so that values are read from memory once.
    const auto some = [&](auto number, int64_t begin) {
        constexpr int HEADS = decltype(number)::value;
        F sums[HEADS][PARTS] = {};
        for (int64_t at = 0; at < padded; at += W)
            add_values(Rows<T>(values, slots + at, slot_stride), scores + begin * padded + at, padded, parts, sums);
        for (int head = 0; head < HEADS; ++head) put(sums[head], parts, out + (begin + head) * head_dim);
    };
    int64_t head = 0;
    for (; head + 4 <= sharing; head += 4) some(std::integral_constant<int, 4>{}, head);
    if (head + 3 == sharing) some(std::integral_constant<int, 3>{}, head), head += 3;
    if (head + 2 == sharing) some(std::integral_constant<int, 2>{}, head), head += 2;
    if (head < sharing) some(std::integral_constant<int, 1>{}, head);
}

// Return the instance of `attend` for a head size.
template <typename T>
inline auto attend_for(int64_t head_dim) {
    return head_dim == 64 ? attend<T, 64> : head_dim == 128 ? attend<T, 128> : attend<T, 0>;
}

template <typename T>
void paged_decode_attention(const T* q, const T* keys, const T* values, const int32_t* tables, const int32_t* lengths,
                            T* out, int64_t requests, int64_t heads, int64_t kv_heads, int64_t head_dim,
                            int64_t table_stride, int64_t block_size, int64_t slot_stride,
                            const Scoring& scoring) {
    const int64_t sharing = heads / kv_heads;
    int64_t elements = 0;
    for (int64_t request = 0; request < requests; ++request) elements += lengths[request] * kv_heads * head_dim;
#pragma omp parallel if (elements >= PARALLEL)
    {
        std::vector<float> scores;
        std::vector<int32_t> slots;
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < requests * kv_heads; ++unit) {
            const int64_t request = unit / kv_heads, kv_head = unit % kv_heads, length = lengths[request];
            const int64_t first = first_in_window(length, scoring.window);
            const int64_t place = (request * heads + kv_head * sharing) * head_dim;
            if (length == 0) {
                std::memset(out + place, 0, sharing * head_dim * sizeof(T));
                continue;
            }
            slots.resize(length - first + W);
            scores.resize(sharing * (length - first + W));
            find_slots(tables + request * table_stride, first, length, block_size, slots.data());
            attend_for<T>(head_dim)(q + place, keys + kv_head * head_dim, values + kv_head * head_dim, slots.data(),
                                    out + place, scores.data(), length - first, sharing, head_dim, slot_stride,
                                    scoring.from_head(kv_head * sharing));
        }
    }
}

}  // namespace
