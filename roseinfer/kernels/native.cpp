// The CPU's counterparts of the Triton kernels: what stands between a step's matrix products, each in one pass.
//
// Every function has a reference in torch in the Python file of the same name, which says what shapes mean. Values are
// float or bfloat16 (its bits as uint16_t); all arithmetic is in float, rounded once. Sizes of rows that are walked
// are multiples of 16: the callers see to it. Vectors are the compiler's own extension, so any target works.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int64_t W = 16;  // lanes
typedef float F __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint16_t H __attribute__((vector_size(32)));

// Below so many elements, a second thread costs more than it brings.
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
    const U bits = (U)value, is_nan = (U)(value != value);
    const U rounded = bits + 0x7FFF + ((bits >> 16) & 1);  // to nearest, ties to even
    const H high = __builtin_convertvector(((rounded & ~is_nan) | (0x7FC00000u & is_nan)) >> 16, H);
    std::memcpy(p, &high, sizeof high);
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

// Cephes' expf: 2^n times a polynomial, within 2 units in the last place.
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

template <typename T>
void rms_norm_row(const T* x, const T* residual, const T* weight, T* total, T* out, int64_t size, float eps) {
    F squares{};
    for (int64_t i = 0; i < size; i += W) {
        F value = load(x + i);
        if (residual != nullptr) {
            store(total + i, value + load(residual + i));
            value = load(total + i);
        }
        squares += value * value;
    }
    const float scale = 1.f / std::sqrt(sum(squares) / size + eps);
    const T* source = residual == nullptr ? x : total;
    for (int64_t i = 0; i < size; i += W) store(out + i, load(source + i) * scale * load(weight + i));
}

template <typename T>
void add_rms_norm(const T* x, const T* residual, const T* weight, T* total, T* out, int64_t rows, int64_t size,
                  int64_t x_stride, int64_t residual_stride, float eps) {
#pragma omp parallel for if (rows * size >= PARALLEL)
    for (int64_t row = 0; row < rows; ++row)
        rms_norm_row(x + row * x_stride, residual == nullptr ? nullptr : residual + row * residual_stride, weight,
                     total == nullptr ? nullptr : total + row * size, out + row * size, size, eps);
}

template <typename T>
void silu_and_mul(const T* gate_up, T* out, int64_t rows, int64_t size, int64_t stride) {
#pragma omp parallel for if (rows * size >= PARALLEL)
    for (int64_t row = 0; row < rows; ++row) {
        const T *gate = gate_up + row * stride, *up = gate + size;
        for (int64_t i = 0; i < size; i += W) {
            const F value = load(gate + i);
            store(out + row * size + i, value / (1.f + exponential(-value)) * load(up + i));
        }
    }
}

// A query's or key's head: its norm where it has one, then its rotation where there are positions.
template <typename T>
inline void turn_head(const T* in, T* out, const T* norm, const T* turn, int64_t head_dim, float eps) {
    const int64_t half = head_dim / 2;
    float scale = 1.f;
    if (norm != nullptr) {
        F squares{};
        for (int64_t i = 0; i < head_dim; i += W) squares += load(in + i) * load(in + i);
        scale = 1.f / std::sqrt(sum(squares) / head_dim + eps);
    }
    for (int64_t i = 0; i < half; i += W) {
        F first = load(in + i) * scale, second = load(in + half + i) * scale;
        if (norm != nullptr) {
            first *= load(norm + i);
            second *= load(norm + half + i);
        }
        if (turn != nullptr) {
            const F cosine = load(turn + i), sine = load(turn + half + i), kept = first;
            first = first * cosine - second * sine;
            second = second * cosine + kept * sine;
        }
        store(out + i, first);
        store(out + half + i, second);
    }
}

template <typename T>
void rope_append(const T* qkv, const T* table, const int64_t* positions, const int64_t* slots, T* keys, T* values,
                 const T* q_norm, const T* k_norm, T* q, int64_t tokens, int64_t heads, int64_t kv_heads,
                 int64_t head_dim, int64_t qkv_stride, int64_t slot_stride, float eps) {
    const int64_t all_heads = heads + 2 * kv_heads;
#pragma omp parallel for if (tokens * all_heads * head_dim >= PARALLEL)
    for (int64_t token = 0; token < tokens; ++token) {
        const T* row = qkv + token * qkv_stride;
        for (int64_t head = 0; head < all_heads; ++head) {
            const T* in = row + head * head_dim;
            const bool is_q = head < heads, is_v = head >= heads + kv_heads;
            if (!is_q && slots[token] < 0) continue;
            T* out = is_q   ? q + (token * heads + head) * head_dim
                     : is_v ? values + slots[token] * slot_stride + (head - heads - kv_heads) * head_dim
                            : keys + slots[token] * slot_stride + (head - heads) * head_dim;
            if (is_v)
                std::memcpy(out, in, head_dim * sizeof(T));
            else
                turn_head(in, out, is_q ? q_norm : k_norm,
                          table == nullptr ? nullptr : table + positions[token] * head_dim, head_dim, eps);
        }
    }
}

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

// How the weight of a linear layer is kept; `native.Weight` is its twin.
struct Weight {
    const void* values;  // plain: [outputs, size]; int8: the same, as codes; int4: in packs of 2 x `half` outputs
    const void* scales;  // int8: [outputs]; int4: with offsets, [size / 32, outputs, 2]; bfloat16
    const void* bias;    // [outputs], or null
    int64_t kind;        // 0 plain, 1 int8, 2 int4
    int64_t outputs, size;
    int64_t half;
};

struct Layer {
    const void *attention_norm, *mlp_norm, *q_norm, *k_norm;
    void *keys, *values;  // [num_blocks, block_size, kv_heads, head_dim]
    Weight qkv, output, gate_up, down;
};

constexpr int64_t GROUP = 32;  // elements of a row that share a scale in 4 bits
constexpr int64_t UNIT = 64;   // outputs of a weight that stay in the cache for all rows of x; a multiple of every pack

inline float as_float(float value) { return value; }

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

// ROWS rows of x with COUNT rows of a weight at once: each is loaded once for all of the other.
template <int ROWS, int COUNT, typename V>
inline void products(const V* weight, const float* x, int64_t size, float (&out)[COUNT][ROWS]) {
    F sums[COUNT][ROWS] = {};
    for (int64_t i = 0; i < size; i += W) {
        F part[ROWS];
        for (int row = 0; row < ROWS; ++row) part[row] = load(x + row * size + i);
        for (int j = 0; j < COUNT; ++j) {
            // Memory is slower than the processor guesses ahead: ask for what comes two rounds later.
            __builtin_prefetch(weight + (j + 2 * COUNT) * size + i);
            const F values = load(weight + j * size + i);
            for (int row = 0; row < ROWS; ++row) sums[j][row] += values * part[row];
        }
    }
    for (int j = 0; j < COUNT; ++j)
        for (int row = 0; row < ROWS; ++row) out[j][row] = sum(sums[j][row]);
}

// Outputs begin..end of a plain or int8 weight, for ROWS rows of x; each goes to emit(row, output, value).
template <int ROWS, typename V, typename Emit>
void multiply_rows(const Weight& w, const float* x, int64_t begin, int64_t end, Emit emit) {
    const V* values = static_cast<const V*>(w.values);
    int64_t output = begin;
    for (; output + 4 <= end; output += 4) {
        float out[4][ROWS];
        products<ROWS, 4>(values + output * w.size, x, w.size, out);
        for (int j = 0; j < 4; ++j)
            for (int row = 0; row < ROWS; ++row) emit(row, output + j, out[j][row]);
    }
    for (; output < end; ++output) {
        float out[1][ROWS];
        products<ROWS, 1>(values + output * w.size, x, w.size, out);
        for (int row = 0; row < ROWS; ++row) emit(row, output, out[0][row]);
    }
}

// The same for an int4 weight, begin and end at packs: lanes are outputs, as its packs have it.
template <int ROWS, int PARTS, typename Emit>
void multiply_packs(const Weight& w, const float* x, int64_t begin, int64_t end, Emit emit) {
    constexpr int64_t HALF = PARTS * W / 2;
    const uint8_t* codes = static_cast<const uint8_t*>(w.values) + begin / 2 * w.size;
    const uint32_t* pairs = static_cast<const uint32_t*>(w.scales);
    for (int64_t output = begin; output < end; output += 2 * HALF) {
        F sums[ROWS][PARTS] = {};
        for (int64_t start = 0; start < w.size; start += GROUP) {
            F group[ROWS][PARTS] = {};
            float total[ROWS] = {};
            for (int64_t k = start; k < start + GROUP; ++k, codes += HALF) {
                __builtin_prefetch(codes + 4096);
                for (int part = 0; part < PARTS / 2; ++part) {
                    const I wide = load_codes(codes + part * W);
                    const F low = __builtin_convertvector(wide & 15, F), high = __builtin_convertvector(wide >> 4, F);
                    for (int row = 0; row < ROWS; ++row) {
                        group[row][part] += low * x[row * w.size + k];
                        group[row][part + PARTS / 2] += high * x[row * w.size + k];
                    }
                }
                for (int row = 0; row < ROWS; ++row) total[row] += x[row * w.size + k];
            }
            for (int part = 0; part < PARTS; ++part) {
                U pair;
                std::memcpy(&pair, pairs + start / GROUP * w.outputs + output + part * W, sizeof pair);
                const F scale = (F)(pair << 16), offset = (F)(pair & 0xFFFF0000u);
                for (int row = 0; row < ROWS; ++row)
                    sums[row][part] += scale * (group[row][part] - 8.f * total[row]) + offset * total[row];
            }
        }
        for (int row = 0; row < ROWS; ++row)
            for (int part = 0; part < PARTS; ++part)
                for (int64_t lane = 0; lane < W; ++lane) emit(row, output + part * W + lane, sums[row][part][lane]);
    }
}

template <typename T, int ROWS, typename Emit>
void multiply_few(const Weight& w, const float* x, int64_t begin, int64_t end, Emit emit) {
    const T* bias = static_cast<const T*>(w.bias);
    const uint16_t* scales = static_cast<const uint16_t*>(w.scales);
    const auto shifted = [&](int row, int64_t output, float value) {
        emit(row, output, bias == nullptr ? value : as_float(rounded<T>(value)) + as_float(bias[output]));
    };
    if (w.kind == 0)
        multiply_rows<ROWS, T>(w, x, begin, end, shifted);
    else if (w.kind == 1)
        multiply_rows<ROWS, int8_t>(w, x, begin, end, [&](int row, int64_t output, float value) {
            shifted(row, output, value * as_float(scales[output]));
        });
    else if (w.half == 32)
        multiply_packs<ROWS, 4>(w, x, begin, end, shifted);
    else
        multiply_packs<ROWS, 2>(w, x, begin, end, shifted);
}

// x [rows, size] with outputs begin..end of a weight.
template <typename T, typename Emit>
void multiply(const Weight& w, const float* x, int64_t rows, int64_t begin, int64_t end, Emit emit) {
    for (int64_t at = begin; at < end; at += UNIT) {  // few enough outputs to stay in the cache for the next rows
        const int64_t stop = at + UNIT < end ? at + UNIT : end;
        int64_t row = 0;
        const auto placed = [&](int inner, int64_t output, float value) { emit(row + inner, output, value); };
        for (; row + 4 <= rows; row += 4) multiply_few<T, 4>(w, x + row * w.size, at, stop, placed);
        for (; row + 2 <= rows; row += 2) multiply_few<T, 2>(w, x + row * w.size, at, stop, placed);
        for (; row < rows; ++row) multiply_few<T, 1>(w, x + row * w.size, at, stop, placed);
    }
}

// The decoder's layers, one new token a row. All threads walk through one program, and wait for each other where a
// part needs all of the part before.
template <typename T>
void decode_layers(const Layer* layers, int64_t num_layers, T* stream, const T* table, const int64_t* positions,
                   const int64_t* slots, const int32_t* tables, const int32_t* lengths, int64_t rows, int64_t hidden,
                   int64_t intermediate, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t table_stride,
                   int64_t block_size, int64_t window, float eps, float scale) {
    const int64_t sharing = heads / kv_heads, slot_stride = kv_heads * head_dim, block_stride = block_size * slot_stride;
    const int64_t query = heads * head_dim, projected = query + 2 * slot_stride;
    const int64_t widest = query > intermediate ? (query > hidden ? query : hidden)
                                                : (intermediate > hidden ? intermediate : hidden);
    int64_t longest = 0;
    for (int64_t row = 0; row < rows; ++row) longest = lengths[row] > longest ? lengths[row] : longest;
    std::vector<T> qkv(rows * projected), attended(rows * query), gate_up(rows * 2 * intermediate);
    std::vector<T> active(rows * intermediate);
#pragma omp parallel
    {
#ifdef _OPENMP
        const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
#else
        const int64_t thread = 0, threads = 1;
#endif
        std::vector<float> x(rows * widest), scores(sharing * (longest + W));
        std::vector<T> turned(sharing * head_dim), normed(hidden);
        // Where this thread's outputs begin, or with `part` 1 the next one's. Packs are not cut.
        const auto share = [&](const Weight& w, int64_t outputs, int64_t part) {
            const int64_t unit = w.kind == 2 ? UNIT : W, units = (outputs + unit - 1) / unit;
            const int64_t stop = units * (thread + part) / threads * unit;
            return stop < outputs ? stop : outputs;
        };
        const auto widen = [&](const T* source, int64_t size) {
            for (int64_t i = 0; i < rows * size; i += W) store(x.data() + i, load(source + i));
        };
        const auto norm = [&](const void* weight) {
            for (int64_t row = 0; row < rows; ++row) {
                const T* source = stream + row * hidden;
                rms_norm_row<T>(source, nullptr, static_cast<const T*>(weight), nullptr, normed.data(), hidden, eps);
                for (int64_t i = 0; i < hidden; i += W) store(x.data() + row * hidden + i, load(normed.data() + i));
            }
        };
        const auto add = [&](const Weight& w) {
            multiply<T>(w, x.data(), rows, share(w, hidden, 0), share(w, hidden, 1), [&](int64_t row, int64_t i, float value) {
                T* place = stream + row * hidden + i;
                *place = rounded<T>(as_float(*place) + as_float(rounded<T>(value)));
            });
        };
        for (int64_t index = 0; index < num_layers; ++index) {
            const Layer& layer = layers[index];
            norm(layer.attention_norm);
            multiply<T>(layer.qkv, x.data(), rows, share(layer.qkv, projected, 0), share(layer.qkv, projected, 1),
                        [&](int64_t row, int64_t i, float value) { qkv[row * projected + i] = rounded<T>(value); });
#pragma omp barrier
            for (int64_t unit = thread; unit < rows * kv_heads; unit += threads) {
                const int64_t row = unit / kv_heads, kv_head = unit % kv_heads;
                const T *own = qkv.data() + row * projected, *turn = table + positions[row] * head_dim;
                const T* q = own + kv_head * sharing * head_dim;
                T *keys = static_cast<T*>(layer.keys) + kv_head * head_dim;
                T *values = static_cast<T*>(layer.values) + kv_head * head_dim;
                for (int64_t head = 0; head < sharing; ++head)
                    turn_head(q + head * head_dim, turned.data() + head * head_dim,
                              static_cast<const T*>(layer.q_norm), turn, head_dim, eps);
                turn_head(own + query + kv_head * head_dim, keys + slots[row] * slot_stride,
                          static_cast<const T*>(layer.k_norm), turn, head_dim, eps);
                std::memcpy(values + slots[row] * slot_stride, own + query + slot_stride + kv_head * head_dim,
                            head_dim * sizeof(T));
                const int64_t length = lengths[row], first = window > 0 && length > window ? length - window : 0;
                auto chosen = head_dim == 64 ? attend<T, 64> : head_dim == 128 ? attend<T, 128> : attend<T, 0>;
                chosen(turned.data(), keys, values, tables + row * table_stride,
                       attended.data() + row * query + kv_head * sharing * head_dim, scores.data(), first, length,
                       sharing, head_dim, block_size, block_stride, slot_stride, scale);
            }
#pragma omp barrier
            widen(attended.data(), query);
            add(layer.output);
#pragma omp barrier
            norm(layer.mlp_norm);
            const int64_t begin = share(layer.gate_up, intermediate, 0), end = share(layer.gate_up, intermediate, 1);
            const auto keep = [&](int64_t row, int64_t i, float value) {
                gate_up[row * 2 * intermediate + i] = rounded<T>(value);
            };
            multiply<T>(layer.gate_up, x.data(), rows, begin, end, keep);
            multiply<T>(layer.gate_up, x.data(), rows, intermediate + begin, intermediate + end, keep);
            for (int64_t row = 0; row < rows; ++row) {
                const T *gate = gate_up.data() + row * 2 * intermediate, *up = gate + intermediate;
                for (int64_t i = begin; i < end; i += W) {
                    const F value = load(gate + i);
                    store(active.data() + row * intermediate + i,
                          value / (1.f + exponential(-value)) * load(up + i));
                }
            }
#pragma omp barrier
            widen(active.data(), intermediate);
            add(layer.down);
#pragma omp barrier
        }
    }
}

}  // namespace

// One entry a dtype, under the name of the template with `_float32` or `_bfloat16` behind it.
#define ENTRIES(T, NAME)                                                                                               \
    extern "C" void add_rms_norm_##NAME(const T* x, const T* residual, const T* weight, T* total, T* out,              \
                                        int64_t rows, int64_t size, int64_t x_stride, int64_t residual_stride,         \
                                        float eps) {                                                                   \
        add_rms_norm(x, residual, weight, total, out, rows, size, x_stride, residual_stride, eps);                     \
    }                                                                                                                  \
    extern "C" void silu_and_mul_##NAME(const T* gate_up, T* out, int64_t rows, int64_t size, int64_t stride) {        \
        silu_and_mul(gate_up, out, rows, size, stride);                                                                \
    }                                                                                                                  \
    extern "C" void rope_append_##NAME(const T* qkv, const T* table, const int64_t* positions, const int64_t* slots,   \
                                       T* keys, T* values, const T* q_norm, const T* k_norm, T* q, int64_t tokens,     \
                                       int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t qkv_stride,          \
                                       int64_t slot_stride, float eps) {                                               \
        rope_append(qkv, table, positions, slots, keys, values, q_norm, k_norm, q, tokens, heads, kv_heads, head_dim,  \
                    qkv_stride, slot_stride, eps);                                                                     \
    }                                                                                                                  \
    extern "C" void decode_layers_##NAME(                                                                              \
        const void* layers, int64_t num_layers, T* stream, const T* table, const int64_t* positions,                   \
        const int64_t* slots, const int32_t* tables, const int32_t* lengths, int64_t rows, int64_t hidden,             \
        int64_t intermediate, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t table_stride,                 \
        int64_t block_size, int64_t window, float eps, float scale) {                                                  \
        decode_layers(static_cast<const Layer*>(layers), num_layers, stream, table, positions, slots, tables, lengths, \
                      rows, hidden, intermediate, heads, kv_heads, head_dim, table_stride, block_size, window, eps,    \
                      scale);                                                                                          \
    }                                                                                                                  \
    extern "C" void paged_decode_attention_##NAME(                                                                     \
        const T* q, const T* keys, const T* values, const int32_t* tables, const int32_t* lengths, T* out,             \
        int64_t requests, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t table_stride, int64_t block_size,   \
        int64_t block_stride, int64_t slot_stride, int64_t window, float scale) {                                      \
        paged_decode_attention(q, keys, values, tables, lengths, out, requests, heads, kv_heads, head_dim, table_stride, \
                               block_size, block_stride, slot_stride, window, scale);                                  \
    }

ENTRIES(float, float32)
ENTRIES(uint16_t, bfloat16)
