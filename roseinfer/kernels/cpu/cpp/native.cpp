// CPU counterparts of the Triton kernels, each in one pass, and all layers of a decode step as one call.
//
// The Python modules that call a function document its shapes and have its reference in torch. Callers guarantee that
// row sizes are multiples of 16, and that a step has at least one row.

#include <algorithm>

#include "attention.h"
#include "decode_layers.h"
#include "elementwise.h"
#include "experts.h"
#include "prefill.h"
#include "products.h"
#include "tile_attention.h"
#include "tile_products.h"

namespace {

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
    extern "C" void route_##NAME(const Router* router, const T* x, int32_t* chosen, float* weights, int64_t tokens,     \
                                 int64_t experts, int64_t size, int64_t top_k) {                                       \
        route(*router, x, chosen, weights, tokens, experts, size, top_k);                                              \
    }                                                                                                                  \
    extern "C" void experts_mlp_##NAME(const Experts* experts, const T* x, const int32_t* chosen,                      \
                                       const float* weights, T* out, int64_t tokens) {                                 \
        experts_mlp(*experts, x, chosen, weights, out, tokens);                                                        \
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
