// Products of rows with a weight that is kept plain, in 8 bits or in 4.
//
// A weight lies in packs of outputs, in each pack one pair of elements after the other: lanes are outputs, and an
// element of x meets all of them. A pack is read once, from memory, and meets all rows of x while it is in a cache.
// Where the processor multiplies pairs of bfloat16 (AVX-512 BF16), x stays in bfloat16 and codes become bfloat16,
// which holds them exactly; elsewhere, all is widened to float.

#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "vectors.h"

namespace {

// The weight of a linear layer; `native.Weight` is its twin. Packs of `lanes` outputs hold: plain float32,
// [size, lanes]; plain bfloat16 and int8, [size / 2, lanes, 2]; int4, for each 32 elements, codes [32, lanes / 2] with
// outputs of the first half in the low bits, and bfloat16 scales and offsets [lanes, 2].
struct Weight {
    const void* values;
    const void* scales;  // int8: [outputs], bfloat16; otherwise null
    const void* bias;    // [outputs], or null
    int64_t kind;        // 0 plain, 1 int8, 2 int4
    int64_t outputs, size;
    int64_t lanes;  // 64, 32 or 16
};

constexpr int64_t GROUP = 32;  // elements of a row that share a scale in 4 bits

// GCC 12 makes 40 instructions of widening a byte to four, so where one does it, it is named.
inline I load_codes(const int8_t* p) {
#ifdef __AVX512F__
    return (I)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    typedef int8_t B __attribute__((vector_size(16)));
    B codes;
    std::memcpy(&codes, p, sizeof codes);
    return __builtin_convertvector(codes, I);
#endif
}

inline I load_codes(const uint8_t* p) {
#ifdef __AVX512F__
    return (I)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    typedef uint8_t B __attribute__((vector_size(16)));
    B codes;
    std::memcpy(&codes, p, sizeof codes);
    return __builtin_convertvector(codes, I);
#endif
}

inline F load(const int8_t* p) { return __builtin_convertvector(load_codes(p), F); }

// Two elements of 16 outputs, or of a row of x for all lanes, and their products added to 16 sums.
struct Floats {
    typedef float Operand;  // what products read of x
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
        typedef int16_t S __attribute__((vector_size(32)));
        S both;
        std::memcpy(&both, pack, sizeof both);
        const I wide = __builtin_convertvector(both, I);
        return {__builtin_convertvector(wide << 24 >> 24, F), __builtin_convertvector(wide >> 8, F)};
    }
    static F add(F sums, Pair a, Pair b) { return sums + a.first * b.first + a.second * b.second; }
};

#ifdef __AVX512BF16__
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

// The first `count` values of a vector.
template <typename V>
inline F load_some(const V* p, int64_t count) {
    if (count == W) return load(p);
    V values[W] = {};
    std::memcpy(values, p, count * sizeof(V));
    return load(values);
}

// Where products go: [rows, outputs] with `stride` elements a row.
template <typename T>
struct Target {
    T* out;
    int64_t stride, outputs;
    bool adds;               // to what stands there
    const uint16_t* scales;  // of outputs, or null
    const T* bias;           // of outputs, or null

    // 16 outputs of one row, or those that there are; rounded as often as separate operations would.
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

// What a thread keeps between products.
template <typename T>
struct Scratch {
    std::vector<Operand<T>> x;        // rows in the form that products read
    std::vector<float> totals;        // of each group of each row
    std::vector<Operand<T>> widened;  // a pack's codes
};

// Rows of x as products read them: themselves, or widened into the scratch.
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

// Memory is slower than the processor guesses ahead: while rows meet a pack, they fetch the next one, evenly.
struct Fetch {
    const char* from;
    int64_t bytes;  // for each pair of elements
    void operator()(int64_t k) const {
        const char* piece = from + k / 2 * bytes;
        for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(piece + at);
    }
};

// A plain or int8 pack of 16 * PARTS outputs with ROWS rows of x.
template <typename T, int ROWS, int PARTS, typename V, typename To>
inline void multiply_pack(const V* pack, const Operand<T>* x, int64_t size, int64_t row, int64_t output, Fetch fetch,
                          const Target<To>& target) {
    typedef Arithmetic<T> A;
    F sums[ROWS][PARTS] = {};
    for (int64_t k = 0; k < size; k += 2, pack += 2 * PARTS * W) {
        fetch(k);
        typename A::Pair own[ROWS];
        for (int i = 0; i < ROWS; ++i) own[i] = A::of_row(x + (row + i) * size + k);
        for (int part = 0; part < PARTS; ++part) {
            const typename A::Pair values =
                A::of_pack(pack + (std::is_same_v<V, float> ? 1 : 2) * part * W, PARTS * W);
            for (int i = 0; i < ROWS; ++i) sums[i][part] = A::add(sums[i][part], values, own[i]);
        }
    }
    for (int i = 0; i < ROWS; ++i)
        for (int part = 0; part < PARTS; ++part) target.put(row + i, output + part * W, sums[i][part]);
}

// In 4 bits, a pair of bfloat16 holds 128 + code, which is the code behind the bits of 128.
template <typename T>
constexpr float SHIFT = std::is_same_v<Operand<T>, float> ? 8.f : 128.f + 8.f;

// Pairs of the codes that two elements of 32 outputs have: of the low bits, and of the high ones.
template <typename T>
inline void widen(I first, I second, typename Arithmetic<T>::Pair& low, typename Arithmetic<T>::Pair& high) {
    typedef Arithmetic<T> A;
    if constexpr (std::is_same_v<Operand<T>, float>) {
        low = A::of_codes(first & 15, second & 15), high = A::of_codes(first >> 4, second >> 4);
    } else {
        const I both = first | second << 16;
        low = (typename A::Pair)((both & 0x000F000F) | 0x43004300);
        high = (typename A::Pair)((both >> 4 & 0x000F000F) | 0x43004300);
    }
}

// Sums of one group's products, scaled and moved, to those of the groups before. `totals` are of x, a group apart.
template <typename T, int ROWS, int PARTS>
inline void add_group(F (&sums)[ROWS][PARTS], const F (&inner)[ROWS][PARTS], const uint8_t* scales, const float* totals,
                      int64_t groups) {
    for (int part = 0; part < PARTS; ++part, scales += sizeof(U)) {
        U pair;
        std::memcpy(&pair, scales, sizeof pair);
        const F scale = (F)(pair << 16), offset = (F)(pair & 0xFFFF0000u) - SHIFT<T> * scale;
        for (int i = 0; i < ROWS; ++i) {
            sums[i][part] += scale * inner[i][part];
            sums[i][part] += offset * totals[i * groups];
        }
    }
}

// The same for an int4 pack.
template <typename T, int ROWS, int PARTS>
inline void multiply_codes(const Weight& w, const uint8_t* codes, const Operand<T>* x, const float* totals, int64_t row,
                           int64_t output, Fetch fetch, const Target<T>& target) {
    typedef Arithmetic<T> A;
    constexpr int64_t HALF = PARTS * W / 2;
    const int64_t groups = w.size / GROUP;
    F sums[ROWS][PARTS] = {};
    for (int64_t group = 0; group < groups; ++group) {
        F inner[ROWS][PARTS] = {};
        for (int64_t k = group * GROUP; k < (group + 1) * GROUP; k += 2, codes += 2 * HALF) {
            fetch(k);
            typename A::Pair own[ROWS];
            for (int i = 0; i < ROWS; ++i) own[i] = A::of_row(x + (row + i) * w.size + k);
            for (int part = 0; part < PARTS / 2; ++part) {
                typename A::Pair low, high;
                widen<T>(load_codes(codes + part * W), load_codes(codes + HALF + part * W), low, high);
                for (int i = 0; i < ROWS; ++i) {
                    inner[i][part] = A::add(inner[i][part], low, own[i]);
                    inner[i][part + PARTS / 2] = A::add(inner[i][part + PARTS / 2], high, own[i]);
                }
            }
        }
        add_group<T>(sums, inner, codes, totals + row * groups + group, groups);
        codes += PARTS * sizeof(U);
    }
    for (int i = 0; i < ROWS; ++i)
        for (int part = 0; part < PARTS; ++part) target.put(row + i, output + part * W, sums[i][part]);
}

// The same once more, with codes widened for many rows: more rows at once find room in registers.
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
        add_group<T>(sums, inner, codes, totals + row * groups + group, groups);
        codes += PARTS * sizeof(U);
    }
    for (int i = 0; i < ROWS; ++i)
        for (int part = 0; part < PARTS; ++part) target.put(row + i, output + part * W, sums[i][part]);
}

// Calls some(number of rows as a type, first row, what to fetch) for all rows, TILE or less at once, with a pack.
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

// For more rows, the codes of a pack are widened once for all.
constexpr int64_t FEW = 12;

// Packs begin..end of a plain or int8 weight.
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

// The codes of an int4 pack as pairs: [size / 2, lanes, 2].
template <typename T, int PARTS>
void widen_pack(const uint8_t* codes, int64_t groups, std::vector<Operand<T>>& widened) {
    constexpr int64_t HALF = PARTS * W / 2;
    widened.resize(groups * GROUP * 2 * HALF);
    Operand<T>* to = widened.data();
    for (int64_t group = 0; group < groups; ++group, codes += PARTS * sizeof(U))
        for (int64_t k = 0; k < GROUP; k += 2, codes += 2 * HALF, to += 4 * HALF)
            for (int64_t part = 0; part < PARTS / 2; ++part) {
                typename Arithmetic<T>::Pair low, high;
                widen<T>(load_codes(codes + part * W), load_codes(codes + HALF + part * W), low, high);
                std::memcpy(to + 2 * part * W, &low, sizeof low);
                std::memcpy(to + 2 * (HALF + part * W), &high, sizeof high);
            }
}

// Packs begin..end of an int4 weight.
template <typename T, int PARTS>
void multiply_code_packs(const Weight& w, const Operand<T>* x, int64_t rows, int64_t begin, int64_t end,
                         Scratch<T>& scratch, const Target<T>& target) {
    const int64_t groups = w.size / GROUP, bytes = PARTS * W * groups * (GROUP / 2 + sizeof(uint32_t));
    scratch.totals.resize(rows * groups);
    for (int64_t group = 0; group < rows * groups; ++group)
        scratch.totals[group] = sum(load(x + group * GROUP) + load(x + group * GROUP + W));
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

// x [rows, size] with packs begin..end of a weight: into `out`, of `stride` elements a row, or added to it.
template <typename T>
void multiply(const Weight& w, const T* x, int64_t rows, int64_t begin, int64_t end, T* out, int64_t stride, bool adds,
              Scratch<T>& scratch) {
    // Rows that a thread widens for itself must not fill the memory.
    constexpr int64_t MOST = std::is_same_v<T, Operand<T>> ? INT64_MAX : 192;
    const uint16_t* scales = w.kind == 1 ? static_cast<const uint16_t*>(w.scales) : nullptr;
    for (int64_t row = 0; row < rows; row += std::min(MOST, rows)) {
        const int64_t some = std::min(MOST, rows - row);
        const Target<T> target{out + row * stride, stride, w.outputs, adds, scales, static_cast<const T*>(w.bias)};
        const Operand<T>* read = operands(x + row * w.size, some * w.size, scratch);
        if (w.lanes == 64)
            multiply_parts<T, 4>(w, read, some, begin, end, scratch, target);
        else if (w.lanes == 32)
            multiply_parts<T, 2>(w, read, some, begin, end, scratch, target);
        else
            multiply_parts<T, 1>(w, read, some, begin, end, scratch, target);
    }
}

// Of `packs` that threads share: where this thread's begin, or with `part` 1 the next one's.
inline int64_t share(int64_t packs, int64_t thread, int64_t threads, int64_t part) {
    return packs * (thread + part) / threads;
}

inline int64_t packs_of(const Weight& w) { return (w.outputs + w.lanes - 1) / w.lanes; }

// x [rows, size] with a whole weight: [rows, outputs]. Threads share the packs; or many rows, if packs do not come out
// even.
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

// Rows of a plain or int8 weight as they were before they were packed: [count, size].
template <typename T, typename V>
void unpack_rows(const Weight& w, const int64_t* ids, T* out, int64_t count) {
    const uint16_t* scales = static_cast<const uint16_t*>(w.scales);
    // Of two elements that follow each other in a row, in the pack: of float32, the other outputs' stand between them.
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
