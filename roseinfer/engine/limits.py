"""Limits of a step that fit the device: how many requests and how many tokens, and the memory that they need."""

import msgspec

from roseinfer.config import EngineConfig
from roseinfer.models.model_config import ModelConfig

CPU_BATCH_SIZE = 8
CPU_BATCH_TOKENS = 2048

_GPU_BATCH_SIZES = (8, 512)
_GPU_BATCH_TOKENS = (512, 16384)
_USUAL_TOKENS = 1024
"""Tokens of a request for which a GPU's batch is sized: so many requests fit into the KV cache together."""
_ACTIVATION_PARTS = 8
"""Activations of a step get one part in so many of the memory that is left after loading."""


class StepLimits(msgspec.Struct, frozen=True):
    """Maximum size of a step."""

    max_batch_size: int
    """Requests."""
    max_batch_tokens: int
    """Tokens, summed over the requests."""


def step_limits(
    config: EngineConfig, model: ModelConfig, *, is_gpu: bool, max_model_len: int, element_bytes: int, spare_bytes: int
) -> StepLimits:
    """Return the limits that `config` sets, and for those that it leaves open, limits that fit the device.

    A CPU has few cores to fill and shares its memory, so its limits are constant. On a GPU, a step has as many tokens
    as keep their activations within an eighth of `spare_bytes`, the memory left after loading. A batch has as many
    requests of 1,024 tokens as the KV cache can then hold. Both are powers of two, except that each request of a full
    batch gets one token more per step: decodes then take no place from prompts, whose chunks keep lengths for which
    attention is fast.
    """
    size, tokens = config.max_batch_size, config.max_batch_tokens
    if not is_gpu:
        return StepLimits(size or CPU_BATCH_SIZE, tokens or CPU_BATCH_TOKENS)
    if tokens is None:
        part = spare_bytes // _ACTIVATION_PARTS
        token_bytes = activation_bytes(model, 1, element_bytes=element_bytes)
        tokens = _power_of_two(part // token_bytes, _GPU_BATCH_TOKENS)
    if size is None:
        left = spare_bytes - activation_bytes(model, tokens, element_bytes=element_bytes)
        request_bytes = min(max_model_len, _USUAL_TOKENS) * model.kv_bytes_per_token(element_bytes)
        size = _power_of_two(left // request_bytes, _GPU_BATCH_SIZES)
    return StepLimits(size, tokens if config.max_batch_tokens else tokens + size)


def activation_bytes(
    model: ModelConfig, tokens: int, *, samples: int = 0, context_tokens: int = 0, element_bytes: int
) -> int:
    """Return the most memory that the activations of a step of `tokens` tokens take at once.

    Per token, that is the residual stream, its copies around a norm, and either the projections of attention or those
    of the MLP, gate and up included. torch's own operations need this much; the kernels of a GPU need less.

    `samples` is the number of tokens that are drawn, each with its logits and two 32-bit copies of them.
    `context_tokens` is the number of tokens whose keys and values one layer copies out of their blocks. No layer's
    activations outlive the layer, so neither the number of layers matters nor that of a prompt's chunks.
    """
    query, key_value = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    attention = 3 * query + 2 * key_value  # queries, keys, values; rotated queries; outputs
    mlp = 4 * model.intermediate_size  # gate, up, activated gate, product
    if model.experts is not None:
        used = model.experts.top_k
        mlp = max(mlp, used * (3 * model.experts.intermediate_size + 3 * model.hidden_size))  # products also in float32
    per_token = (6 * model.hidden_size + max(attention, mlp)) * element_bytes
    logits = samples * model.vocab_size * (element_bytes + 8)
    return tokens * per_token + logits + 2 * context_tokens * key_value * element_bytes


def _power_of_two(number: int, limits: tuple[int, int]) -> int:
    """Return the largest power of two that is at most `number`, within `limits`."""
    low, high = limits
    return min(max(1 << (max(number, 1).bit_length() - 1), low), high)
