"""Bytes that a step must move and floating-point operations that it must do, from shapes alone.

With e bytes an element, for T new tokens of which S rows are sampled, attention over C context tokens and P
query-key pairs, and R passes over the weights (1, but for launches of several decode steps):

    bytes = R (layers + head [if S > 0])       weights as they are kept, quantized ones too, each read once a pass
          + T (embedding rows)                 rows looked up, learned positions included
          + (T + C) kv e                       keys and values: new ones written, the context's read
          + 2 S vocab e                        logits, written and read
    flops = 2 T (layer matrices) + 2 S vocab hidden + 4 P layers heads head_dim

`layers` are the bytes of all parameters between the embedding and the head, `layer matrices` the elements of those
that are multiplied, and `kv` is 2 layers kv_heads head_dim. Left out: activations between kernels, which a perfect
kernel keeps on the chip; block tables, indexes and rotation angles, which are small; and arithmetic outside matrix
products. So the cost is a floor. Blocks that requests share are counted once a request.
"""

from collections import Counter
from functools import lru_cache
from typing import NamedTuple

import msgspec
import torch

from roseinfer.engine.step_plan import Chunk, StepPlan
from roseinfer.models.architectures import architecture
from roseinfer.models.footprint import WeightBytes
from roseinfer.models.linear import Linear
from roseinfer.models.model_config import ModelConfig


class StepCost(msgspec.Struct, frozen=True):
    """What one step cannot do without."""

    bytes: int
    flops: int

    def __add__(self, other: "StepCost") -> "StepCost":
        return StepCost(self.bytes + other.bytes, self.flops + other.flops)


def step_cost(
    model: ModelConfig,
    element_bytes: int,
    *,
    tokens: int,
    context_tokens: int,
    attention_pairs: int | None = None,
    sampled: int,
    passes: int = 1,
    weights: WeightBytes | None = None,
) -> StepCost:
    """The cost of a step that computes `tokens` new tokens and draws `sampled` next ones.

    `context_tokens` are those whose keys and values attention reads, the new ones included, summed over requests;
    `attention_pairs` the query-key pairs, the same as context_tokens (the default) where each request computes one
    token. `passes` is how often the weights are read: once, but for launches of several decode steps. `weights` are
    those of a loaded model, which may be quantized; without them, each takes element_bytes.
    """
    pairs = context_tokens if attention_pairs is None else attention_pairs
    rows = _Rows(tokens, sampled, passes, context_tokens * model.num_layers, pairs * model.num_layers)
    return _cost(model, element_bytes, rows, weights)


def plan_cost(model: ModelConfig, element_bytes: int, plan: StepPlan, weights: WeightBytes | None = None) -> StepCost:
    """Return the cost of a scheduler's plan. A layer's window bounds what its attention reads."""
    keys = pairs = 0
    for window, num_layers in _layers_by_window(model).items():
        own_pairs = sum(_pairs(chunk, window) for chunk in plan.chunks)
        # Tokens that are decoded one after the other read the context again each time.
        own_keys = own_pairs if plan.decode_steps > 1 else sum(_keys(chunk, window) for chunk in plan.chunks)
        keys += num_layers * own_keys
        pairs += num_layers * own_pairs
    sampled = plan.decode_steps * sum(chunk.samples for chunk in plan.chunks)
    return _cost(model, element_bytes, _Rows(plan.num_tokens, sampled, plan.decode_steps, keys, pairs), weights)


class _Rows(NamedTuple):
    """The counts of one step that its cost follows from."""

    tokens: int
    sampled: int
    passes: int
    keys: int
    """Context tokens that attention reads, summed over requests and layers."""
    pairs: int
    """Query-key pairs, summed over requests and layers."""


def _cost(model: ModelConfig, element_bytes: int, rows: _Rows, weights: WeightBytes | None) -> StepCost:
    plain = _plain(model)
    if weights is None:
        weights = plain.weights.scaled(element_bytes)
    num_bytes = rows.passes * (weights.layers + (weights.head if rows.sampled else 0)) + rows.tokens * weights.lookup
    num_bytes += 2 * rows.sampled * model.vocab_size * element_bytes
    layer_kv_bytes = model.kv_bytes_per_token(element_bytes) // model.num_layers
    num_bytes += (rows.tokens * model.num_layers + rows.keys) * layer_kv_bytes
    flops = 2 * rows.tokens * plain.matrices + 2 * rows.sampled * model.vocab_size * model.hidden_size
    flops += 4 * rows.pairs * model.num_heads * model.head_dim
    return StepCost(num_bytes, flops)


@lru_cache(maxsize=16)
def _layers_by_window(model: ModelConfig) -> Counter[int | None]:
    """Return the number of layers with each attention window."""
    return Counter(spec.window for spec in model.attention_specs)


def _keys(chunk: Chunk, window: int | None) -> int:
    """Keys that some token of the chunk looks at."""
    return chunk.stop if window is None else chunk.stop - max(chunk.start - window + 1, 0)


def _pairs(chunk: Chunk, window: int | None) -> int:
    """Each token looks at itself and at those before it, up to the window."""
    first, last = chunk.start + 1, chunk.stop  # keys of the first and of the last token, without a window
    if window is None or last <= window:
        return (first + last) * chunk.num_tokens // 2
    growing = max(window - first, 0)  # tokens that see less than a window
    return (first + first + growing - 1) * growing // 2 + (chunk.num_tokens - growing) * window


class _Plain(msgspec.Struct, frozen=True):
    """A model's parameters at one byte an element."""

    weights: WeightBytes
    matrices: int
    """Elements that are multiplied with every token."""


@lru_cache(maxsize=16)
def _plain(model: ModelConfig) -> _Plain:
    """Counted on the architecture's own module, built without memory: a new architecture needs no formula here."""
    with torch.device("meta"):
        built = architecture(model.architecture).build(model)
    matrices = sum(
        slot.view.numel()
        for slot in built.weight_map().values()
        if isinstance(slot.module, Linear) and slot.attribute == "matrix" and slot.module is not built.head
    )
    return _Plain(WeightBytes.of(built).scaled(1 / built.embed.table.itemsize), matrices)
