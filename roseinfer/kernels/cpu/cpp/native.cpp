// CPU counterparts of the Triton kernels, each in one pass, and all layers of a decode step as one call.
//
// The Python modules that call a function document its shapes and have its reference in torch. Callers guarantee that
// row sizes are multiples of 16, and that a step has at least one row.

#include <algorithm>

#include "attention.h"
#include "elementwise.h"
#include "prefill.h"
#include "products.h"
#include "tile_attention.h"
#include "tile_products.h"

namespace {

// One layer's weights and cache: `LayerStruct` in native_step.py.
struct Layer {
    const void *attention_norm, *mlp_norm, *q_norm, *k_norm;
    const void* rope_table;  // [max_positions, head_dim]: cosines, then sines; null without rotary positions
    void *keys, *values;     // [num_blocks, block_size, kv_heads, head_dim]
    Scoring scoring;
    Weight qkv, output, gate_up, down;
};

// A decode step: one new token per row. `StepStruct` in native_step.py must have the same fields.
struct Step {
    const Layer* layers;
    void* stream;  // [rows, hidden]: residual stream, at first the embeddings
    const int64_t *positions, *slots;
    const int32_t *block_tables, *context_lens;
    void *qkv, *attended, *gate_up, *active;  // buffers between the parts of a layer
    int64_t rows, hidden, intermediate, heads, kv_heads, head_dim, table_stride, block_size;
    int64_t largest_window;  // over all layers; 0 if a layer has none
    float eps;
};

enum Part { QKV, APPEND, ATTENTION, OUTPUT, GATE_UP, DOWN, PARTS };

// Run parts [begin, end), counted over all layers. All threads run the same sequence of parts, and synchronize after
// each part whose results other threads need.
template <typename T>
void decode_layers(const Step& s, int64_t begin, int64_t end) {
    const int64_t rows = s.rows, hidden = s.hidden, intermediate = s.intermediate, head_dim = s.head_dim;
    const int64_t sharing = s.heads / s.kv_heads, slot_stride = s.kv_heads * head_dim;
    const int64_t query = s.heads * head_dim, projected = query + 2 * slot_stride;
    T *stream = static_cast<T*>(s.stream), *qkv = static_cast<T*>(s.qkv), *attended = static_cast<T*>(s.attended);
    T *gate_up = static_cast<T*>(s.gate_up), *active = static_cast<T*>(s.active);
    int64_t longest = 0;  // longest context attended to, rounded up to whole vectors
    const auto first_of = [&](int64_t row, int64_t window) { return first_in_window(s.context_lens[row], window); };
    const auto widest = [&](int64_t row) { return first_of(row, s.largest_window); };
    for (int64_t row = 0; row < rows; ++row) longest = std::max(longest, s.context_lens[row] - widest(row));
    longest = (longest + W - 1) / W * W;
    const int64_t slots_stride = longest + W;
    std::vector<int32_t> slots(rows * slots_stride);
#pragma omp parallel
    {
        const int64_t thread = thread_number(), threads = thread_count();
        std::vector<float> scores(sharing * longest);
        std::vector<T> normed(rows * hidden);
        Scratch<T> scratch;
        const auto produce = [&](const Weight& w, const T* x, T* out, bool adds) {
            const int64_t packs = packs_of(w);
            multiply(w, x, rows, share(packs, thread, threads, 0), share(packs, thread, threads, 1), out, w.outputs, adds,
                     scratch);
        };
        const auto norm = [&](const void* weight) {
            for (int64_t row = 0; row < rows; ++row)
                rms_norm_row<T>(stream + row * hidden, nullptr, static_cast<const T*>(weight), nullptr,
                                normed.data() + row * hidden, hidden, s.eps);
            return normed.data();
        };
#pragma omp for
        for (int64_t row = 0; row < rows; ++row) {
            int32_t* own = slots.data() + row * slots_stride;
            const int64_t count = s.context_lens[row] - widest(row), whole = (count + W - 1) / W * W;
            find_slots(s.block_tables + row * s.table_stride, widest(row), s.context_lens[row], s.block_size, own);
            // A layer with a smaller window starts inside a vector, and so reads past the last whole one.
            if (whole > 0) std::fill(own + whole, own + whole + W, own[whole - 1]);
        }
        for (int64_t part = begin; part < end; ++part) {
            const Layer& layer = s.layers[part / PARTS];
            switch (part % PARTS) {
                case QKV:
                    produce(layer.qkv, norm(layer.attention_norm), qkv, false);
                    break;
                case APPEND: {
                    const T* table = static_cast<const T*>(layer.rope_table);
                    for (int64_t unit = thread; unit < rows * s.kv_heads; unit += threads) {
                        const int64_t row = unit / s.kv_heads, kv_head = unit % s.kv_heads;
                        T* own = qkv + row * projected;
                        turn_and_append(own, own, static_cast<T*>(layer.keys), static_cast<T*>(layer.values),
                                        static_cast<const T*>(layer.q_norm), static_cast<const T*>(layer.k_norm),
                                        table == nullptr ? nullptr : table + s.positions[row] * head_dim, kv_head,
                                        s.kv_heads, sharing, s.slots[row], slot_stride, head_dim, s.eps);
                    }
                    break;
                }
                case ATTENTION:
                    for (int64_t unit = thread; unit < rows * s.kv_heads; unit += threads) {
                        const int64_t row = unit / s.kv_heads, kv_head = unit % s.kv_heads;
                        const int64_t heads = kv_head * sharing * head_dim, first = first_of(row, layer.scoring.window);
                        attend_for<T>(head_dim)(qkv + row * projected + heads,
                                                static_cast<const T*>(layer.keys) + kv_head * head_dim,
                                                static_cast<const T*>(layer.values) + kv_head * head_dim,
                                                slots.data() + row * slots_stride + first - widest(row),
                                                attended + row * query + heads, scores.data(),
                                                s.context_lens[row] - first, sharing, head_dim, slot_stride,
                                                layer.scoring);
                    }
                    break;
                case OUTPUT:
                    produce(layer.output, attended, stream, true);
                    break;
                case GATE_UP: {
                    const Weight& w = layer.gate_up;
                    const T* x = norm(layer.mlp_norm);
                    // Each thread computes the same share of gates and ups, so it can activate them without waiting.
                    const int64_t packs = intermediate / w.lanes;
                    const int64_t begin_pack = share(packs, thread, threads, 0), end_pack = share(packs, thread, threads, 1);
                    for (const int64_t half : {int64_t{0}, packs})
                        multiply(w, x, rows, half + begin_pack, half + end_pack, gate_up, 2 * intermediate, false, scratch);
                    const int64_t first = begin_pack * w.lanes, last = end_pack * w.lanes;
                    for (int64_t row = 0; row < rows; ++row) {
                        const T *gate = gate_up + row * 2 * intermediate, *up = gate + intermediate;
                        for (int64_t i = first; i < last; i += W)
                            store(active + row * intermediate + i, gated(gate + i, up + i));
                    }
                    break;
                }
                case DOWN:
                    produce(layer.down, active, stream, true);
                    break;
            }
            // Attention reads only what the same thread has appended: no barrier before it.
            if (part % PARTS == APPEND && part + 1 < end) continue;
#pragma omp barrier
        }
    }
}

// Many rows of bfloat16 are multiplied by tiles, if the processor has them.
template <typename T>
void linear_by_rows(const Weight& w, const T* x, T* out, int64_t rows) {
    if constexpr (std::is_same_v<T, uint16_t>)
        if (rows >= LEAST_TILE_ROWS && uses_tiles()) return tile_linear(w, x, out, rows);
    linear(w, x, out, rows);
}

// Prompts of bfloat16 are attended to by tiles, if the processor has them.
template <typename T, typename... Arguments>
void prefill_by_mode(const T* q, Arguments... arguments) {
    if constexpr (std::is_same_v<T, uint16_t>)
        if (uses_tiles()) return prefill_attention<ByTiles>(q, arguments...);
    prefill_attention<ByPacks<T>>(q, arguments...);
}

}  // namespace

// Exported functions: the name of a template, followed by `_float32` or `_bfloat16`. The compiler runs once per type.
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
    extern "C" void paged_decode_attention_##NAME(                                                                     \
        const T* q, const T* keys, const T* values, const int32_t* tables, const int32_t* lengths, T* out,             \
        int64_t requests, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t table_stride, int64_t block_size, \
        int64_t slot_stride, const Scoring* scoring) {                                                                 \
        paged_decode_attention(q, keys, values, tables, lengths, out, requests, heads, kv_heads, head_dim,             \
                               table_stride, block_size, slot_stride, *scoring);                                       \
    }                                                                                                                  \
    extern "C" void paged_prefill_attention_##NAME(                                                                    \
        const T* q, const T* keys, const T* values, const int32_t* tables, const int32_t* starts,                      \
        const int32_t* lengths, T* out, int64_t requests, int64_t heads, int64_t kv_heads, int64_t head_dim,           \
        int64_t table_stride, int64_t block_size, int64_t slot_stride, const Scoring* scoring) {                       \
        prefill_by_mode(q, keys, values, tables, starts, lengths, out, requests, heads, kv_heads, head_dim,            \
                        table_stride, block_size, slot_stride, *scoring);                                              \
    }                                                                                                                  \
    extern "C" void linear_##NAME(const Weight* weight, const T* x, T* out, int64_t rows) {                            \
        linear_by_rows(*weight, x, out, rows);                                                                         \
    }                                                                                                                  \
    extern "C" void table_rows_##NAME(const Weight* weight, const int64_t* ids, T* out, int64_t count) {               \
        table_rows(*weight, ids, out, count);                                                                          \
    }                                                                                                                  \
    extern "C" void argmax_##NAME(const T* x, int64_t* out, int64_t rows, int64_t size, int64_t stride) {              \
        argmax(x, out, rows, size, stride);                                                                            \
    }                                                                                                                  \
    extern "C" void set_tile_mode_##NAME(int64_t mode, int64_t* uses) {                                                 \
        tile_mode = static_cast<TileMode>(mode);                                                                       \
        *uses = uses_tiles();                                                                                          \
    }                                                                                                                  \
    extern "C" void decode_layers_##NAME(const Step* step, int64_t begin, int64_t end) {                               \
        decode_layers<T>(*step, begin, end);                                                                           \
    }

#ifdef FLOAT32
ENTRIES(float, float32)
#endif
#ifdef BFLOAT16
ENTRIES(uint16_t, bfloat16)
#endif
