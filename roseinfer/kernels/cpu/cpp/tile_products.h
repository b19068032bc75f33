// Matrix products of many rows with a packed weight (products.h), by blocks of AMX registers (tiles.h).
//
// Rows are copied to tiles once, by all threads. Each thread then copies the weights of a few units of 64 outputs to
// tiles, converting codes to bfloat16, and multiplies these with its rows while they are in the L2 cache.

#pragma once

#include "products.h"
#include "tiles.h"

namespace {

constexpr int64_t UNIT = 64;                // outputs per unit
constexpr int64_t MOST_UNITS = 4;           // units at once: rows are read from the L2 cache once per 256 outputs
constexpr int64_t PANEL_BYTES = 768 << 10;  // weights of these units, in tiles: less than an L2 cache holds
constexpr int64_t LARGEST_SIZE = 2048;      // elements of a row that are multiplied before sums leave the registers
constexpr int64_t LEAST_TILE_ROWS = 16;     // minimum rows for which tiles are faster than vectors

// A pair of bfloat16 per lane: the first in the low bits. Rounds to nearest, halves away from zero.
inline U rounded_pairs(F first, F second) {
    return ((U)first + 0x8000u) >> 16 | (((U)second + 0x8000u) & 0xFFFF0000u);
}

// Tiles of a part of a weight: [units, 4, steps, 16, 16, 2].
struct Panel {
    uint16_t* tiles;
    int64_t steps;
    uint16_t* at(int64_t output, int64_t step) const {
        return tiles + (output / COLUMNS * steps + step) * TILE + output % COLUMNS * 2;
    }
};

// Copy the elements [begin, end) of outputs [first, first + w.lanes) to tiles; `to`: index of the first output's tiles.
template <typename V>
void fill_from_pack(const Weight& w, int64_t first, int64_t begin, int64_t end, int64_t to, const Panel& panel) {
    const V* pack = static_cast<const V*>(w.values) + first * w.size;
    for (int64_t k = begin; k < end; k += 2)
        for (int64_t lane = 0; lane < w.lanes; lane += W) {
            const V* from = pack + k * w.lanes + 2 * lane;
            uint16_t* place = panel.at(to + lane, (k - begin) / STEP) + (k - begin) % STEP * COLUMNS;
            if constexpr (std::is_same_v<V, uint16_t>) {
                std::memcpy(place, from, 2 * W * sizeof *place);
            } else {
                const Floats::Pair pair = Floats::of_pack(from, 0);
                const U both = (U)pair.first >> 16 | (U)pair.second;  // codes are exact in bfloat16
                std::memcpy(place, &both, sizeof both);
            }
        }
}

// The same for int4 codes: values are rounded to bfloat16.
inline void fill_from_codes(const Weight& w, int64_t first, int64_t begin, int64_t end, int64_t to, const Panel& panel) {
    const int64_t group_bytes = w.lanes * (GROUP / 2 + sizeof(uint32_t)), half = w.lanes / 2;
    const uint8_t* pack = static_cast<const uint8_t*>(w.values) + first / w.lanes * (w.size / GROUP) * group_bytes;
    for (int64_t group = begin / GROUP; group < end / GROUP; ++group)
        for (int64_t lane = 0; lane < half; lane += W) {
            const uint8_t* codes = pack + group * group_bytes;
            F scale[2], offset[2];
            uint16_t* place[2];
            for (int64_t part = 0; part < 2; ++part) {
                U pair;
                std::memcpy(&pair, codes + GROUP * half + (part * half + lane) * sizeof(uint32_t), sizeof pair);
                scale[part] = (F)(pair << 16);
                offset[part] = (F)(pair & 0xFFFF0000u) - 8.f * scale[part];
                place[part] = panel.at(to + part * half + lane, group - begin / GROUP);
            }
            for (int64_t k = 0; k < GROUP; k += 2) {
                const I one = load_codes(codes + k * half + lane), two = load_codes(codes + (k + 1) * half + lane);
                const Floats::Pair pairs[2] = {Floats::of_codes(one & 15, two & 15), Floats::of_codes(one >> 4, two >> 4)};
                for (int64_t part = 0; part < 2; ++part) {
                    const U both = rounded_pairs(pairs[part].first * scale[part] + offset[part],
                                                 pairs[part].second * scale[part] + offset[part]);
                    std::memcpy(place[part] + k * COLUMNS, &both, sizeof both);
                }
            }
        }
}

// Copy elements [begin, end) of `units` units to tiles. Outputs past the last pack, and elements that fill the last tile,
// are zeros.
inline void fill_panel(const Weight& w, int64_t unit, int64_t units, int64_t begin, int64_t end, const Panel& panel) {
    const int64_t padded = divide_up(w.outputs, w.lanes) * w.lanes, last = (unit + units) * UNIT;
    if ((end - begin) % STEP != 0)
        for (int64_t output = 0; output < units * UNIT; output += COLUMNS)
            std::memset(panel.at(output, panel.steps - 1), 0, TILE * sizeof(uint16_t));
    for (int64_t output = unit * UNIT; output < last; output += w.lanes) {
        const int64_t to = output - unit * UNIT;
        if (output >= padded)
            std::memset(panel.at(to, 0), 0, w.lanes / COLUMNS * panel.steps * TILE * sizeof(uint16_t));
        else if (w.kind == 0)
            fill_from_pack<uint16_t>(w, output, begin, end, to, panel);
        else if (w.kind == 1)
            fill_from_pack<int8_t>(w, output, begin, end, to, panel);
        else
            fill_from_codes(w, output, begin, end, to, panel);
    }
}

// Bytes of the packs of a unit.
inline int64_t unit_bytes(const Weight& w) {
    if (w.kind == 2) return UNIT * (w.size / GROUP) * (GROUP / 2 + sizeof(uint32_t));
    return UNIT * w.size * (w.kind == 1 ? sizeof(int8_t) : sizeof(uint16_t));
}

// Buffers of one thread.
struct TileBuffers {
    Buffer<uint16_t> rows, panel;
    Buffer<float> sums;
    static TileBuffers& own() {
        static thread_local TileBuffers buffers;
        return buffers;
    }
};

// Multiply rows [first, last) with `units` units of a weight. `left`: all rows in tiles.
inline void multiply_units(const Tiles& tiles, const Weight& w, const uint16_t* left, int64_t first, int64_t last,
                           int64_t unit, int64_t units, const Target<uint16_t>& target) {
    const int64_t steps = divide_up(w.size, STEP), parts = divide_up(w.size, LARGEST_SIZE);
    const int64_t part_steps = divide_up(steps, parts), width = units * UNIT;
    const Panel panel{TileBuffers::own().panel.reserve(width * part_steps * STEP), part_steps};
    float* sums = TileBuffers::own().sums.reserve((parts == 1 ? BLOCK : last - first + BLOCK) * width);
    // While multiplying, fetch the weights of the next units, which follow: plain weights for 128 rows took 762 us
    // without, and 587 us with it (3072 x 576, one thread of a Xeon with AMX).
    const int64_t bytes = unit_bytes(w), products = divide_up(last - first, BLOCK) * (width / BLOCK) * steps;
    Soon soon{static_cast<const char*>(w.values) + (unit + units) * bytes, 0};
    const int64_t ahead = std::min(units, divide_up(w.outputs, UNIT) - unit - units) * bytes;
    const int64_t each = divide_up(ahead / CACHE_LINE, products) * CACHE_LINE;
    const char* const stop = soon.from + ahead;
    for (int64_t begin = 0; begin < steps; begin += part_steps) {
        const int64_t count = std::min(part_steps, steps - begin);
        fill_panel(w, unit, units, begin * STEP, std::min((begin + count) * STEP, w.size), panel);
        for (int64_t row = first; row < last; row += BLOCK) {
            float* own = sums + (parts == 1 ? 0 : row - first) * width;
            for (int64_t output = 0; output < width; output += BLOCK) {
                soon.bytes = soon.from < stop ? each : 0;
                tiles.multiply(last - row, left + (row / 16 * steps + begin) * TILE, steps * TILE, panel.at(output, 0),
                               part_steps * TILE, count, own + output, width, begin > 0, soon);
                soon.from += count * soon.bytes;
            }
            if (begin + count < steps) continue;
            for (int64_t i = 0; i < std::min(BLOCK, last - row); ++i)
                for (int64_t output = 0; output < width; output += W)
                    target.put(row + i, unit * UNIT + output, load(own + i * width + output));
        }
    }
}

// Multiply this thread's share of the blocks of 32 rows and 64 outputs. Shares are equal, and at most two units are
// copied by more than one thread.
inline void multiply_share(const Tiles& tiles, const Weight& w, const uint16_t* left, int64_t rows, int64_t thread,
                           int64_t threads, const Target<uint16_t>& target) {
    const int64_t units = divide_up(w.outputs, UNIT), blocks = divide_up(rows, BLOCK);
    const int64_t panel_bytes = UNIT * std::min(divide_up(w.size, STEP) * STEP, LARGEST_SIZE) * sizeof(uint16_t);
    const int64_t most = std::max<int64_t>(1, std::min(MOST_UNITS, PANEL_BYTES / panel_bytes));
    int64_t at = share(units * blocks, thread, threads, 0);
    const int64_t end = share(units * blocks, thread, threads, 1);
    while (at < end) {
        const int64_t unit = at / blocks, block = at % blocks;
        const bool is_whole = block == 0 && end - at >= blocks;
        const int64_t count = is_whole ? std::min(most, (end - at) / blocks) : 1;
        const int64_t last = is_whole ? blocks : std::min(blocks, block + end - at);
        multiply_units(tiles, w, left, block * BLOCK, std::min(last * BLOCK, rows), unit, count, target);
        at += is_whole ? count * blocks : last - block;
    }
}

// Compute x W^T + b: x [rows, size] -> [rows, outputs].
inline void tile_linear(const Weight& w, const uint16_t* x, uint16_t* out, int64_t rows) {
    const int64_t groups = divide_up(rows, 16), steps = divide_up(w.size, STEP);
    uint16_t* left = TileBuffers::own().rows.reserve(groups * steps * TILE);
    const Target<uint16_t> target{out, w.outputs, w.outputs, false,
                                  w.kind == 1 ? static_cast<const uint16_t*>(w.scales) : nullptr,
                                  static_cast<const uint16_t*>(w.bias)};
#pragma omp parallel
    {
        const int64_t thread = thread_number(), threads = thread_count();
        const int64_t begin = share(groups, thread, threads, 0) * 16, end = share(groups, thread, threads, 1) * 16;
        pack_rows(x, begin, std::min(end, rows), w.size, left);
#pragma omp barrier
        const Tiles tiles;
        multiply_share(tiles, w, left, rows, thread, threads, target);
    }
    TileBuffers::own().rows.trim();
}

}  // namespace
