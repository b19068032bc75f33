// Matrix products of rows with a packed weight, whose elements are plain, int8 or int4.
//
// A weight is stored in packs of 16, 32 or 64 outputs. Within a pack, elements follow each other in pairs along the
// weight's rows, and the lanes of a vector are outputs: one element of x is multiplied with all of them. A pack is read
// from memory once, and multiplied with all rows of x while it is in a cache. If the processor multiplies pairs of
// bfloat16 (AVX-512 BF16), x stays in bfloat16, and codes are converted to bfloat16, which represents them exactly.
// Otherwise everything is widened to float.

#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "vectors.h"

namespace {

// The weight of a linear layer. `WeightStruct` in native_matmul.py must have the same fields. Layout of a pack of
// `lanes` outputs:
// - plain float32: [size, lanes];
// - plain bfloat16, and int8: [size / 2, lanes, 2];
// - int4: for each group of 32 elements, codes [32, lanes / 2], where the low bits belong to the first half of the
//   outputs, then bfloat16 scales and offsets [lanes, 2].
struct Weight {
    const void* values;
    const void* scales;  // int8: [outputs], bfloat16; otherwise null
    const void* bias;    // [outputs], or null
    int64_t kind;        // 0 plain, 1 int8, 2 int4
    int64_t outputs, size;
    int64_t lanes;  // 64, 32 or 16
};

constexpr int64_t GROUP = 32;  // int4: elements of a row that share a scale and an offset

// Widen W bytes to 32 bits each. GCC 12 compiles the portable conversion to 40 instructions, so x86 uses the intrinsic,
// a single instruction.
inline I load_codes(const int8_t* p) {
#ifdef __AVX512F__
    return (I)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__AVX2__)
    return (I)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
    typedef int8_t B __attribute__((vector_size(W)));
    B codes;
    std::memcpy(&codes, p, sizeof codes);
    return __builtin_convertvector(codes, I);
#endif
}

inline I load_codes(const uint8_t* p) {
#ifdef __AVX512F__
    return (I)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__AVX2__)
    return (I)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
    typedef uint8_t B __attribute__((vector_size(W)));
    B codes;
    std::memcpy(&codes, p, sizeof codes);
    return __builtin_convertvector(codes, I);
#endif
}

inline F load(const int8_t* p) { return __builtin_convertvector(load_codes(p), F); }

// Arithmetic on pairs. A Pair holds two adjacent elements of W outputs' weights, or two elements of x broadcast to all
// lanes. `add` adds the products of two pairs to W sums.
struct Floats {
    typedef float Operand;  // element type of x as products read it
    struct Pair {
        F first, second;
    };
    static Pair of_row(const float* x) { return {all(x[0]), all(x[1])}; }
    static Pair of_codes(I first, I second) {
        return {__builtin_convertvector(first, F), __builtin_convertvector(second, F)};
    }
    static Pair of_pack(const float* pack, int64_t lanes) { return {load(pack), load(pack + lanes)}; }
    static Pair of_pack(const uint16_t* pack, int64_t) {
        U both;
        std::memcpy(&both, pack, sizeof both);
        return {(F)(both << 16), (F)(both & 0xFFFF0000u)};
    }
    static Pair of_pack(const int8_t* pack, int64_t) {
#if defined(__AVX2__) && !defined(__AVX512F__)
        const I wide = (I)_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(pack)));
#else
        typedef int16_t S __attribute__((vector_size(2 * W)));
        S both;
        std::memcpy(&both, pack, sizeof both);
        const I wide = __builtin_convertvector(both, I);
#endif
        return {__builtin_convertvector(wide << 24 >> 24, F), __builtin_convertvector(wide >> 8, F)};
    }
    static F add(F sums, Pair a, Pair b) { return sums + a.first * b.first + a.second * b.second; }
};

// Every processor with AVX-512 BF16 but Cooper Lake has VBMI too, whose permutations of bytes the 4-bit codes need.
#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#define PAIRS_OF_BFLOAT16
struct Bfloat16s {
    typedef uint16_t Operand;
    typedef __m512bh Pair;
    static Pair of_row(const uint16_t* x) {
        int32_t both;
        std::memcpy(&both, x, sizeof both);
        return (Pair)_mm512_set1_epi32(both);
    }
    static Pair of_pack(const uint16_t* pack, int64_t) { return (Pair)_mm512_loadu_si512(pack); }
    static Pair of_pack(const int8_t* pack, int64_t) {
        return _mm512_cvtne2ps_pbh((__m512)load(pack + W), (__m512)load(pack));
    }
    static F add(F sums, Pair a, Pair b) { return (F)_mm512_dpbf16_ps((__m512)sums, a, b); }
};
template <typename T>
using Arithmetic = std::conditional_t<std::is_same_v<T, float>, Floats, Bfloat16s>;
#else
template <typename T>
using Arithmetic = Floats;
#endif

template <typename T>
using Operand = typename Arithmetic<T>::Operand;

// Load the first `count` values of a vector; the other lanes are 0.
template <typename V>
inline F load_some(const V* p, int64_t count) {
    if (count == W) return load(p);
    V values[W] = {};
    std::memcpy(values, p, count * sizeof(V));
    return load(values);
}

// Destination of products: [rows, outputs], with `stride` elements between rows.
template <typename T>
struct Target {
    T* out;
    int64_t stride, outputs;
    bool adds;               // add the products to the present values (a residual)
    const uint16_t* scales;  // [outputs], or null
    const T* bias;           // [outputs], or null

    // Scale and store up to W outputs of one row, plus bias and residual. Rounds as often as separate operations
    // would.
    void put(int64_t row, int64_t output, F value) const {
        const int64_t count = outputs - output;
        if (count >= W)
            put_some(row, output, value, std::integral_constant<int64_t, W>{});
        else if (count > 0)
            put_some(row, output, value, count);
    }

  private:
    template <typename Count>
    void put_some(int64_t row, int64_t output, F value, Count count) const {
        T* place = out + row * stride + output;
        T values[W];
        if (scales != nullptr) value *= load_some(scales + output, count);
        store(values, value);
        if (bias != nullptr) store(values, load(values) + load_some(bias + output, count));
        if (adds) store(values, load(values) + load_some(place, count));
        std::memcpy(place, values, count * sizeof(T));
    }
};

// Buffers of one thread, reused by all its products.
template <typename T>
struct Scratch {
    std::vector<Operand<T>> x;        // rows of x, converted to the products' element type
    std::vector<float> totals;        // int4: sum of x per row and group
    std::vector<Operand<T>> widened;  // a pack's codes, converted
};

// Return x in the element type that products read: x itself, or a widened copy in the scratch buffer.
template <typename T>
const Operand<T>* operands(const T* x, int64_t elements, Scratch<T>& scratch) {
    if constexpr (std::is_same_v<T, Operand<T>>) {
        return x;
    } else {
        scratch.x.resize(elements);
        for (int64_t i = 0; i < elements; i += W) store(scratch.x.data() + i, load(x + i));
        return scratch.x.data();
    }
}

// Prefetching of the next pack, spread evenly over the current one's products: the hardware prefetcher alone does not
// reach the memory's bandwidth.
struct Fetch {
    const char* from;
    int64_t bytes;  // per pair of elements
    void operator()(int64_t k) const {
        const char* piece = from + k / 2 * bytes;
        for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(piece + at);
    }
};

// Vectors of outputs whose sums for ROWS rows fit into the processor's registers: 32 with AVX-512, else 16.
constexpr int some_parts(int rows, int parts) {
    const int most = W == 16 ? parts : rows == 1 ? 8 : rows == 2 ? 4 : 2;
    return parts < most ? parts : most;
}

// Multiply a plain or int8 pack of W * PARTS outputs with ROWS rows of x.
template <typename T, int ROWS, int PARTS, typename V, typename To>
inline void multiply_pack(const V* pack, const Operand<T>* x, int64_t size, int64_t row, int64_t output, Fetch fetch,
                          const Target<To>& target) {
    typedef Arithmetic<T> A;
    constexpr int SOME = some_parts(ROWS, PARTS);
    constexpr int64_t PART = std::is_same_v<V, float> ? W : 2 * W;  // elements from part to part
    for (int first = 0; first < PARTS; first += SOME) {
        const V* own_pack = pack + first * PART;
        F sums[ROWS][SOME] = {};
        for (int64_t k = 0; k < size; k += 2, own_pack += 2 * PARTS * W) {
            if (first == 0) fetch(k);
            typename A::Pair own[ROWS];
            for (int i = 0; i < ROWS; ++i) own[i] = A::of_row(x + (row + i) * size + k);
            for (int part = 0; part < SOME; ++part) {
                const typename A::Pair values = A::of_pack(own_pack + part * PART, PARTS * W);
                for (int i = 0; i < ROWS; ++i) sums[i][part] = A::add(sums[i][part], values, own[i]);
            }
        }
        for (int i = 0; i < ROWS; ++i)
            for (int part = 0; part < SOME; ++part) target.put(row + i, output + (first + part) * W, sums[i][part]);
    }
}

// int4: value = (code - 8) * scale + offset. This is what a converted code exceeds (code - 8) by. As bfloat16, a code
// is converted to 128 + code: the bits of 128, with the code in the last bits of the mantissa.
template <typename T>
constexpr float SHIFT = std::is_same_v<Operand<T>, float> ? 8.f : 128.f + 8.f;

// Convert the int4 codes of two adjacent elements of 2 W outputs: those at `part`, in the low bits, and those HALF =
// PARTS * W / 2 after them, in the high bits. `codes`: [2, HALF].
template <typename T, int PARTS>
inline void widen(const uint8_t* codes, int part, typename Arithmetic<T>::Pair& low,
                  typename Arithmetic<T>::Pair& high) {
    typedef Arithmetic<T> A;
    constexpr int HALF = PARTS * W / 2;
    if constexpr (std::is_same_v<Operand<T>, float>) {
        const I first = load_codes(codes + part * W), second = load_codes(codes + HALF + part * W);
        low = A::of_codes(first & 15, second & 15), high = A::of_codes(first >> 4, second >> 4);
    } else {
#ifdef PAIRS_OF_BFLOAT16
        // One permutation moves the bytes of both elements to the halves of each lane.
        I place;
        for (int lane = 0; lane < W; ++lane) place[lane] = (part * W + lane) | (HALF + part * W + lane) << 16;
        const auto* half = reinterpret_cast<const __m256i*>(codes);
        const __m512i all_codes =
            HALF == 32 ? _mm512_loadu_si512(codes) : _mm512_castsi256_si512(_mm256_loadu_si256(half));
        const I both = (I)_mm512_permutexvar_epi8((__m512i)place, all_codes);
        low = (typename A::Pair)((both & 0x000F000F) | 0x43004300);
        high = (typename A::Pair)((both >> 4 & 0x000F000F) | 0x43004300);
#endif
    }
}

// Part of a pack whose sum is at `part` of SOME sums, half of which are for low bits and the others for high bits.
template <int PARTS, int SOME>
constexpr int part_of(int first, int part) {
    return part < SOME / 2 ? first + part : PARTS / 2 + first + part - SOME / 2;
}

// Add one int4 group's sums of products, with its scale and offset applied, to the sums of the groups before. `totals`:
// sums of x over this group, `groups` elements from row to row.
template <typename T, int PARTS, int ROWS, int SOME>
inline void add_group(F (&sums)[ROWS][SOME], const F (&inner)[ROWS][SOME], int first, const uint8_t* scales,
                      const float* totals, int64_t groups) {
    for (int part = 0; part < SOME; ++part) {
        U pair;
        std::memcpy(&pair, scales + part_of<PARTS, SOME>(first, part) * sizeof(U), sizeof pair);
        const F scale = (F)(pair << 16), offset = (F)(pair & 0xFFFF0000u) - SHIFT<T> * scale;
        for (int i = 0; i < ROWS; ++i) {
            sums[i][part] += scale * inner[i][part];
            sums[i][part] += offset * totals[i * groups];
        }
    }
}

// Multiply an int4 pack of W * PARTS outputs with ROWS rows of x.
template <typename T, int ROWS, int PARTS>
inline void multiply_codes(const Weight& w, const uint8_t* pack, const Operand<T>* x, const float* totals, int64_t row,
                           int64_t output, Fetch fetch, const Target<T>& target) {
    typedef Arithmetic<T> A;
    constexpr int64_t HALF = PARTS * W / 2;
    constexpr int SOME = some_parts(ROWS, PARTS);
    const int64_t groups = w.size / GROUP;
    for (int first = 0; first < PARTS / 2; first += SOME / 2) {
        const uint8_t* codes = pack;
        F sums[ROWS][SOME] = {};
        for (int64_t group = 0; group < groups; ++group) {
            F inner[ROWS][SOME] = {};
            for (int64_t k = group * GROUP; k < (group + 1) * GROUP; k += 2, codes += 2 * HALF) {
                if (first == 0) fetch(k);
                typename A::Pair own[ROWS];
                for (int i = 0; i < ROWS; ++i) own[i] = A::of_row(x + (row + i) * w.size + k);
                for (int part = 0; part < SOME / 2; ++part) {
                    typename A::Pair low, high;
                    widen<T, PARTS>(codes, first + part, low, high);
                    for (int i = 0; i < ROWS; ++i) {
                        inner[i][part] = A::add(inner[i][part], low, own[i]);
                        inner[i][part + SOME / 2] = A::add(inner[i][part + SOME / 2], high, own[i]);
                    }
                }
            }
            add_group<T, PARTS>(sums, inner, first, codes, totals + row * groups + group, groups);
            codes += PARTS * sizeof(U);
        }
        for (int i = 0; i < ROWS; ++i)
            for (int part = 0; part < SOME; ++part)
                target.put(row + i, output + part_of<PARTS, SOME>(first, part) * W, sums[i][part]);
    }
}

// Multiply an int4 pack whose codes have been converted once for many rows: registers then hold more rows at once.
// `codes` is the pack itself, for its scales and offsets.
template <typename T, int ROWS, int PARTS>
inline void multiply_widened(const Weight& w, const uint8_t* codes, const Operand<T>* widened, const Operand<T>* x,
                             const float* totals, int64_t row, int64_t output, Fetch fetch, const Target<T>& target) {
    typedef Arithmetic<T> A;
    const int64_t groups = w.size / GROUP;
    F sums[ROWS][PARTS] = {};
    for (int64_t group = 0; group < groups; ++group) {
        F inner[ROWS][PARTS] = {};
        for (int64_t k = group * GROUP; k < (group + 1) * GROUP; k += 2, widened += 2 * PARTS * W) {
            fetch(k);
            typename A::Pair own[ROWS];
            for (int i = 0; i < ROWS; ++i) own[i] = A::of_row(x + (row + i) * w.size + k);
            for (int part = 0; part < PARTS; ++part) {
                const typename A::Pair values = A::of_pack(widened + 2 * part * W, PARTS * W);
                for (int i = 0; i < ROWS; ++i) inner[i][part] = A::add(inner[i][part], values, own[i]);
            }
        }
        codes += GROUP * PARTS * W / 2;
        add_group<T, PARTS>(sums, inner, 0, codes, totals + row * groups + group, groups);
        codes += PARTS * sizeof(U);
    }
    for (int i = 0; i < ROWS; ++i)
        for (int part = 0; part < PARTS; ++part) target.put(row + i, output + part * W, sums[i][part]);
}

// Call some(number of rows as a type, first row, what to prefetch) for tiles of up to TILE rows, until all rows are
// done.
template <int TILE, typename Some>
inline void by_rows(int64_t rows, const void* pack, int64_t bytes, int64_t size, Some some) {
    const int64_t tiles = (rows + TILE - 1) / TILE, fetching = tiles < 4 ? tiles : 4;
    const int64_t each = bytes / (size / 2) / fetching;
    const char *next = static_cast<const char*>(pack) + bytes, *end = next + bytes;
    int64_t row = 0;
    const auto fetch = [&] {
        const Fetch own{next, next < end ? each : 0};
        next += each * (size / 2);
        return own;
    };
    while (row + TILE <= rows) some(std::integral_constant<int, TILE>{}, row, fetch()), row += TILE;
    if (TILE > 4 && row + 4 <= rows) some(std::integral_constant<int, 4>{}, row, fetch()), row += 4;
    if (row + 2 <= rows) some(std::integral_constant<int, 2>{}, row, fetch()), row += 2;
    if (row < rows) some(std::integral_constant<int, 1>{}, row, fetch());
}

// Maximum rows for which int8 codes are converted anew for each tile of rows. With more rows (int4: twice as many), a
// pack is converted once for all of them.
constexpr int64_t FEW = 12;

// Multiply packs [begin, end) of a plain or int8 weight with all rows of x.
template <typename T, int PARTS, typename V>
void multiply_packs(const Weight& w, const Operand<T>* x, int64_t rows, int64_t begin, int64_t end, Scratch<T>& scratch,
                    const Target<T>& target) {
    const int64_t elements = PARTS * W * w.size;
    for (int64_t index = begin; index < end; ++index) {
        const V* pack = static_cast<const V*>(w.values) + index * elements;
        const auto walk_rows = [&](auto* values) {
            by_rows<6>(rows, pack, elements * sizeof(V), w.size, [&](auto count, int64_t row, Fetch fetch) {
                multiply_pack<T, decltype(count)::value, PARTS>(values, x, w.size, row, index * PARTS * W, fetch, target);
            });
        };
        if constexpr (std::is_same_v<V, int8_t> && !std::is_same_v<Operand<T>, float>) {
            if (rows > FEW) {
                scratch.widened.resize(elements);
                for (int64_t i = 0; i < elements; i += W) store(scratch.widened.data() + i, load(pack + i));
                walk_rows(scratch.widened.data());
                continue;
            }
        }
        walk_rows(pack);
    }
}

// Convert the codes of an int4 pack to pairs: [size / 2, lanes, 2].
template <typename T, int PARTS>
void widen_pack(const uint8_t* codes, int64_t groups, std::vector<Operand<T>>& widened) {
    constexpr int64_t HALF = PARTS * W / 2;
    widened.resize(groups * GROUP * 2 * HALF);
    Operand<T>* to = widened.data();
    for (int64_t group = 0; group < groups; ++group, codes += PARTS * sizeof(U))
        for (int64_t k = 0; k < GROUP; k += 2, codes += 2 * HALF, to += 4 * HALF)
            for (int part = 0; part < PARTS / 2; ++part) {
                typename Arithmetic<T>::Pair low, high;
                widen<T, PARTS>(codes, part, low, high);
                std::memcpy(to + 2 * part * W, &low, sizeof low);
                std::memcpy(to + 2 * (HALF + part * W), &high, sizeof high);
            }
}

// Multiply packs [begin, end) of an int4 weight with all rows of x.
template <typename T, int PARTS>
void multiply_code_packs(const Weight& w, const Operand<T>* x, int64_t rows, int64_t begin, int64_t end,
                         Scratch<T>& scratch, const Target<T>& target) {
    const int64_t groups = w.size / GROUP, bytes = PARTS * W * groups * (GROUP / 2 + sizeof(uint32_t));
    scratch.totals.resize(rows * groups);
    for (int64_t group = 0; group < rows * groups; ++group) {
        F total{};
        for (int64_t k = 0; k < GROUP; k += W) total += load(x + group * GROUP + k);
        scratch.totals[group] = sum(total);
    }
    for (int64_t index = begin; index < end; ++index) {
        const uint8_t* codes = static_cast<const uint8_t*>(w.values) + index * bytes;
        if constexpr (!std::is_same_v<Operand<T>, float>) {
            if (rows > 2 * FEW) {
                widen_pack<T, PARTS>(codes, groups, scratch.widened);
                by_rows<6>(rows, codes, bytes, w.size, [&](auto count, int64_t row, Fetch fetch) {
                    multiply_widened<T, decltype(count)::value, PARTS>(w, codes, scratch.widened.data(), x,
                                                                       scratch.totals.data(), row, index * PARTS * W,
                                                                       fetch, target);
                });
                continue;
            }
        }
        by_rows<4>(rows, codes, bytes, w.size, [&](auto count, int64_t row, Fetch fetch) {
            multiply_codes<T, decltype(count)::value, PARTS>(w, codes, x, scratch.totals.data(), row, index * PARTS * W,
                                                             fetch, target);
        });
    }
}

template <typename T, int PARTS>
void multiply_parts(const Weight& w, const Operand<T>* x, int64_t rows, int64_t begin, int64_t end, Scratch<T>& scratch,
                    const Target<T>& target) {
    if (w.kind == 0)
        multiply_packs<T, PARTS, T>(w, x, rows, begin, end, scratch, target);
    else if (w.kind == 1)
        multiply_packs<T, PARTS, int8_t>(w, x, rows, begin, end, scratch, target);
    else if constexpr (PARTS > 1)
        multiply_code_packs<T, PARTS>(w, x, rows, begin, end, scratch, target);
}

// Multiply x [rows, size] with packs [begin, end) of a weight; store the products to `out`, with `stride` elements
// between rows, or add them to it.
template <typename T>
void multiply(const Weight& w, const T* x, int64_t rows, int64_t begin, int64_t end, T* out, int64_t stride, bool adds,
              Scratch<T>& scratch) {
    // Each thread widens its own copy of the rows: limit how many at once, to bound the memory.
    constexpr int64_t MOST = std::is_same_v<T, Operand<T>> ? INT64_MAX : 192;
    const uint16_t* scales = w.kind == 1 ? static_cast<const uint16_t*>(w.scales) : nullptr;
    for (int64_t row = 0; row < rows; row += std::min(MOST, rows)) {
        const int64_t some = std::min(MOST, rows - row);
        const Target<T> target{out + row * stride, stride, w.outputs, adds, scales, static_cast<const T*>(w.bias)};
        const Operand<T>* read = operands(x + row * w.size, some * w.size, scratch);
        if (w.lanes == 64)
            multiply_parts<T, 64 / W>(w, read, some, begin, end, scratch, target);
        else if (w.lanes == 32)
            multiply_parts<T, 32 / W>(w, read, some, begin, end, scratch, target);
        else
            multiply_parts<T, 16 / W>(w, read, some, begin, end, scratch, target);
    }
}

// First of this thread's share of `packs`; with `part` 1, first of the next thread's share.
inline int64_t share(int64_t packs, int64_t thread, int64_t threads, int64_t part) {
    return packs * (thread + part) / threads;
}

inline int64_t packs_of(const Weight& w) { return (w.outputs + w.lanes - 1) / w.lanes; }

// Compute x W^T + b: x [rows, size] -> [rows, outputs]. Threads split the packs; or the rows, if there are many and the
// number of packs is not a multiple of the number of threads.
template <typename T>
void linear(const Weight& w, const T* x, T* out, int64_t rows) {
    if (rows == 0) return;
#pragma omp parallel
    {
        const int64_t thread = thread_number(), threads = thread_count(), packs = packs_of(w);
        const bool by_row = packs % threads != 0 && rows >= 32 * threads;
        const int64_t first = by_row ? share(rows, thread, threads, 0) : 0;
        const int64_t last = by_row ? share(rows, thread, threads, 1) : rows;
        Scratch<T> scratch;
        multiply(w, x + first * w.size, last - first, by_row ? 0 : share(packs, thread, threads, 0),
                 by_row ? packs : share(packs, thread, threads, 1), out + first * w.outputs, w.outputs, false, scratch);
    }
}

// Look up rows of a packed plain or int8 weight: ids [count] -> [count, size].
template <typename T, typename V>
void unpack_rows(const Weight& w, const int64_t* ids, T* out, int64_t count) {
    const uint16_t* scales = static_cast<const uint16_t*>(w.scales);
    // Distance in the pack between adjacent elements of a row: for float32, the other outputs' elements are in between.
    const int64_t apart = std::is_same_v<V, float> ? w.lanes : 1, first = std::is_same_v<V, float> ? 1 : 2;
#pragma omp parallel for if (count * w.size >= PARALLEL)
    for (int64_t i = 0; i < count; ++i) {
        const int64_t pack = ids[i] / w.lanes, lane = ids[i] % w.lanes;
        const V* values = static_cast<const V*>(w.values) + pack * w.lanes * w.size + lane * first;
        const float scale = scales == nullptr ? 1.f : as_float(scales[ids[i]]);
        for (int64_t k = 0; k < w.size; k += 2, values += 2 * w.lanes) {
            out[i * w.size + k] = rounded<T>(scale * as_float(values[0]));
            out[i * w.size + k + 1] = rounded<T>(scale * as_float(values[apart]));
        }
    }
}

template <typename T>
void table_rows(const Weight& w, const int64_t* ids, T* out, int64_t count) {
    if (w.kind == 0)
        unpack_rows<T, T>(w, ids, out, count);
    else if (w.kind == 1)
        unpack_rows<T, int8_t>(w, ids, out, count);
}

}  // namespace
