// Attention of prompts by blocks of AMX registers (tiles.h), over the keys in parts of PART (flash attention, Dao et al.,
// 2022): each part's weights are relative to the largest score so far, and earlier sums are scaled when it grows.

#pragma once

#include "prefill.h"
#include "tiles.h"

namespace {

constexpr int64_t PART = 256;     // keys at once: the scores of 32 rows, 32 KB, stay in a cache
constexpr float MASKED = -1e30f;  // score of a key that a query does not attend to: its weight is 0 beside any other

// 2^x for x <= 0, within 3e-6 of the value; at most 3e-38 below x = -125. The polynomial of degree 4 has the least largest
// relative error on [-0.5, 0.5].
inline F power_of_two(F x) {
    x = x < -125.f ? all(-125.f) : x;
    const F shifted = x + 12582912.f;  // 1.5 * 2^23: the last bits are x, rounded
    const F r = x - (shifted - 12582912.f);
    F y = all(0.0095701021f);
    y = y * r + 0.0559178591f;
    y = y * r + 0.2402474433f;
    y = y * r + 0.6931217909f;
    y = y * r + 0.9999992847f;
    return (F)((U)y + ((U)shifted << 23));
}

// Pack 16 * n keys, as outputs of a product whose sum runs over the head's elements.
inline void keys_to_tiles(const PackedRows<uint16_t>& keys, int64_t head_dim, uint16_t* tiles) {
    const int64_t steps = divide_up(head_dim, STEP);
    if (head_dim % STEP != 0) std::memset(tiles, 0, KEYS / COLUMNS * steps * TILE * sizeof *tiles);
    for (int64_t key = 0; key < KEYS; ++key) {
        uint16_t* to = tiles + key / COLUMNS * steps * TILE + key % COLUMNS * 2;
        for (int64_t i = 0; i < head_dim; i += 2) std::memcpy(to + i * COLUMNS, keys.row[key] + i, 2 * sizeof *to);
    }
}

// Pack values: the outputs of the product are the head's elements, and the sum runs over tokens. `stride`: elements of 16
// outputs of the chunk.
inline void values_to_tiles(const PackedRows<uint16_t>& values, int64_t head_dim, int64_t stride, uint16_t* tiles) {
    for (int64_t i = 0; i < divide_up(head_dim, BLOCK) * BLOCK; i += W)
        for (int64_t at = 0; at < KEYS; at += 2) {
            uint16_t* to = tiles + i / COLUMNS * stride + at * COLUMNS + i % COLUMNS * 2;
            if (i >= head_dim) {
                std::memset(to, 0, 2 * W * sizeof *to);
                continue;
            }
            const U pairs = (U)load(values.row[at] + i) >> 16 | (U)load(values.row[at + 1] + i);
            std::memcpy(to, &pairs, sizeof pairs);
        }
}

// Softmax of some rows, whose keys come in parts. Rows of `sums` and `weights` are those of `scores`.
struct RunningSoftmax {
    float best[BLOCK];  // largest score so far, scaled
    F totals[BLOCK];    // sum of the weights so far, in W parts

    // Start with the sinks of the rows from `first` on, for `sharing` heads per token.
    void reset(const Scoring& scoring, int64_t first, int64_t sharing) {
        for (int64_t row = 0; row < BLOCK; ++row) {
            best[row] = scoring.sink((first + row) % sharing) * LOG2_E, totals[row] = F{};
            if (best[row] > -INFINITY) totals[row][0] = 1.f;
        }
    }

    // Convert products [count] of a row to weights; keys outside of [begin, end) get the weight 0. Returns the factor for
    // the row's earlier sums.
    float weigh(int64_t row, float* scores, int64_t begin, int64_t end, int64_t count, const Scoring& scoring,
                uint16_t* weights) {
        const float scale = scoring.softcap > 0.f ? LOG2_E : scoring.scale * LOG2_E;  // weights are powers of two
        if (scoring.softcap > 0.f)
            for (int64_t at = 0; at < count; at += W) store(scores + at, scoring.of(load(scores + at)));
        if (begin > 0 || end < count) mask(scores, begin, end, count);
        F most = load(scores);
        for (int64_t at = W; at < count; at += W) {
            const F score = load(scores + at);
            most = score > most ? score : most;
        }
        const float now = std::max(best[row], largest(most) * scale), factor = std::exp2(best[row] - now);
        best[row] = now;
        F total = totals[row] * factor;
        for (int64_t at = 0; at < count; at += W) {
            const F weight = power_of_two(load(scores + at) * scale - now);
            total += weight;
            store(weights + at / STEP * TILE + at % STEP, weight);
        }
        totals[row] = total;
        return factor;
    }

  private:
    static constexpr float LOG2_E = 1.44269504f;

    static void mask(float* scores, int64_t begin, int64_t end, int64_t count) {
        I lanes{};
        for (int32_t lane = 0; lane < W; ++lane) lanes[lane] = lane;
        for (int64_t at = 0; at < count; at += W) {
            const I key = lanes + static_cast<int32_t>(at);
            const I own = (key >= static_cast<int32_t>(begin)) & (key < static_cast<int32_t>(end));
            store(scores + at, own ? load(scores + at) : all(MASKED));
        }
    }
};

// Attention by tiles, of bfloat16.
struct ByTiles {
    static constexpr int64_t ROWS = 64;  // rows of queries at once: two blocks read the same keys from a cache

    // Buffers and registers of one thread.
    struct Scratch {
        Tiles tiles;
        Buffer<uint16_t> queries, weights;
        Buffer<float> scores, sums;
        std::vector<RunningSoftmax> softmax;
    };

    static int64_t padded_head(int64_t head_dim) { return divide_up(head_dim, BLOCK) * BLOCK; }

    // Pack KEYS keys and values, from offset `at` of the chunk's packed keys.
    static void pack(const PackedRows<uint16_t>& keys, const PackedRows<uint16_t>& values, int64_t at, int64_t padded,
                     int64_t head_dim, uint16_t* packed_keys, uint16_t* packed_values) {
        keys_to_tiles(keys, head_dim, packed_keys + at * padded_head(head_dim));
        values_to_tiles(values, head_dim, padded * COLUMNS, packed_values + at * COLUMNS);
    }

    // Compute attention of new tokens [begin, end) of a request, for the heads that share one key head. `q` and `out`
    // point to the first of these heads.
    static void attend(const Chunk& chunk, int64_t begin, int64_t end, const uint16_t* q, const uint16_t* keys,
                       const uint16_t* values, uint16_t* out, int64_t sharing, int64_t token_stride, int64_t head_dim,
                       const Scoring& scoring, Scratch& scratch) {
        const int64_t rows = (end - begin) * sharing, blocks = divide_up(rows, BLOCK), head = padded_head(head_dim);
        const int64_t steps = head / STEP;
        const auto place = [&](int64_t row) { return (begin + row / sharing) * token_stride + row % sharing * head_dim; };
        uint16_t* queries = scratch.queries.reserve(blocks * BLOCK * head);
        for (int64_t row = 0; row < blocks * BLOCK; ++row)
            pack_row(row < rows ? q + place(row) : nullptr, head_dim, queries + row / 16 * steps * TILE + row % 16 * STEP);
        uint16_t* weights = scratch.weights.reserve(BLOCK * PART);
        float *scores = scratch.scores.reserve(BLOCK * PART), *sums = scratch.sums.reserve(blocks * BLOCK * head);
        scratch.softmax.resize(blocks);
        for (int64_t block = 0; block < blocks; ++block) scratch.softmax[block].reset(scoring, block * BLOCK, sharing);
        // Range of keys that any of the tokens attends to, relative to the chunk's first packed key.
        const int64_t seen = first_in_window(chunk.past + begin + 1, scoring.window);
        const int64_t first = (seen - chunk.first) / STEP * STEP, last = chunk.past + end - chunk.first;
        for (int64_t part = first; part < last; part += PART) {
            const int64_t count = std::min(PART, divide_up(last - part, STEP) * STEP);
            for (int64_t block = 0; block < blocks; ++block) {
                const int64_t row = block * BLOCK, own = std::min(BLOCK, rows - row);
                for (int64_t key = 0; key < count; key += BLOCK)
                    scratch.tiles.multiply(own, queries + row * head, head * 16, keys + (part + key) * head, head * COLUMNS,
                                           steps, scores + key, PART, false);
                for (int64_t i = 0; i < own; ++i) {
                    const int64_t length = chunk.past + begin + (row + i) / sharing + 1, base = chunk.first + part;
                    const float factor = scratch.softmax[block].weigh(
                        i, scores + i * PART, std::max<int64_t>(first_in_window(length, scoring.window) - base, 0),
                        std::max<int64_t>(length - base, 0), count, scoring,
                        weights + i / 16 * (PART / STEP) * TILE + i % 16 * STEP);
                    float* sum = sums + (row + i) * head;
                    if (part > first && factor != 1.f)
                        for (int64_t at = 0; at < head; at += W) store(sum + at, load(sum + at) * factor);
                }
                for (int64_t at = 0; at < head; at += BLOCK)
                    scratch.tiles.multiply(own, weights, PART / STEP * TILE, values + at * chunk.padded + part * COLUMNS,
                                           chunk.padded * COLUMNS, count / STEP, sums + row * head + at, head, part > first);
            }
        }
        for (int64_t row = 0; row < rows; ++row) {
            const float inverse = 1.f / sum(scratch.softmax[row / BLOCK].totals[row % BLOCK]);
            for (int64_t i = 0; i < head_dim; i += W) store(out + place(row) + i, load(sums + row * head + i) * inverse);
        }
    }
};

}  // namespace
