// Products of blocks of bfloat16 by AMX: matrices of up to 16 rows of 64 bytes, in eight registers.
//
// Rows of a left operand are stored in tiles [16 rows, 32 elements]. Outputs of a right operand are stored in tiles
// [16 pairs of elements, 16 outputs, 2], as in a pack of 16 outputs (products.h). The tiles that a block multiplies follow
// each other: its sum runs over `steps` tiles, 32 elements each. On a processor without AMX, tests multiply the same
// blocks by `multiply_block_portably`.

#pragma once

#include <cstdlib>
#include <memory>

#include "vectors.h"
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#define HAS_AMX
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int64_t TILE = 512;  // elements of a tile
constexpr int64_t STEP = 32;   // elements of a row or output per tile
constexpr int64_t BLOCK = 32;  // rows per block, and outputs per block
constexpr int64_t COLUMNS = 16;  // outputs of a tile, and its rows
constexpr int64_t CACHE_LINE = 64;

inline int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Memory of one thread, aligned to cache lines and reused by its calls. `reserve` does not keep what the memory held.
template <typename V>
class Buffer {
  public:
    V* reserve(int64_t elements) {
        if (elements > elements_) {
            const size_t bytes = divide_up(elements * sizeof(V), CACHE_LINE) * CACHE_LINE;
            values_.reset();
            values_.reset(static_cast<V*>(std::aligned_alloc(CACHE_LINE, bytes)));
            elements_ = elements;
        }
        return values_.get();
    }

    // Free memory that is too large to keep.
    void trim() {
        constexpr int64_t KEPT_BYTES = 64 << 20;
        if (elements_ * sizeof(V) > KEPT_BYTES) values_.reset(), elements_ = 0;
    }

  private:
    struct Free {
        void operator()(V* values) const { std::free(values); }
    };
    std::unique_ptr<V, Free> values_;
    int64_t elements_ = 0;
};

// Memory to be read soon: `bytes` per step of a block are fetched into the L2 cache.
struct Soon {
    const char* from = nullptr;
    int64_t bytes = 0;
    void fetch() {
        for (int64_t at = 0; at < bytes; at += CACHE_LINE) __builtin_prefetch(from + at, 0, 2);
        from += bytes;
    }
};

// Add the products of 16 * ROW_TILES rows with 32 outputs to sums [rows, stride], or store them if not `adds`. The second
// 16 rows, or outputs, begin `left_stride`, or `right_stride`, elements after the first.
template <int ROW_TILES>
void multiply_block_portably(const uint16_t* left, int64_t left_stride, const uint16_t* right, int64_t right_stride,
                             int64_t steps, float* sums, int64_t stride, bool adds) {
    for (int64_t row = 0; row < 16 * ROW_TILES; ++row)
        for (int64_t output = 0; output < BLOCK; output += W) {
            float* place = sums + row * stride + output;
            F sum = adds ? load(place) : F{};
            for (int64_t step = 0; step < steps; ++step) {
                const uint16_t* x = left + row / 16 * left_stride + step * TILE + row % 16 * STEP;
                const uint16_t* y = right + output / COLUMNS * right_stride + step * TILE + output % COLUMNS * 2;
                for (int64_t pair = 0; pair < 16; ++pair) {
                    U both;
                    std::memcpy(&both, y + pair * 2 * COLUMNS, sizeof both);
                    sum += (F)(both << 16) * as_float(x[2 * pair]) + (F)(both & 0xFFFF0000u) * as_float(x[2 * pair + 1]);
                }
            }
            store(place, sum);
        }
}

#ifdef HAS_AMX
// Registers 0 to 3 hold the sums, 4 and 5 the rows, 6 and 7 the outputs.
template <int ROW_TILES>
inline void multiply_block_by_amx(const uint16_t* left, int64_t left_stride, const uint16_t* right, int64_t right_stride,
                                  int64_t steps, float* sums, int64_t stride, bool adds, Soon soon) {
    const int64_t bytes = stride * sizeof(float);
    float* second = sums + 16 * stride;
    asm volatile("" ::: "memory");  // the compiler does not know that the instructions below read memory
    if (adds) {
        _tile_loadd(0, sums, bytes);
        _tile_loadd(1, sums + COLUMNS, bytes);
        if (ROW_TILES == 2) {
            _tile_loadd(2, second, bytes);
            _tile_loadd(3, second + COLUMNS, bytes);
        }
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t step = 0; step < steps; ++step, left += TILE, right += TILE) {
        soon.fetch();
        _tile_loadd(4, left, 64);
        _tile_loadd(6, right, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, right + right_stride, 64);
        _tile_dpbf16ps(1, 4, 7);
        if (ROW_TILES == 2) {
            _tile_loadd(5, left + left_stride, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, bytes);
    _tile_stored(1, sums + COLUMNS, bytes);
    if (ROW_TILES == 2) {
        _tile_stored(2, second, bytes);
        _tile_stored(3, second + COLUMNS, bytes);
    }
}
#endif

// Ask the operating system for the registers. It grants them to a process once, for all of its threads.
inline bool processor_has_tiles() {
#ifdef HAS_AMX
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool granted = syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
    return granted;
#else
    return false;
#endif
}

// When blocks are used: never, if the processor has AMX, or always (without AMX: portably, for tests).
enum class TileMode : int64_t { NEVER, BY_PROCESSOR, ALWAYS };
TileMode tile_mode = TileMode::BY_PROCESSOR;

inline bool uses_tiles() {
    return tile_mode == TileMode::ALWAYS || (tile_mode == TileMode::BY_PROCESSOR && processor_has_tiles());
}

// A thread's use of the registers. Other libraries, such as oneDNN, may have configured them: the configuration found is
// restored at the end. Unconfigured registers need not be saved when the operating system switches threads.
class Tiles {
  public:
    Tiles() : by_amx_(processor_has_tiles()) {
#ifdef HAS_AMX
        if (!by_amx_) return;
        Configuration own{};
        own.palette = 1;
        for (int64_t tile = 0; tile < 8; ++tile) own.row_bytes[tile] = 64, own.rows[tile] = 16;
        asm volatile("sttilecfg %0" : "=m"(found_));
        asm volatile("ldtilecfg %0" : : "m"(own));
#endif
    }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
    ~Tiles() {
#ifdef HAS_AMX
        if (!by_amx_) return;
        if (found_.palette == 0)
            _tile_release();
        else
            asm volatile("ldtilecfg %0" : : "m"(found_));
#endif
    }

    // Multiply a block of 16 or 32 rows, as `multiply_block_portably` does.
    void multiply(int64_t rows, const uint16_t* left, int64_t left_stride, const uint16_t* right, int64_t right_stride,
                  int64_t steps, float* sums, int64_t stride, bool adds, Soon soon = {}) const {
#ifdef HAS_AMX
        if (by_amx_) {
            if (rows > 16)
                multiply_block_by_amx<2>(left, left_stride, right, right_stride, steps, sums, stride, adds, soon);
            else
                multiply_block_by_amx<1>(left, left_stride, right, right_stride, steps, sums, stride, adds, soon);
            return;
        }
#endif
        if (rows > 16)
            multiply_block_portably<2>(left, left_stride, right, right_stride, steps, sums, stride, adds);
        else
            multiply_block_portably<1>(left, left_stride, right, right_stride, steps, sums, stride, adds);
    }

  private:
    struct alignas(64) Configuration {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    };
    const bool by_amx_;
#ifdef HAS_AMX
    Configuration found_{};
#endif
};

// Copy a row [size] to its place in the tiles of 16 rows. Zeros pad the last tile, and replace a row that is null.
inline void pack_row(const uint16_t* row, int64_t size, uint16_t* to) {
    for (int64_t at = 0; at < size; at += STEP, to += TILE) {
        const int64_t count = row == nullptr ? 0 : std::min(STEP, size - at);
        if (count == STEP) {
            std::memcpy(to, row + at, STEP * sizeof *to);
        } else {
            std::memset(to, 0, STEP * sizeof *to);
            if (count > 0) std::memcpy(to, row + at, count * sizeof *to);
        }
    }
}

// Copy rows [begin, end) of x [rows, size] to tiles [rows / 16, steps, 16, 32]. `begin` is a multiple of 16, and zeros
// fill the last 16 rows.
inline void pack_rows(const uint16_t* x, int64_t begin, int64_t end, int64_t size, uint16_t* tiles) {
    const int64_t steps = divide_up(size, STEP);
    for (int64_t row = begin; row < divide_up(end, 16) * 16; ++row)
        pack_row(row < end ? x + row * size : nullptr, size, tiles + row / 16 * steps * TILE + row % 16 * STEP);
}

}  // namespace
