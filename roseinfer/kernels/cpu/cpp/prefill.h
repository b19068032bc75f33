// Attention of prompts, and of chunks of prompts, over the keys and values of the paged cache.
//
// Keys and values of a key head are packed like the weight of a linear layer (products.h). Queries, and then attention
// weights, are the rows that are multiplied with them. Each pack is used for many rows: all new tokens of the request,
// and for each token all query heads that share the key head.

#pragma once

#include "attention.h"
#include "products.h"
#include "tiles.h"

namespace {

constexpr int64_t KEYS = 64, KEY_PARTS = KEYS / W;  // keys per pack

// New tokens of one request: the last ones of its context.
struct Chunk {
    int64_t request, begin, count;  // range [begin, begin + count) of the step's tokens
    int64_t past;                   // tokens of the request before them
    int64_t first, padded;          // first token whose key is packed, and number of packed keys, a multiple of KEYS
    int64_t place;                  // offset of the request's packed keys, and of its packed values, in elements
};

// Vectors of a head's elements per pack of values.
inline int64_t value_parts(int64_t head_dim) { return head_dim % (4 * W) == 0 ? 4 : head_dim % (2 * W) == 0 ? 2 : 1; }

// Addresses of up to 64 tokens' keys or values, followed by the address of zeros.
template <typename T>
struct PackedRows {
    const T* row[KEYS];

    PackedRows(const T* cache, const int32_t* slots, int64_t count, int64_t slot_stride) {
        static const T zeros[256] = {};  // _MAX_HEAD_DIM in native_kernels.py
        for (int64_t i = 0; i < KEYS; ++i) row[i] = i < count ? cache + slots[i] * slot_stride : zeros;
    }
};

// Pack keys: the outputs of the product are tokens, and the sum runs over the head's elements.
template <typename T>
void pack_keys(const PackedRows<T>& keys, int64_t head_dim, T* pack) {
    typedef std::conditional_t<std::is_same_v<T, float>, float, uint32_t> Unit;  // a pair of bfloat16 stays together
    const int64_t units = head_dim * sizeof(T) / sizeof(Unit);
    for (int64_t lane = 0; lane < KEYS; ++lane)
        for (int64_t i = 0; i < units; ++i)
            std::memcpy(reinterpret_cast<char*>(pack) + (i * KEYS + lane) * sizeof(Unit),
                        reinterpret_cast<const char*>(keys.row[lane]) + i * sizeof(Unit), sizeof(Unit));
}

// Pack values, one pack per `lanes` elements of a head: the outputs of the product are the head's elements, and the sum
// runs over tokens.
template <typename T>
void pack_values(const PackedRows<T>& values, int64_t head_dim, int64_t lanes, int64_t padded, T* packs) {
    for (int64_t begin = 0; begin < head_dim; begin += lanes, packs += padded * lanes)
        for (int64_t at = 0; at < KEYS; at += 2)
            for (int64_t i = 0; i < lanes; i += W) {
                const T *first = values.row[at] + begin + i, *second = values.row[at + 1] + begin + i;
                if constexpr (std::is_same_v<T, float>) {
                    store(packs + at * lanes + i, load(first));
                    store(packs + (at + 1) * lanes + i, load(second));
                } else {
                    const U pairs = (U)load(first) >> 16 | (U)load(second);
                    std::memcpy(packs + at * lanes + 2 * i, &pairs, sizeof pairs);
                }
            }
}

// Convert products [begin, end) of a row to attention weights in the products' element type; all other weights become 0.
template <typename O>
inline void weigh(float* scores, int64_t begin, int64_t end, int64_t size, const Scoring& scoring, float sink,
                  O* weights) {
    const int64_t first = begin / W * W, last = (end + W - 1) / W * W;
    if (scoring.softcap > 0.f)
        for (int64_t at = first; at < last; at += W) store(scores + at, scoring.of(load(scores + at)));
    for (int64_t at = first; at < begin; ++at) scores[at] = -INFINITY;
    std::fill(weights, weights + first, O{});
    softmax(scores + first, end - first, last - first, scoring.softcap > 0.f ? 1.f : scoring.scale, sink,
            weights + first);
    std::fill(weights + last, weights + size, O{});
}

// Buffers of one thread, reused for all its queries.
template <typename T>
struct QueryScratch {
    std::vector<Operand<T>> queries, weights;
    std::vector<float> scores;
    std::vector<T> out;
};

// Multiply a pack with all rows of queries.
template <typename T, int PARTS, typename V, typename To>
void multiply_rows(const V* pack, const Operand<T>* x, int64_t rows, int64_t size, int64_t output,
                   const Target<To>& target) {
    by_rows<6>(rows, pack, 0, size, [&](auto count, int64_t row, Fetch fetch) {
        multiply_pack<T, decltype(count)::value, PARTS>(pack, x, size, row, output, fetch, target);
    });
}

// Compute attention of new tokens [begin, end) of a request, for the heads that share one key head. `q` and `out` point
// to the first of these heads.
template <typename T>
void attend_by_packs(const Chunk& chunk, int64_t begin, int64_t end, const T* q, const T* keys, const T* values, T* out,
                 int64_t sharing, int64_t token_stride, int64_t head_dim, const Scoring& scoring,
                 QueryScratch<T>& scratch) {
    const int64_t rows = (end - begin) * sharing;
    // Range of keys that any of the tokens attends to, in whole packs, relative to the chunk's first packed key.
    const int64_t length = chunk.past + end, seen = first_in_window(chunk.past + begin + 1, scoring.window);
    const int64_t from = (seen - chunk.first) / KEYS * KEYS, to = (length - chunk.first + KEYS - 1) / KEYS * KEYS;
    const int64_t size = to - from;
    scratch.queries.resize(rows * head_dim), scratch.weights.resize(rows * size);
    scratch.scores.resize(rows * size), scratch.out.resize(rows * head_dim);
    const auto place = [&](int64_t row) { return (begin + row / sharing) * token_stride + row % sharing * head_dim; };
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < head_dim; i += W) {
            if constexpr (std::is_same_v<T, Operand<T>>)
                std::memcpy(&scratch.queries[row * head_dim + i], q + place(row) + i, W * sizeof(T));
            else
                store(&scratch.queries[row * head_dim + i], load(q + place(row) + i));
        }
    const Target<float> scores{scratch.scores.data(), size, size, false, nullptr, nullptr};
    for (int64_t at = 0; at < size; at += KEYS)
        multiply_rows<T, KEY_PARTS>(keys + (from + at) * head_dim, scratch.queries.data(), rows, head_dim, at, scores);
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t own = chunk.past + begin + row / sharing + 1, base = chunk.first + from;
        weigh(&scratch.scores[row * size], first_in_window(own, scoring.window) - base, own - base, size, scoring,
              scoring.sink(row % sharing), &scratch.weights[row * size]);
    }
    const Target<T> target{scratch.out.data(), head_dim, head_dim, false, nullptr, nullptr};
    const auto walk = [&](auto parts) {
        constexpr int PARTS = decltype(parts)::value;
        for (int64_t i = 0; i < head_dim; i += PARTS * W)
            multiply_rows<T, PARTS>(values + i * chunk.padded + from * PARTS * W, scratch.weights.data(), rows, size, i,
                                    target);
    };
    if (value_parts(head_dim) == 4)
        walk(std::integral_constant<int, 4>{});
    else if (value_parts(head_dim) == 2)
        walk(std::integral_constant<int, 2>{});
    else
        walk(std::integral_constant<int, 1>{});
    for (int64_t row = 0; row < rows; ++row)
        std::memcpy(out + place(row), &scratch.out[row * head_dim], head_dim * sizeof(T));
}

// Attention by vectors, with all scores of some queries at once.
template <typename T>
struct ByPacks {
    typedef QueryScratch<T> Scratch;
    static constexpr int64_t ROWS = 48;  // rows of queries at once: their scores fit into a cache

    static int64_t padded_head(int64_t head_dim) { return head_dim; }

    // Pack KEYS keys and values, from offset `at` of the chunk's packed keys.
    static void pack(const PackedRows<T>& keys, const PackedRows<T>& values, int64_t at, int64_t padded,
                     int64_t head_dim, T* packed_keys, T* packed_values) {
        const int64_t lanes = value_parts(head_dim) * W;
        pack_keys(keys, head_dim, packed_keys + at * head_dim);
        pack_values(values, head_dim, lanes, padded, packed_values + at * lanes);
    }

    static void attend(const Chunk& chunk, int64_t begin, int64_t end, const T* q, const T* keys, const T* values, T* out,
                       int64_t sharing, int64_t token_stride, int64_t head_dim, const Scoring& scoring,
                       Scratch& scratch) {
        attend_by_packs(chunk, begin, end, q, keys, values, out, sharing, token_stride, head_dim, scoring, scratch);
    }
};

// Tokens [starts[r], starts[r + 1]) of q belong to request r: they are the last of its lengths[r] tokens. `Path`: ByPacks
// or ByTiles.
template <typename Path, typename T>
void prefill_attention(const T* q, const T* keys, const T* values, const int32_t* tables, const int32_t* starts,
                       const int32_t* lengths, T* out, int64_t requests, int64_t heads, int64_t kv_heads,
                       int64_t head_dim, int64_t table_stride, int64_t block_size, int64_t slot_stride,
                       const Scoring& scoring) {
    const int64_t sharing = heads / kv_heads, token_stride = heads * head_dim, head = Path::padded_head(head_dim);
    const int64_t tokens = std::max<int64_t>(Path::ROWS / sharing, 1);  // per share
    struct Share {
        const Chunk* chunk;
        int64_t begin, end;
    };
    std::vector<Chunk> chunks;
    std::vector<Share> shares;
    int64_t elements = 0;
    for (int64_t request = 0; request < requests; ++request) {
        const int64_t count = starts[request + 1] - starts[request], past = lengths[request] - count;
        if (count == 0) continue;
        const int64_t first = first_in_window(past + 1, scoring.window) / KEYS * KEYS;
        const int64_t padded = (lengths[request] - first + KEYS - 1) / KEYS * KEYS;
        chunks.push_back({request, starts[request], count, past, first, padded, elements});
        elements += padded * kv_heads * head;
    }
    for (const Chunk& chunk : chunks)
        for (int64_t begin = 0; begin < chunk.count; begin += tokens)
            shares.push_back({&chunk, begin, std::min(begin + tokens, chunk.count)});
    // Start with the largest shares, so that all threads finish at about the same time.
    const auto work = [](const Share& share) { return (share.end - share.begin) * (share.chunk->past + share.end); };
    std::sort(shares.begin(), shares.end(), [&](const Share& a, const Share& b) { return work(a) > work(b); });
    static thread_local Buffer<T> key_buffer, value_buffer;
    T *const packed_keys = key_buffer.reserve(elements), *const packed_values = value_buffer.reserve(elements);
#pragma omp parallel if (elements >= PARALLEL)
    {
        int32_t slots[KEYS + W];
        for (const Chunk& chunk : chunks) {
            const int32_t* table = tables + chunk.request * table_stride;
            const int64_t length = lengths[chunk.request], packs = chunk.padded / KEYS;
#pragma omp for nowait schedule(static)
            for (int64_t unit = 0; unit < kv_heads * packs; ++unit) {
                const int64_t kv_head = unit / packs, at = unit % packs * KEYS, from = chunk.first + at;
                const int64_t count = std::min(KEYS, length - from);
                find_slots(table, from, from + count, block_size, slots);
                const int64_t place = chunk.place + kv_head * chunk.padded * head;
                Path::pack(PackedRows<T>(keys + kv_head * head_dim, slots, count, slot_stride),
                           PackedRows<T>(values + kv_head * head_dim, slots, count, slot_stride), at, chunk.padded,
                           head_dim, packed_keys + place, packed_values + place);
            }
        }
#pragma omp barrier
        typename Path::Scratch scratch;
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < static_cast<int64_t>(shares.size()) * kv_heads; ++unit) {
            const Share& share = shares[unit / kv_heads];
            const Chunk& chunk = *share.chunk;
            const int64_t kv_head = unit % kv_heads, place = chunk.place + kv_head * chunk.padded * head;
            const int64_t own = chunk.begin * token_stride + kv_head * sharing * head_dim;
            Path::attend(chunk, share.begin, share.end, q + own, packed_keys + place, packed_values + place, out + own,
                         sharing, token_stride, head_dim, scoring.from_head(kv_head * sharing), scratch);
        }
    }
    key_buffer.trim(), value_buffer.trim();
}

}  // namespace
