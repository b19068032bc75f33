"""Bytes that a step must move and floating-point operations that it must do, from shapes alone.

With e bytes an element, for T new tokens of which S rows are sampled, attention over C context tokens and P
query-key pairs, and R passes over the weights (1, but for launches of several decode steps):

    bytes = R (layers + head [if S > 0]) e     weights, each read once a pass
          + T (embedding widths) e             rows looked up, learned positions included
          + (T + C) kv e                       keys and values: new ones written, the context's read
          + 2 S vocab e                        logits, written and read
    flops = 2 T (layer matrices) + 2 S vocab hidden + 4 P layers heads head_dim

`layers` counts every parameter between the embedding and the head, `layer matrices` those that are multiplied, and
`kv` is 2 layers kv_heads head_dim. Left out: activations between kernels, which a perfect kernel keeps on the chip;
block tables, indexes and rotation angles, which are small; and arithmetic outside matrix products. So the cost is a
floor. Blocks that requests share are counted once a request.
"""

from functools import lru_cache

import msgspec
import torch

from roseinfer.engine.scheduler import Chunk, StepPlan
from roseinfer.models.config import ModelConfig
from roseinfer.models.layers import Embedding, Linear
from roseinfer.models.registry import architecture


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
) -> StepCost:
    """The cost of a step that computes `tokens` new tokens and draws `sampled` next ones.

    `context_tokens` are those whose keys and values attention reads, the new ones included, summed over requests;
    `attention_pairs` the query-key pairs, the same as context_tokens (the default) where each request computes one
    token. `passes` is how often the weights are read: once, but for launches of several decode steps.
    """
    weights = _weights(model)
    pairs = context_tokens if attention_pairs is None else attention_pairs
    elements = passes * (weights.layers + (weights.head if sampled else 0))
    elements += tokens * weights.embedding_width + 2 * sampled * model.vocab_size
    kv_bytes = (tokens + context_tokens) * model.kv_bytes_per_token(element_bytes)
    flops = 2 * tokens * weights.matrices + 2 * sampled * model.vocab_size * model.hidden_size
    flops += 4 * pairs * model.num_layers * model.num_heads * model.head_dim
    return StepCost(elements * element_bytes + kv_bytes, flops)


def plan_cost(model: ModelConfig, element_bytes: int, plan: StepPlan) -> StepCost:
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


class _Weights(msgspec.Struct, frozen=True):
    """Elements of a model's parameters, by what a step does with them."""

    layers: int
    """Between the embedding and the head, norms and biases included."""
    matrices: int
    """Of those, what is multiplied with every token."""
    head: int
    """The embedding's table again, where they are tied."""
    embedding_width: int
    """Looked up for every token, over all tables."""


@lru_cache(maxsize=16)
def _weights(model: ModelConfig) -> _Weights:
    """Counted on the architecture's own module, built without memory: a new architecture needs no formula here."""
    with torch.device("meta"):
        built = architecture(model.architecture).build(model)
    tables = [module.weight for module in built.modules() if isinstance(module, Embedding)]
    matrices = sum(module.weight.numel() for module in built.modules() if isinstance(module, Linear))
    head = next((module for module in built.children() if isinstance(module, Linear)), None)
    own_head = sum(parameter.numel() for parameter in head.parameters()) if head is not None else 0
    total = sum(view.numel() for view in built.weight_views().values())
    return _Weights(
        layers=total - own_head - sum(table.numel() for table in tables),
        matrices=matrices - (head.weight.numel() if head is not None else 0),
        head=own_head or model.vocab_size * model.hidden_size,
        embedding_width=sum(table.shape[1] for table in tables),
    )
