// Experts of one layer for a decode step: routing, and the experts' MLPs with their weighted sum.

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

// How a layer's tokens choose among its experts: `RouterStruct` in native_experts.py.
struct Router {
    const void *weight, *bias;  // [experts, hidden]; [experts], or null
    int64_t normalized;         // 1: weights are the softmax over the chosen experts, 0: over all experts
};

// Return the score of pair `at` of token and expert in float32.
template <typename T>
inline float expert_score(const Router& router, const T* x, int64_t at, int64_t experts, int64_t size) {
    const T *row = x + at / experts * size, *own = static_cast<const T*>(router.weight) + at % experts * size;
    F sums{};
    for (int64_t i = 0; i < size; i += W) sums += load(row + i) * load(own + i);
    return sum(sums) + (router.bias == nullptr ? 0.f : as_float(static_cast<const T*>(router.bias)[at % experts]));
}

// Choose the experts of one token from its scores, which this overwrites; of equal scores the lower expert comes first.
inline void choose_experts(float* scores, int64_t experts, int64_t top_k, bool normalized, int32_t* chosen, float* weights) {
    float total = 0.f;
    const float highest = *std::max_element(scores, scores + experts);
    if (!normalized)
        for (int64_t expert = 0; expert < experts; ++expert) total += std::exp(scores[expert] - highest);
    for (int64_t rank = 0; rank < top_k; ++rank) {
        const int64_t best = std::max_element(scores, scores + experts) - scores;
        chosen[rank] = static_cast<int32_t>(best);
        weights[rank] = std::exp(scores[best] - highest);
        if (normalized) total += weights[rank];
        scores[best] = -INFINITY;
    }
    for (int64_t rank = 0; rank < top_k; ++rank) weights[rank] /= total;
}

// Score the experts of each token into `scores` [tokens, experts], and choose the best ones. `chosen` and `weights`:
// [tokens, top_k]. All threads of a parallel region call this, with the same scores. The results are complete after
// their next barrier.
template <typename T>
void score_and_choose(const Router& router, const T* x, int32_t* chosen, float* weights, int64_t tokens, int64_t experts,
                      int64_t size, int64_t top_k, float* scores) {
#pragma omp for
    for (int64_t at = 0; at < tokens * experts; ++at) scores[at] = expert_score(router, x, at, experts, size);
#pragma omp for nowait
    for (int64_t token = 0; token < tokens; ++token)
        choose_experts(scores + token * experts, experts, top_k, router.normalized != 0, chosen + token * top_k,
                       weights + token * top_k);
}

template <typename T>
void route(const Router& router, const T* x, int32_t* chosen, float* weights, int64_t tokens, int64_t experts, int64_t size,
           int64_t top_k) {
    std::vector<float> scores(tokens * experts);
#pragma omp parallel if (tokens * experts * size >= PARALLEL)
    score_and_choose(router, x, chosen, weights, tokens, experts, size, top_k, scores.data());
}

// Pairs of token and chosen expert, sorted by expert, and what is computed for each of them.
template <typename T>
struct ExpertPairs {
    std::vector<int64_t> starts;  // of each expert, its first row among the sorted pairs
    std::vector<int64_t> used;    // experts with pairs
    std::vector<int64_t> place;   // of each pair, its row among the sorted ones
    std::vector<T> rows, gate_up, active, products;

    void sort(const Experts& e, const int32_t* chosen, int64_t tokens) {
        const int64_t pairs = tokens * e.top_k;
        starts.assign(e.count + 1, 0);
        used.clear();
        place.resize(pairs);
        for (int64_t pair = 0; pair < pairs; ++pair) ++starts[chosen[pair] + 1];
        for (int64_t expert = 0; expert < e.count; ++expert) {
            if (starts[expert + 1] > 0) used.push_back(expert);
            starts[expert + 1] += starts[expert];
        }
        std::vector<int64_t> next(starts.begin(), starts.end() - 1);
        for (int64_t pair = 0; pair < pairs; ++pair) place[pair] = next[chosen[pair]]++;
        rows.resize(pairs * e.hidden);
        gate_up.resize(pairs * 2 * e.width);
        active.resize(pairs * e.width);
        products.resize(pairs * e.hidden);
    }
};

// Add `scale` times each token's weighted sum of down(activation(gate x) * (up x)) over its experts to `out`
// [tokens, hidden]. `chosen` and `weights`: [tokens, top_k]. An expert's weights are read once for all of its tokens.
// All threads of a parallel region call this, with the same pairs. `out` is complete after their next barrier.
template <typename T>
void add_experts(const Experts& e, const T* x, const int32_t* chosen, const float* weights, T* out, int64_t tokens,
                 float scale, ExpertPairs<T>& pairs, Scratch<T>& scratch) {
    const int64_t hidden = e.hidden, width = e.width, thread = thread_number(), threads = thread_count();
    const Activation activation = static_cast<Activation>(e.activation);
#pragma omp single
    pairs.sort(e, chosen, tokens);
#pragma omp for
    for (int64_t pair = 0; pair < tokens * e.top_k; ++pair)
        std::memcpy(&pairs.rows[pairs.place[pair] * hidden], x + pair / e.top_k * hidden, hidden * sizeof(T));
    const int64_t experts = static_cast<int64_t>(pairs.used.size());
    // Call some(expert, its first row, its rows, first pack, last pack) for this thread's share of `packs` per expert,
    // over all experts.
    const auto by_share = [&](int64_t packs, auto some) {
        const int64_t begin = share(experts * packs, thread, threads, 0);
        const int64_t end = share(experts * packs, thread, threads, 1);
        for (int64_t at = begin; at < end;) {
            const int64_t index = at / packs, stop = std::min(end, (index + 1) * packs), expert = pairs.used[index];
            const int64_t row = pairs.starts[expert], count = pairs.starts[expert + 1] - row;
            some(expert, row, count, at - index * packs, stop - index * packs);
            at = stop;
        }
    };
    const int64_t lanes = e.gate_up->lanes, packs = width / lanes;
    by_share(packs, [&](int64_t expert, int64_t begin, int64_t count, int64_t first, int64_t last) {
        T* own = &pairs.gate_up[begin * 2 * width];
        for (const int64_t half : {int64_t{0}, packs})
            multiply(e.gate_up[expert], &pairs.rows[begin * hidden], count, half + first, half + last, own, 2 * width, false,
                     scratch);
        for (int64_t row = 0; row < count; ++row) {
            const T *gate = own + row * 2 * width, *up = gate + width;
            T* active = &pairs.active[(begin + row) * width];
            for (int64_t i = first * lanes; i < last * lanes; i += W)
                store(active + i, activated(load(gate + i), activation) * load(up + i));
        }
    });
#pragma omp barrier
    by_share(packs_of(*e.down), [&](int64_t expert, int64_t begin, int64_t count, int64_t first, int64_t last) {
        multiply(e.down[expert], &pairs.active[begin * width], count, first, last, &pairs.products[begin * hidden], hidden,
                 false, scratch);
    });
#pragma omp barrier
#pragma omp for nowait
    for (int64_t at = 0; at < tokens * (hidden / W); ++at) {
        const int64_t token = at / (hidden / W), i = at % (hidden / W) * W;
        F total{};
        for (int64_t pair = token * e.top_k; pair < (token + 1) * e.top_k; ++pair)
            total += load(&pairs.products[pairs.place[pair] * hidden + i]) * weights[pair];
        T* to = out + token * hidden + i;
        store(to, total * scale + load(to));
    }
}

template <typename T>
void experts_mlp(const Experts& e, const T* x, const int32_t* chosen, const float* weights, T* out, int64_t tokens) {
    ExpertPairs<T> pairs;
#pragma omp parallel
    {
        Scratch<T> scratch;
        add_experts(e, x, chosen, weights, out, tokens, 1.f, pairs, scratch);
    }
}

}  // namespace
