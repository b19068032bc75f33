"""Tensor parallelism: the slice of each weight that one rank holds, and the norms at which ranks join their results.

Shoeybi et al., 2019, https://arxiv.org/abs/1909.08053. Query, key and value heads and the width of the MLP are divided
among the ranks: a rank holds some outputs of the projections that begin attention and MLP, and the matching inputs of
those that end them. The sum over ranks, `RankGroup.join`, is fused with the norm that follows. The output head is
divided by vocabulary. Embeddings and norms are on every rank.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from roseinfer.distributed.rank_group import RankGroup
from roseinfer.errors import ModelError, UsageError
from roseinfer.models.attention import Attention
from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.experts import ExpertLinear, ExpertsMLP
from roseinfer.models.linear import Linear
from roseinfer.models.mlp import MLP, GatedMLP
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.weight_map import WeightMap, WeightSlot
from roseinfer.models.weight_slices import RankSlice, RankSlices
from roseinfer.weights.stored_tensor import Range

_PADDING = 64
"""Ranks hold a multiple of this many rows of a large output head: GPUs multiply an odd number several times longer."""

_LARGE_VOCABULARY = 4096
"""Minimum tokens of a vocabulary whose slices are padded to `_PADDING`."""


@dataclass(frozen=True)
class Division:
    """How one rank's heads and MLP width lie in the whole model."""

    whole: ModelConfig
    rank: int
    size: int

    @property
    def config(self) -> ModelConfig:
        """The rank's own model: a model with fewer heads and a narrower MLP.

        Raises UsageError if the number of ranks does not divide the heads or the MLP's width.
        """
        whole, size = self.whole, self.size
        for what, count in {"query heads": whole.num_heads, **_widths(whole)}.items():
            if count % size:
                raise UsageError(
                    f"--tensor-parallel {size} does not divide the model's {what} of {count}: give {_divisors(whole)}"
                )
        kv_heads = whole.num_kv_heads
        if kv_heads % size and size % kv_heads:
            raise UsageError(
                f"--tensor-parallel {size} neither divides the model's {kv_heads} key-value heads nor is a multiple "
                f"of them: give {_divisors(whole)}"
            )
        heads, kv_heads = whole.num_heads // size, max(kv_heads // size, 1)
        specs = tuple(
            msgspec.structs.replace(spec, num_heads=heads, num_kv_heads=kv_heads) for spec in whole.attention_specs
        )
        experts = whole.experts
        if experts is not None:
            experts = msgspec.structs.replace(
                experts,
                intermediate_size=experts.intermediate_size // size,
                shared_size=experts.shared_size // size,
            )
        return msgspec.structs.replace(
            whole,
            num_heads=heads,
            num_kv_heads=kv_heads,
            intermediate_size=-(-whole.intermediate_size // size),
            experts=experts,
            sliding_window=None,
            layer_attention=specs,
        )

    @property
    def queries(self) -> Range:
        """Rows of the query projection."""
        return self.share(self.whole.num_heads * self.whole.head_dim)

    @property
    def keys(self) -> Range:
        """Rows of the key projection, and of the value projection."""
        kv_heads, head_dim = self.whole.num_kv_heads, self.whole.head_dim
        if kv_heads >= self.size:
            return self.share(kv_heads * head_dim)
        head = self.rank * kv_heads // self.size
        return head * head_dim, (head + 1) * head_dim

    @property
    def key_copies(self) -> int:
        """Number of ranks that hold the same key-value head."""
        return max(self.size // self.whole.num_kv_heads, 1)

    def share(self, total: int) -> Range:
        """Return this rank's part of `total` rows or columns, which the number of ranks divides."""
        part = total // self.size
        return self.rank * part, (self.rank + 1) * part

    @property
    def vocabulary(self) -> Range:
        """Rows of the output head, padding included: every rank has the same number of rows."""
        rows = padded_rows(self.whole.vocab_size, self.size)
        return self.rank * rows, (self.rank + 1) * rows


def padded_rows(vocab_size: int, ranks: int) -> int:
    """Return the rows of the output head per rank, padding included."""
    unit = _PADDING if vocab_size >= _LARGE_VOCABULARY else 1
    return -(-vocab_size // (ranks * unit)) * unit


def divide(model: CausalLM, division: Division, ranks: RankGroup) -> RankSlices:
    """Prepare a model that was built from `division.config` to be loaded and run as one of several ranks.

    Marks the projections whose results are partial sums and the norms that join them, and divides the output head.
    Returns the slices of the checkpoint's tensors for the loader. Raises ModelError for a layer that cannot be divided.
    """
    slices: RankSlices = {}
    for module in model.modules():
        if isinstance(module, Attention):
            slices |= _attention_slices(module, division)
            module.divide_joint_norms(ranks, division.key_copies)
        elif isinstance(module, GatedMLP | MLP):
            slices |= _mlp_slices(module, division)
        elif isinstance(module, ExpertsMLP):
            slices |= _expert_slices(module, division)
    divided = {slot.module for slot in slices}
    for module in model.modules():
        if isinstance(module, Linear | ExpertLinear) and module is not model.head and module not in divided:
            raise ModelError(
                f"--tensor-parallel does not support every layer of the {model.config.architecture} architecture: "
                "drop --tensor-parallel"
            )
    for norm in model.joining_norms():
        norm.ranks = ranks
    return slices | model.divide_head(ranks, division.vocabulary)


def _attention_slices(attention: Attention, division: Division) -> RankSlices:
    whole = division.whole
    query, key = whole.num_heads * whole.head_dim, whole.num_kv_heads * whole.head_dim
    queries, keys = division.queries, division.keys
    values = (keys[0] + key, keys[1] + key)
    fused = (queries, *((query + start, query + stop) for start, stop in (keys, values)))
    ranges = {"q_proj": (query, (queries,)), "k_proj": (key, (keys,)), "v_proj": (key, (keys,))}
    slices = dict(_column_parallel(attention.qkv.weight_map(), ranges, (query + 2 * key, fused)))
    slices |= _row_parallel(attention.output, query, queries, division.rank)
    if attention.sinks is not None:
        sinks = attention.weight_map()["sinks"]
        slices[sinks] = RankSlice(0, whole.num_heads, (division.share(whole.num_heads),))
    if attention.joint:
        for norm, size, kept in ((attention.q_norm, query, queries), (attention.k_norm, key, keys)):
            if norm is not None:
                slices |= {slot: RankSlice(0, size, (kept,)) for slot in norm.weight_map().values()}
    return slices


def _mlp_slices(mlp: GatedMLP | MLP, division: Division) -> RankSlices:
    width = mlp.down.weight.shape[1] * division.size
    kept = division.share(width)
    if isinstance(mlp, GatedMLP):
        fused = (kept, (width + kept[0], width + kept[1]))
        ranges = {"gate_proj": (width, (kept,)), "up_proj": (width, (kept,))}
        slices = dict(_column_parallel(mlp.gate_up.weight_map(), ranges, (2 * width, fused)))
    else:
        slices = dict(_column_parallel(mlp.up.weight_map(), {}, (width, (kept,))))
    return slices | _row_parallel(mlp.down, width, kept, division.rank)


def _expert_slices(experts: ExpertsMLP, division: Division) -> RankSlices:
    """Divide the width of every expert. The router is on every rank, so that all choose the same experts."""
    experts.is_partial = True
    width = experts.spec.intermediate_size * division.size
    kept = (division.share(width),)
    slices = {slot: RankSlice(0, width, kept) for slot in experts.gate_up.weight_map().values()}
    for slot in experts.down.weight_map().values():
        if slot.attribute != "bias":
            slices[slot] = RankSlice(1, width, kept)
        elif division.rank > 0:
            slices[slot] = _without_bias(slot)
    return slices


def _column_parallel(
    slots: WeightMap, parts: Mapping[str, tuple[int, tuple[Range, ...]]], fused: tuple[int, tuple[Range, ...]]
) -> Iterator[tuple[WeightSlot, RankSlice]]:
    """Yield the slices of a projection of which a rank computes some outputs.

    `parts` has the total rows and the rank's rows of tensors that checkpoints store by name, `fused` those of one
    tensor for all.
    """
    for name, slot in slots.items():
        size, ranges = parts.get(name.rpartition(".")[0], fused)
        dim = 1 if slot.transposed and slot.attribute != "bias" else 0
        yield slot, RankSlice(dim, size, ranges)


def _row_parallel(linear: Linear, size: int, kept: Range, rank: int) -> RankSlices:
    """Return the slices of a projection of which a rank has some inputs. Rank 0 alone adds the bias."""
    linear.is_partial = True
    slots = linear.weight_map()
    weight = slots["weight"]
    slices = {weight: RankSlice(0 if weight.transposed else 1, size, (kept,))}
    if (bias := slots.get("bias")) is not None and rank > 0:
        slices[bias] = _without_bias(bias)
    return slices


def _without_bias(slot: WeightSlot) -> RankSlice:
    """Return the slice of a bias that another rank adds: zeros."""
    return RankSlice(0, len(slot.view), (), padding=len(slot.view))


def _widths(config: ModelConfig) -> dict[str, int]:
    """Return the widths of a model's MLPs, by what they are called."""
    experts = config.experts
    if experts is None:
        return {"MLP width": config.intermediate_size}
    widths = {"width of an expert": experts.intermediate_size, "width of the shared expert": experts.shared_size}
    return widths | ({"MLP width": config.intermediate_size} if experts.dense_layers else {})


def _divisors(config: ModelConfig) -> str:
    """Return the numbers of ranks that divide a model, as text."""
    heads, kv_heads, widths = config.num_heads, config.num_kv_heads, _widths(config).values()
    fitting = [
        str(size)
        for size in range(1, heads + 1)
        if not any(count % size for count in (heads, *widths)) and (kv_heads % size == 0 or size % kv_heads == 0)
    ]
    return " or ".join(fitting) if len(fitting) < 3 else f"{', '.join(fitting[:-1])} or {fitting[-1]}"
