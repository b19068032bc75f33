// Experts of one layer for a decode step: routing, and the experts' MLPs with their weighted sum, one call each.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "elementwise.h"
#include "products.h"

namespace {

// The experts of one layer: `ExpertsStruct` in native_experts.py. Matrices have the same sizes and layout per expert.
struct Experts {
    const Weight *gate_up, *down;  // one per expert; of gate_up, all gates first
    int64_t count, hidden, width, top_k, activation;
};

// Score the experts of each token in float32, and choose the best ones; of equal scores the lower expert comes first.
// Weights are the softmax over all experts or, if `normalized`, over the chosen ones.
template <typename T>
void route(const T* x, const T* weight, const T* bias, int32_t* chosen, float* weights, int64_t tokens, int64_t experts,
           int64_t size, int64_t top_k, int64_t normalized) {
    std::vector<float> scores(tokens * experts);
#pragma omp parallel for if (tokens * experts * size >= PARALLEL)
    for (int64_t at = 0; at < tokens * experts; ++at) {
        const T *row = x + at / experts * size, *own = weight + at % experts * size;
        F sums{};
        for (int64_t i = 0; i < size; i += W) sums += load(row + i) * load(own + i);
        scores[at] = sum(sums) + (bias == nullptr ? 0.f : as_float(bias[at % experts]));
    }
    for (int64_t token = 0; token < tokens; ++token) {
        float *own = scores.data() + token * experts, *to = weights + token * top_k;
        float total = 0.f, highest = -INFINITY;
        for (int64_t expert = 0; expert < experts; ++expert) highest = std::max(highest, own[expert]);
        if (!normalized)
            for (int64_t expert = 0; expert < experts; ++expert) total += std::exp(own[expert] - highest);
        for (int64_t rank = 0; rank < top_k; ++rank) {
            const int64_t best = std::max_element(own, own + experts) - own;
            chosen[token * top_k + rank] = static_cast<int32_t>(best);
            to[rank] = std::exp(own[best] - highest);
            if (normalized) total += to[rank];
            own[best] = -INFINITY;
        }
        for (int64_t rank = 0; rank < top_k; ++rank) to[rank] /= total;
    }
}

// Add each token's weighted sum of down(activation(gate x) * (up x)) over its experts to `out` [tokens, hidden].
// `chosen` and `weights`: [tokens, top_k]. An expert's weights are read once for all of its tokens.
template <typename T>
void experts_mlp(const Experts& e, const T* x, const int32_t* chosen, const float* weights, T* out, int64_t tokens) {
    const int64_t pairs = tokens * e.top_k, hidden = e.hidden, width = e.width;
    const Activation activation = static_cast<Activation>(e.activation);
    // Sort the pairs of token and expert by expert. `place`: of each pair, its row among the sorted ones.
    std::vector<int64_t> starts(e.count + 1), place(pairs), used;
    for (int64_t pair = 0; pair < pairs; ++pair) ++starts[chosen[pair] + 1];
    for (int64_t expert = 0; expert < e.count; ++expert) {
        if (starts[expert + 1] > 0) used.push_back(expert);
        starts[expert + 1] += starts[expert];
    }
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    std::vector<T> rows(pairs * hidden), gate_up(pairs * 2 * width), active(pairs * width), products(pairs * hidden);
    for (int64_t pair = 0; pair < pairs; ++pair) {
        place[pair] = next[chosen[pair]]++;
        std::memcpy(&rows[place[pair] * hidden], x + pair / e.top_k * hidden, hidden * sizeof(T));
    }
    const int64_t experts = static_cast<int64_t>(used.size());
#pragma omp parallel
    {
        const int64_t thread = thread_number(), threads = thread_count();
        Scratch<T> scratch;
        // Call some(expert, first pack, last pack) for this thread's share of `packs` per expert, over all experts.
        const auto by_share = [&](int64_t packs, auto some) {
            const int64_t begin = share(experts * packs, thread, threads, 0);
            const int64_t end = share(experts * packs, thread, threads, 1);
            for (int64_t at = begin; at < end;) {
                const int64_t index = at / packs, stop = std::min(end, (index + 1) * packs);
                some(used[index], at - index * packs, stop - index * packs);
                at = stop;
            }
        };
        const int64_t lanes = e.gate_up->lanes, packs = width / lanes;
        by_share(packs, [&](int64_t expert, int64_t first, int64_t last) {
            const int64_t begin = starts[expert], count = starts[expert + 1] - begin;
            T* own = &gate_up[begin * 2 * width];
            for (const int64_t half : {int64_t{0}, packs})
                multiply(e.gate_up[expert], &rows[begin * hidden], count, half + first, half + last, own, 2 * width, false,
                         scratch);
            for (int64_t row = 0; row < count; ++row) {
                const T *gate = own + row * 2 * width, *up = gate + width;
                for (int64_t i = first * lanes; i < last * lanes; i += W)
                    store(&active[(begin + row) * width + i], activated(load(gate + i), activation) * load(up + i));
            }
        });
#pragma omp barrier
        by_share(packs_of(*e.down), [&](int64_t expert, int64_t first, int64_t last) {
            const int64_t begin = starts[expert], count = starts[expert + 1] - begin;
            multiply(e.down[expert], &active[begin * width], count, first, last, &products[begin * hidden], hidden, false,
                     scratch);
        });
#pragma omp barrier
#pragma omp for
        for (int64_t at = 0; at < tokens * (hidden / W); ++at) {
            const int64_t token = at / (hidden / W), i = at % (hidden / W) * W;
            F total{};
            for (int64_t pair = token * e.top_k; pair < (token + 1) * e.top_k; ++pair)
                total += load(&products[place[pair] * hidden + i]) * weights[pair];
            store(out + token * hidden + i, total + load(out + token * hidden + i));
        }
    }
}

}  // namespace
