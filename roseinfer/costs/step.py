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

from functools import lru_cache

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
    plain = _plain(model)
    pairs = context_tokens if attention_pairs is None else attention_pairs
    if weights is None:
        weights = plain.weights.scaled(element_bytes)
    num_bytes = passes * (weights.layers + (weights.head if sampled else 0)) + tokens * weights.lookup
    num_bytes += 2 * sampled * model.vocab_size * element_bytes
    num_bytes += (tokens + context_tokens) * model.kv_bytes_per_token(element_bytes)
    flops = 2 * tokens * plain.matrices + 2 * sampled * model.vocab_size * model.hidden_size
    flops += 4 * pairs * model.num_layers * model.num_heads * model.head_dim
    return StepCost(num_bytes, flops)


def plan_cost(model: ModelConfig, element_bytes: int, plan: StepPlan, weights: WeightBytes | None = None) -> StepCost:
    """The cost of a scheduler's plan; a sliding window bounds what its attention reads."""
    window = model.sliding_window
    pairs = sum(_pairs(chunk, window) for chunk in plan.chunks)
    # Tokens that are decoded one after the other read the context again each time.
    keys = pairs if plan.decode_steps > 1 else sum(_keys(chunk, window) for chunk in plan.chunks)
    return step_cost(
        model,
        element_bytes,
        tokens=plan.num_tokens,
        context_tokens=keys,
        attention_pairs=pairs,
        sampled=plan.decode_steps * sum(chunk.samples for chunk in plan.chunks),
        passes=plan.decode_steps,
        weights=weights,
    )


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
