"""Bytes that a step must move and FLOPs that it must compute, from shapes alone.

The symbols, per step:

    T  new tokens                     S  rows of logits that are sampled
    C  context tokens of attention    P  query-key pairs of attention, summed over layers
    R  passes over the weights: the number of decode steps in the launch, usually 1
    e  bytes per element
    H(t)  experts of a layer that t tokens use: the sum over its E experts of 1 - (1 - p)^t

A layer with a sliding window has a smaller C and P than the others; the formulas then use the mean over layers.

    bytes = R (layers + head [if S > 0])       weights in their stored form, also quantized, read once per pass
          + R H(T / R) / E experts             the experts used; H(S / R) in the last layer
          + T (embedding rows)                 rows looked up, including learned positions
          + (T + C) kv e                       keys and values: new ones written, the context's read
          + 2 S vocab e                        logits, written and read
    flops = 2 T (layer matrices - sampled only) + 2 S (sampled only + vocab hidden) + 4 P heads head_dim

`layers` is the bytes of all parameters between the embedding and the head, without the experts. `layer matrices` is
the number of elements of the weight matrices that one token uses. `kv` is 2 layers kv_heads head_dim. The last layer
needs the keys and values of all new tokens, and everything else only for the tokens that are sampled after. `sampled
only` is the number of elements of its matrices without those of keys and values, and its C and P are those of the
sampled tokens.

p is the share of tokens that choose an expert, as counted on tokens of the run. Where nothing was counted, it is k/E
with k experts per token, as if all were chosen equally often: a router that prefers some experts reads fewer bytes.

The cost is a lower bound. It excludes activations between kernels, which a perfect kernel holds on the chip; block
tables, indexes and rotation angles, which are small; and arithmetic outside matrix products. Keys and values of a
block that several requests share count once per request.
"""

from collections import Counter, defaultdict
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import msgspec
import torch

from roseinfer.engine.step_plan import Chunk, StepPlan
from roseinfer.models.architectures import architecture
from roseinfer.models.expert_use import ExpertUse
from roseinfer.models.experts import ExpertLinear, Router, SharedGate
from roseinfer.models.footprint import WeightBytes
from roseinfer.models.linear import Linear
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.weight_map import WeightSlot


class StepCost(msgspec.Struct, frozen=True):
    """Minimum bytes moved and FLOPs computed by one step."""

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
    sampled_context: int | None = None,
    sampled: int,
    passes: int = 1,
    weights: WeightBytes | None = None,
) -> StepCost:
    """Return the cost of a step that computes `tokens` new tokens and samples `sampled` next tokens.

    - `context_tokens`: tokens whose keys and values attention reads, including the new ones, summed over requests.
    - `attention_pairs`: query-key pairs. The default, `context_tokens`, is right if each request computes one token.
    - `sampled_context`: tokens to which those attend that are sampled after. The default, `context_tokens`, is right if
      that is the last token of each request.
    - `passes`: number of times that the weights are read: the decode steps in the launch.
    - `weights`: sizes of the loaded model's weights, which may be quantized. None assumes `element_bytes` per element.
    """
    pairs = context_tokens if attention_pairs is None else attention_pairs
    last = context_tokens if sampled_context is None else sampled_context
    inner = model.num_layers - 1
    rows = _StepCounts(tokens, sampled, passes, inner * context_tokens + last, inner * pairs + last)
    return _cost(model, element_bytes, rows, weights)


def plan_cost(
    model: ModelConfig,
    element_bytes: int,
    plan: StepPlan,
    weights: WeightBytes | None = None,
    expert_use: ExpertUse | None = None,
) -> StepCost:
    """Return the cost of a step plan. A layer's sliding window limits the keys and values that its attention reads."""
    keys = pairs = 0
    for window, num_layers in _layers_by_window(model).items():
        own_pairs = sum(_pairs(chunk, window) for chunk in plan.chunks)
        # Each decode step of a launch reads the context again.
        own_keys = own_pairs if plan.decode_steps > 1 else sum(_keys(chunk, window) for chunk in plan.chunks)
        keys += num_layers * own_keys
        pairs += num_layers * own_pairs
        if plan.decode_steps == 1 and window == model.attention_specs[-1].window:
            last = sum(_keys_of_last_token(chunk, window) for chunk in plan.chunks if chunk.samples)
            keys += last - own_keys
            pairs += last - own_pairs
    sampled = plan.decode_steps * sum(chunk.samples for chunk in plan.chunks)
    counts = _StepCounts(plan.num_tokens, sampled, plan.decode_steps, keys, pairs)
    return _cost(model, element_bytes, counts, weights, expert_use)


class _StepCounts(NamedTuple):
    """Counts that determine the cost of one step."""

    tokens: int
    """New tokens, summed over requests."""
    sampled: int
    """Rows of logits that are sampled."""
    passes: int
    """Number of times that the weights are read."""
    keys: int
    """Context tokens that attention reads, summed over requests and layers."""
    pairs: int
    """Query-key pairs, summed over requests and layers."""


def _cost(
    model: ModelConfig,
    element_bytes: int,
    rows: _StepCounts,
    weights: WeightBytes | None,
    expert_use: ExpertUse | None = None,
) -> StepCost:
    plain = _plain(model)
    if weights is None:
        weights = plain.weights.scaled(element_bytes)
    num_bytes = rows.passes * (weights.layers + (weights.head if rows.sampled else 0)) + rows.tokens * weights.lookup
    num_bytes += _expert_bytes(model, rows, weights.experts, expert_use or ExpertUse())
    num_bytes += 2 * rows.sampled * model.vocab_size * element_bytes
    layer_kv_bytes = model.layer_kv_bytes(element_bytes)
    num_bytes += (rows.tokens * model.num_layers + rows.keys) * layer_kv_bytes
    key_value = 2 * model.num_kv_heads * model.head_dim * model.hidden_size
    sampled_only = plain.last_layer - key_value
    flops = 2 * rows.tokens * (plain.matrices - sampled_only)
    flops += 2 * rows.sampled * (sampled_only + model.vocab_size * model.hidden_size)
    flops += 4 * rows.pairs * model.num_heads * model.head_dim
    return StepCost(num_bytes, flops)


def _expert_bytes(model: ModelConfig, rows: _StepCounts, stored: int, expert_use: ExpertUse) -> int:
    """Return the expected bytes that a step reads of the experts, of which `stored` bytes exist."""
    spec = model.experts
    if spec is None:
        return 0
    layers = sum(map(spec.is_sparse, range(model.num_layers)))
    last = int(spec.is_sparse(model.num_layers - 1))

    def hits(tokens: int) -> tuple[float, ...]:
        each = tokens / rows.passes
        return expert_use.expected_hits(each) or (spec.expected_hits(each),) * layers

    used = sum(hits(rows.tokens)[: layers - last]) + sum(hits(rows.sampled)[layers - last :])
    return round(rows.passes * stored * used / (spec.num_experts * layers))


@lru_cache(maxsize=16)
def _layers_by_window(model: ModelConfig) -> Counter[int | None]:
    """Return the number of layers with each attention window."""
    return Counter(spec.window for spec in model.attention_specs)


def _keys(chunk: Chunk, window: int | None) -> int:
    """Return the number of keys that at least one token of the chunk attends to."""
    return chunk.stop if window is None else chunk.stop - max(chunk.start - window + 1, 0)


def _keys_of_last_token(chunk: Chunk, window: int | None) -> int:
    """Return the number of keys that the last token of the chunk attends to."""
    return chunk.stop if window is None else min(chunk.stop, window)


def _pairs(chunk: Chunk, window: int | None) -> int:
    """Return the query-key pairs of a chunk: a token attends to itself and those before it, up to the window."""
    first, last = chunk.start + 1, chunk.stop  # keys that the first and the last token see, without a window
    if window is None or last <= window:
        return (first + last) * chunk.num_tokens // 2
    growing = max(window - first, 0)  # tokens that see less than a window
    return (first + first + growing - 1) * growing // 2 + (chunk.num_tokens - growing) * window


class _Plain(msgspec.Struct, frozen=True):
    """Element counts of a model's weights, in the form of sizes at one byte per element."""

    weights: WeightBytes
    matrices: int
    """Elements of the weight matrices that multiply one token's activations, over all layers."""
    last_layer: int
    """Those of the last layer."""


@lru_cache(maxsize=16)
def _plain(model: ModelConfig) -> _Plain:
    """Count the parameters by building the model's module on the meta device.

    A new architecture therefore needs no formula in this file.
    """
    with torch.device("meta"):
        built = architecture(model.architecture).build(model)
    matrices: dict[int, Fraction] = defaultdict(Fraction)
    for name, slot in built.weight_map().items():
        if slot.module is not built.head:
            matrices[_layer_of(name)] += _used_elements(slot, model)
    weights = WeightBytes.of(built).scaled(1 / built.embed.table.itemsize)
    return _Plain(weights, int(sum(matrices.values())), int(matrices[model.num_layers - 1]))


def _layer_of(name: str) -> int:
    """Return the number of the layer that a weight belongs to, the first number in its name; -1: none."""
    return next((int(part) for part in name.split(".") if part.isdigit()), -1)


def _used_elements(slot: WeightSlot, model: ModelConfig) -> Fraction | int:
    """Return the elements of a weight matrix that multiply one token's activations, on average over the experts."""
    module = slot.module
    if slot.view.dim() < 2:
        return 0
    if isinstance(module, ExpertLinear):
        spec = model.experts
        assert spec is not None
        return slot.view.numel() * Fraction(spec.top_k, spec.num_experts)
    is_matrix = isinstance(module, Router | SharedGate) or (isinstance(module, Linear) and slot.attribute == "matrix")
    return slot.view.numel() if is_matrix else 0
