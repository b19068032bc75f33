// The operations between matrix products and attention: norms, rotary embeddings, activations; and argmax.

#pragma once

#include "vectors.h"

namespace {

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

// Layer norm of a row; `bias` may be null. `out` may be x.
template <typename T>
void layer_norm_row(const T* x, const T* weight, const T* bias, T* out, int64_t size, float eps) {
    F total{}, squares{};
    for (int64_t i = 0; i < size; i += W) total += load(x + i);
    const float mean = sum(total) / size;
    for (int64_t i = 0; i < size; i += W) squares += (load(x + i) - mean) * (load(x + i) - mean);
    const float scale = 1.f / std::sqrt(sum(squares) / size + eps);
    for (int64_t i = 0; i < size; i += W) {
        const F value = (load(x + i) - mean) * scale * load(weight + i);
        store(out + i, bias == nullptr ? value : value + load(bias + i));
    }
}

// Activations of MLPs: `ActivationKind` in native_step.py.
enum Activation { SILU, GELU_TANH, GELU };

// The error function, within 2e-7 (Abramowitz and Stegun, 1964, formula 7.1.26).
inline F error_function(F x) {
    const F size = x < 0.f ? -x : x, t = 1.f / (1.f + 0.3275911f * size);
    F y = all(1.061405429f);
    y = y * t - 1.453152027f;
    y = y * t + 1.421413741f;
    y = y * t - 0.284496736f;
    y = y * t + 0.254829592f;
    y = 1.f - y * t * exponential(-size * size);
    return x < 0.f ? -y : y;
}

inline F activated(F x, Activation kind) {
    switch (kind) {
        case GELU_TANH:  // x / 2 * (1 + tanh(z)) = x / (1 + exp(-2z)), z = sqrt(2 / pi) * (x + 0.044715 x^3)
            return x / (1.f + exponential(x * (x * x * 0.044715f + 1.f) * -1.59576912f));
        case GELU:
            return x * 0.5f * (1.f + error_function(x * 0.70710678f));
        default:
            return x / (1.f + exponential(-x));
    }
}

template <typename T>
void silu_and_mul(const T* gate_up, T* out, int64_t rows, int64_t size, int64_t stride) {
#pragma omp parallel for if (rows * size >= PARALLEL)
    for (int64_t row = 0; row < rows; ++row) {
        const T *gate = gate_up + row * stride, *up = gate + size;
        for (int64_t i = 0; i < size; i += W) store(out + row * size + i, activated(load(gate + i), SILU) * load(up + i));
    }
}

// Apply the norm, if any, and then the rotary embedding, if any, to one head of a query or key. `turn`: cosines and
// sines of the token's position, head_dim / 2 each, or null.
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

// Process one key head of one token and the `sharing` query heads that share it: write rotated queries to q, which
// holds all heads of the token, and append the rotated key and the value to the caches. A slot below 0 (padding)
// appends nothing.
template <typename T>
inline void turn_and_append(const T* qkv, T* q, T* keys, T* values, const T* q_norm, const T* k_norm, const T* turn,
                            int64_t kv_head, int64_t kv_heads, int64_t sharing, int64_t slot, int64_t slot_stride,
                            int64_t head_dim, float eps) {
    const int64_t first = kv_head * sharing * head_dim, place = slot * slot_stride + kv_head * head_dim;
    for (int64_t head = 0; head < sharing; ++head)
        turn_head(qkv + first + head * head_dim, q + first + head * head_dim, q_norm, turn, head_dim, eps);
    if (slot < 0) return;
    const T* k = qkv + (kv_heads * sharing + kv_head) * head_dim;
    turn_head(k, keys + place, k_norm, turn, head_dim, eps);
    std::memcpy(values + place, k + kv_heads * head_dim, head_dim * sizeof(T));
}

template <typename T>
void rope_append(const T* qkv, const T* table, const int64_t* positions, const int64_t* slots, T* keys, T* values,
                 const T* q_norm, const T* k_norm, T* q, int64_t tokens, int64_t heads, int64_t kv_heads,
                 int64_t head_dim, int64_t qkv_stride, int64_t slot_stride, float eps) {
#pragma omp parallel for if (tokens * (heads + 2 * kv_heads) * head_dim >= PARALLEL)
    for (int64_t token = 0; token < tokens; ++token) {
        const T* turn = table == nullptr ? nullptr : table + positions[token] * head_dim;
        for (int64_t kv_head = 0; kv_head < kv_heads; ++kv_head)
            turn_and_append(qkv + token * qkv_stride, q + token * heads * head_dim, keys, values, q_norm, k_norm, turn,
                            kv_head, kv_heads, heads / kv_heads, slots[token], slot_stride, head_dim, eps);
    }
}

// Index of each row's largest value, the lowest among equals. NaN is ignored; a row with nothing but NaN gives 0.
template <typename T>
void argmax(const T* x, int64_t* out, int64_t rows, int64_t size, int64_t stride) {
#pragma omp parallel for if (rows * size >= PARALLEL)
    for (int64_t row = 0; row < rows; ++row) {
        const T* own = x + row * stride;
        const int64_t whole = size / W * W;
        F best = all(-INFINITY);
        for (int64_t i = 0; i < whole; i += W) {
            const F value = load(own + i);
            best = value > best ? value : best;
        }
        float most = largest(best);
        for (int64_t i = whole; i < size; ++i) most = as_float(own[i]) > most ? as_float(own[i]) : most;
        int64_t at = 0;
        while (at < whole) {
            const I equal = load(own + at) == all(most);
            int32_t any = 0;
            for (int64_t lane = 0; lane < W; ++lane) any |= equal[lane];
            if (any != 0) break;
            at += W;
        }
        while (at < size && as_float(own[at]) != most) ++at;
        out[row] = at < size ? at : 0;
    }
}

}  // namespace
