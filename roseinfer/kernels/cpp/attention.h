// Attention of one new token a request over the keys and values of the paged cache.

#pragma once

#include <vector>

#include "vectors.h"

namespace {

// Calls visit(place, row) for each of the tokens first..length of one request, row at its keys or values.
template <typename T, typename Visit>
inline void walk(const T* cache, const int32_t* table, int64_t first, int64_t length, int64_t block_size,
                 int64_t block_stride, int64_t slot_stride, Visit visit) {
    for (int64_t block = first / block_size, at = first; at < length; ++block) {
        const T* row = cache + table[block] * block_stride + (at - block * block_size) * slot_stride;
        const int64_t stop = (block + 1) * block_size < length ? (block + 1) * block_size : length;
        for (; at < stop; ++at, row += slot_stride) visit(at - first, row);
    }
}

// One request's heads that share a key head: scores of all keys, then their weighted values.
template <typename T, int64_t HEAD_DIM>
void attend(const T* q, const T* keys, const T* values, const int32_t* table, T* out, float* scores, int64_t first,
            int64_t length, int64_t sharing, int64_t head_dim, int64_t block_size, int64_t block_stride,
            int64_t slot_stride, float scale) {
    constexpr int64_t MOST = (HEAD_DIM == 0 ? 256 : HEAD_DIM) / W;  // native._MAX_HEAD_DIM
    const int64_t parts = (HEAD_DIM == 0 ? head_dim : HEAD_DIM) / W;
    const int64_t padded = (length - first + W - 1) / W * W;
    F part[MOST];
    walk(keys, table, first, length, block_size, block_stride, slot_stride, [&](int64_t at, const T* key) {
        for (int64_t i = 0; i < parts; ++i) part[i] = load(key + i * W);
        for (int64_t head = 0; head < sharing; ++head) {
            F products{};
            for (int64_t i = 0; i < parts; ++i) products += part[i] * load(q + head * head_dim + i * W);
            scores[head * padded + at] = sum(products) * scale;
        }
    });
    for (int64_t head = 0; head < sharing; ++head) {
        float* row = scores + head * padded;
        for (int64_t at = length - first; at < padded; ++at) row[at] = -1e30f;
        F best = load(row), total{};
        for (int64_t at = W; at < padded; at += W) {
            const F score = load(row + at);
            best = score > best ? score : best;
        }
        float most = best[0];
        for (int64_t lane = 1; lane < W; ++lane) most = best[lane] > most ? best[lane] : most;
        for (int64_t at = 0; at < padded; at += W) {
            // What is far below the best one, the padding above all, must be 0 and not the smallest exponential.
            const F shifted = load(row + at) - most;
            const F weight = shifted < -87.f ? all(0.f) : exponential(shifted);
            store(row + at, weight);
            total += weight;
        }
        const float inverse = 1.f / sum(total);
        for (int64_t at = 0; at < padded; at += W) store(row + at, load(row + at) * inverse);
    }
    // As many heads at once as the registers hold, so that values are read from memory once.
    constexpr int64_t GROUP = 4;
    for (int64_t begin = 0; begin < sharing; begin += GROUP) {
        const int64_t count = sharing - begin < GROUP ? sharing - begin : GROUP;
        F sums[GROUP][MOST] = {};
        walk(values, table, first, length, block_size, block_stride, slot_stride, [&](int64_t at, const T* value) {
            for (int64_t i = 0; i < parts; ++i) part[i] = load(value + i * W);
            for (int64_t head = 0; head < count; ++head) {
                const float weight = scores[(begin + head) * padded + at];
                for (int64_t i = 0; i < parts; ++i) sums[head][i] += part[i] * weight;
            }
        });
        for (int64_t head = 0; head < count; ++head)
            for (int64_t i = 0; i < parts; ++i) store(out + (begin + head) * head_dim + i * W, sums[head][i]);
    }
}

template <typename T>
void paged_decode_attention(const T* q, const T* keys, const T* values, const int32_t* tables, const int32_t* lengths,
                            T* out, int64_t requests, int64_t heads, int64_t kv_heads, int64_t head_dim,
                            int64_t table_stride, int64_t block_size, int64_t block_stride, int64_t slot_stride,
                            int64_t window, float scale) {
    const int64_t sharing = heads / kv_heads;
    int64_t elements = 0;
    for (int64_t request = 0; request < requests; ++request) elements += lengths[request] * kv_heads * head_dim;
#pragma omp parallel if (elements >= PARALLEL)
    {
        std::vector<float> scores;
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < requests * kv_heads; ++unit) {
            const int64_t request = unit / kv_heads, kv_head = unit % kv_heads, length = lengths[request];
            const int64_t first = window > 0 && length > window ? length - window : 0;
            const int64_t place = (request * heads + kv_head * sharing) * head_dim;
            if (length == 0) {
                std::memset(out + place, 0, sharing * head_dim * sizeof(T));
                continue;
            }
            scores.resize(sharing * ((length - first + W - 1) / W * W));
            auto chosen = head_dim == 64 ? attend<T, 64> : head_dim == 128 ? attend<T, 128> : attend<T, 0>;
            chosen(q + place, keys + kv_head * head_dim, values + kv_head * head_dim, tables + request * table_stride,
                   out + place, scores.data(), first, length, sharing, head_dim, block_size, block_stride, slot_stride,
                   scale);
        }
    }
}

}  // namespace
