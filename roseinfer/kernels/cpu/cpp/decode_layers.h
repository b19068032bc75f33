// All layers of a decode step as one call, for decoders whose layers have attention and an MLP or experts: norms before
// them, after them, or both; attention and MLP one after the other, or side by side.

#pragma once

#include <algorithm>
#include <vector>

#include "attention.h"
#include "elementwise.h"
#include "experts.h"
#include "products.h"

namespace {

// A norm over the hidden size: `NormStruct` in native_step.py.
struct Norm {
    const void *weight, *bias;  // [hidden]; null: no norm, no bias
    int64_t centered;           // 1: layer norm, 0: RMS norm
};

// One layer's weights and cache: `LayerStruct` in native_step.py.
struct Layer {
    Norm attention_norm, mlp_norm;    // before attention and MLP
    Norm after_attention, after_mlp;  // after them, before their results are added to the stream
    const void *q_norm, *k_norm;      // of each head, or of all heads together; null: none
    const void* rope_table;           // [max_positions, head_dim]: cosines, then sines; null without rotary positions
    void *keys, *values;              // [num_blocks, block_size, kv_heads, head_dim]
    int64_t group;                    // group of layers whose block tables the layer reads
    Scoring scoring;
    Weight qkv, output;
    Weight gate_up, down;  // without a gate, gate_up is the MLP's first matrix
    Router router;
    Experts experts;  // instead of the MLP, if their count is not 0
};

// Layers that share block tables and have the same window: `GroupStruct` in native_step.py.
struct Group {
    const int64_t* slots;         // [rows]
    const int32_t* block_tables;  // [rows, table_stride]
    int64_t window;               // 0: none
};

// A decode step: one new token per row. `StepStruct` in native_step.py must have the same fields.
struct Step {
    const Layer* layers;
    const Group* groups;
    void* stream;  // [rows, hidden]: residual stream, at first the embeddings
    const int64_t* positions;
    const int32_t* context_lens;
    void *qkv, *attended, *gate_up, *active, *added;  // buffers between the parts of a layer
    int32_t* chosen;                                  // [rows, top_k]: each row's experts
    float* chosen_weights;                            // [rows, top_k]
    int64_t rows, hidden, intermediate, heads, kv_heads, head_dim, table_stride, block_size;
    int64_t num_groups;
    int64_t activation;   // `Activation` in elementwise.h
    int64_t gated;        // 1: the MLP has a gate
    int64_t parallel;     // 1: the MLP reads the stream without the result of attention
    int64_t joint_norms;  // 1: q_norm and k_norm are over all heads of a token together
    float eps;
    float residual_scale;  // factor on the results of attention and MLP
};

enum Part { QKV, APPEND, ATTENTION, OUTPUT, GATE_UP, DOWN, PARTS, ROUTE, EXPERTS };

// A layer's experts run in the place of its MLP: SPARSE_PARTS in native_step.py.
inline Part part_of(const Layer& layer, Part part) {
    if (layer.experts.count == 0 || (part != GATE_UP && part != DOWN)) return part;
    return part == GATE_UP ? ROUTE : EXPERTS;
}

// Order of the parts if attention and MLP are side by side: the stream is not changed before the MLP has read it.
// PARALLEL_PARTS in native_step.py.
constexpr Part SIDE_BY_SIDE[PARTS] = {QKV, APPEND, ATTENTION, GATE_UP, OUTPUT, DOWN};

template <typename T>
inline void norm_row(const Norm& norm, const T* x, T* out, int64_t size, float eps) {
    const T *weight = static_cast<const T*>(norm.weight), *bias = static_cast<const T*>(norm.bias);
    if (norm.centered != 0)
        layer_norm_row(x, weight, bias, out, size, eps);
    else
        rms_norm_row<T>(x, nullptr, weight, nullptr, out, size, eps);
}

// Run parts [begin, end), counted over all layers. All threads run the same sequence of parts, and synchronize after
// each part whose results other threads need.
template <typename T>
void decode_layers(const Step& s, int64_t begin, int64_t end) {
    const int64_t rows = s.rows, hidden = s.hidden, intermediate = s.intermediate, head_dim = s.head_dim;
    const int64_t sharing = s.heads / s.kv_heads, slot_stride = s.kv_heads * head_dim;
    const int64_t query = s.heads * head_dim, projected = query + 2 * slot_stride;
    const int64_t widened = s.gated != 0 ? 2 * intermediate : intermediate;
    const Activation activation = static_cast<Activation>(s.activation);
    T *stream = static_cast<T*>(s.stream), *qkv = static_cast<T*>(s.qkv), *attended = static_cast<T*>(s.attended);
    T *gate_up = static_cast<T*>(s.gate_up), *active = static_cast<T*>(s.active), *added = static_cast<T*>(s.added);
    int64_t longest = 0;  // longest context attended to, rounded up to whole vectors
    const auto first_of = [&](int64_t row, int64_t window) { return first_in_window(s.context_lens[row], window); };
    for (int64_t at = 0; at < s.num_groups * rows; ++at)
        longest = std::max(longest, s.context_lens[at % rows] - first_of(at % rows, s.groups[at / rows].window));
    longest = (longest + W - 1) / W * W;
    std::vector<int32_t> slots(s.num_groups * rows * longest);  // of the tokens that each group's layers attend to
    int64_t most_experts = 0;
    for (int64_t at = begin; at < end; ++at) most_experts = std::max(most_experts, s.layers[at / PARTS].experts.count);
    std::vector<float> expert_scores(rows * most_experts);
    ExpertPairs<T> pairs;
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
        const auto normed_stream = [&](const Norm& norm) -> const T* {
            if (norm.weight == nullptr) return stream;
            for (int64_t row = 0; row < rows; ++row)
                norm_row(norm, stream + row * hidden, normed.data() + row * hidden, hidden, s.eps);
            return normed.data();
        };
        // Add a product to the stream, after a norm or a factor if there is one.
        const auto add_product = [&](const Weight& w, const T* x, const Norm& after) {
            if (after.weight == nullptr && s.residual_scale == 1.f) return produce(w, x, stream, true);
            produce(w, x, added, false);
#pragma omp barrier
            for (int64_t row = thread; row < rows; row += threads) {
                const T* own = added + row * hidden;
                if (after.weight != nullptr) {
                    norm_row(after, own, normed.data(), hidden, s.eps);
                    own = normed.data();
                }
                T* out = stream + row * hidden;
                for (int64_t i = 0; i < hidden; i += W) store(out + i, load(out + i) + load(own + i) * s.residual_scale);
            }
        };
#pragma omp for
        for (int64_t at = 0; at < s.num_groups * rows; ++at) {
            const Group& group = s.groups[at / rows];
            const int64_t row = at % rows;
            find_slots(group.block_tables + row * s.table_stride, first_of(row, group.window), s.context_lens[row],
                       s.block_size, slots.data() + at * longest);
        }
        for (int64_t at = begin; at < end; ++at) {
            const Layer& layer = s.layers[at / PARTS];
            const Part part = s.parallel != 0 ? SIDE_BY_SIDE[at % PARTS] : static_cast<Part>(at % PARTS);
            switch (part_of(layer, part)) {
                case QKV:
                    produce(layer.qkv, normed_stream(layer.attention_norm), qkv, false);
                    break;
                case APPEND: {
                    const T* table = static_cast<const T*>(layer.rope_table);
                    const T *q_norm = static_cast<const T*>(layer.q_norm), *k_norm = static_cast<const T*>(layer.k_norm);
                    if (s.joint_norms != 0) {
#pragma omp for
                        for (int64_t row = 0; row < rows; ++row) {
                            T *q = qkv + row * projected, *k = q + query;
                            rms_norm_row<T>(q, nullptr, q_norm, nullptr, q, query, s.eps);
                            rms_norm_row<T>(k, nullptr, k_norm, nullptr, k, slot_stride, s.eps);
                        }
                        q_norm = k_norm = nullptr;
                    }
                    for (int64_t unit = thread; unit < rows * s.kv_heads; unit += threads) {
                        const int64_t row = unit / s.kv_heads, kv_head = unit % s.kv_heads;
                        T* own = qkv + row * projected;
                        turn_and_append(own, own, static_cast<T*>(layer.keys), static_cast<T*>(layer.values), q_norm, k_norm,
                                        table == nullptr ? nullptr : table + s.positions[row] * head_dim, kv_head,
                                        s.kv_heads, sharing, s.groups[layer.group].slots[row], slot_stride, head_dim, s.eps);
                    }
                    break;
                }
                case ATTENTION:
                    for (int64_t unit = thread; unit < rows * s.kv_heads; unit += threads) {
                        const int64_t row = unit / s.kv_heads, kv_head = unit % s.kv_heads;
                        const int64_t heads = kv_head * sharing * head_dim;
                        const int64_t first = first_of(row, s.groups[layer.group].window);
                        attend_for<T>(head_dim)(qkv + row * projected + heads,
                                                static_cast<const T*>(layer.keys) + kv_head * head_dim,
                                                static_cast<const T*>(layer.values) + kv_head * head_dim,
                                                slots.data() + (layer.group * rows + row) * longest,
                                                attended + row * query + heads, scores.data(),
                                                s.context_lens[row] - first, sharing, head_dim, slot_stride,
                                                layer.scoring.from_head(kv_head * sharing));
                    }
                    break;
                case OUTPUT:
                    add_product(layer.output, attended, layer.after_attention);
                    break;
                case GATE_UP: {
                    const Weight& w = layer.gate_up;
                    const T* x = normed_stream(layer.mlp_norm);
                    // Each thread computes the same share of gates and ups, so it can activate them without waiting.
                    const int64_t packs = intermediate / w.lanes;
                    const int64_t begin_pack = share(packs, thread, threads, 0), end_pack = share(packs, thread, threads, 1);
                    for (int64_t half = 0; half < widened / w.lanes; half += packs)
                        multiply(w, x, rows, half + begin_pack, half + end_pack, gate_up, widened, false, scratch);
                    const int64_t first = begin_pack * w.lanes, last = end_pack * w.lanes;
                    for (int64_t row = 0; row < rows; ++row) {
                        const T *gate = gate_up + row * widened, *up = gate + intermediate;
                        for (int64_t i = first; i < last; i += W) {
                            const F value = activated(load(gate + i), activation);
                            store(active + row * intermediate + i, s.gated != 0 ? value * load(up + i) : value);
                        }
                    }
                    break;
                }
                case DOWN:
                    add_product(layer.down, active, layer.after_mlp);
                    break;
                case ROUTE:
                    score_and_choose(layer.router, normed_stream(layer.mlp_norm), s.chosen, s.chosen_weights, rows,
                                     layer.experts.count, hidden, layer.experts.top_k, expert_scores.data());
                    break;
                case EXPERTS:
                    add_experts(layer.experts, normed_stream(layer.mlp_norm), s.chosen, s.chosen_weights, stream, rows,
                                s.residual_scale, pairs, scratch);
                    break;
                default:
                    break;
            }
            // Attention reads only what the same thread has appended: no barrier before it.
            if (part == APPEND && at + 1 < end) continue;
#pragma omp barrier
        }
    }
}

}  // namespace
