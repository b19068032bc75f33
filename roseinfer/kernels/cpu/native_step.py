"""All layers of a decode step as one call of the compiled CPU kernels (cpp/decode_layers.h)."""

import ctypes
from collections.abc import Sequence
from contextlib import nullcontext
from enum import IntEnum

import torch

from roseinfer.kernels.cpu.native_experts import ExpertsStruct, RouterStruct
from roseinfer.kernels.cpu.native_kernels import ScoringStruct
from roseinfer.kernels.cpu.native_library import FLOAT, INTEGER, POINTER, functions
from roseinfer.kernels.cpu.native_matmul import WeightStruct
from roseinfer.spans import operator, recording, span

MAX_ROWS = 64
"""Maximum rows per call: every thread computes the norms of all rows, which would slow down larger batches."""

PARTS = ("qkv_linear", "rope_append", "attention", "output_linear", "gate_up_linear", "down_linear")
"""Parts of a layer, in order. Each part includes the norms, activations and residual additions next to it."""

PARALLEL_PARTS = ("qkv_linear", "rope_append", "attention", "gate_up_linear", "output_linear", "down_linear")
"""Parts of a layer whose MLP reads the stream without the result of attention, in order."""

SPARSE_PARTS = ("qkv_linear", "rope_append", "attention", "output_linear", "route", "experts_mlp")
"""Parts of a layer with experts, in order."""

_SPANS = {
    "rope_append": "roseinfer.kv.append",
    "attention": "roseinfer.attention",
    "route": "roseinfer.moe.route",
    "experts_mlp": "roseinfer.moe.experts",
}
"""Spans around some parts, with the names that the uncompiled decoder uses for the same work."""


class ActivationKind(IntEnum):
    """Activations of MLPs: `Activation` in cpp/elementwise.h."""

    SILU = 0
    GELU_TANH = 1
    GELU = 2


class NormStruct(ctypes.Structure):
    """A norm over the hidden size: `Norm` in cpp/decode_layers.h. Without a weight there is no norm."""

    _fields_ = (("weight", POINTER), ("bias", POINTER), ("centered", INTEGER))


class LayerStruct(ctypes.Structure):
    """Addresses that one decoder layer reads and writes: `Layer` in cpp/decode_layers.h."""

    _fields_ = (
        ("attention_norm", NormStruct),
        ("mlp_norm", NormStruct),
        ("after_attention", NormStruct),
        ("after_mlp", NormStruct),
        ("q_norm", POINTER),
        ("k_norm", POINTER),
        ("rope_table", POINTER),
        ("keys", POINTER),
        ("values", POINTER),
        ("group", INTEGER),
        ("scoring", ScoringStruct),
        ("qkv", WeightStruct),
        ("output", WeightStruct),
        ("gate_up", WeightStruct),
        ("down", WeightStruct),
        ("router", RouterStruct),
        ("experts", ExpertsStruct),
    )


class GroupStruct(ctypes.Structure):
    """Block tables of a group of layers with the same window: `Group` in cpp/decode_layers.h."""

    _fields_ = (("slots", POINTER), ("block_tables", POINTER), ("window", INTEGER))


class StepStruct(ctypes.Structure):
    """A decode step's layers, inputs, buffers and sizes: `Step` in cpp/decode_layers.h."""

    _fields_ = (
        ("layers", POINTER),
        ("groups", POINTER),
        ("stream", POINTER),
        ("positions", POINTER),
        ("context_lens", POINTER),
        ("qkv", POINTER),
        ("attended", POINTER),
        ("gate_up", POINTER),
        ("active", POINTER),
        ("added", POINTER),
        ("chosen", POINTER),
        ("chosen_weights", POINTER),
        ("rows", INTEGER),
        ("hidden_size", INTEGER),
        ("intermediate_size", INTEGER),
        ("heads", INTEGER),
        ("kv_heads", INTEGER),
        ("head_dim", INTEGER),
        ("table_stride", INTEGER),
        ("block_size", INTEGER),
        ("num_groups", INTEGER),
        ("activation", INTEGER),
        ("gated", INTEGER),
        ("parallel", INTEGER),
        ("joint_norms", INTEGER),
        ("eps", FLOAT),
        ("residual_scale", FLOAT),
    )


def decode_layers(step: StepStruct, dtype: torch.dtype, layers: ctypes.Array[LayerStruct]) -> None:
    """Run all layers of a decoder, one new token per row, and update the residual stream in place.

    `step.layers` holds the address of `layers`. This takes one call of the library. While a profiler records, it takes
    one call per part of each layer (`PARTS`), so that a trace shows the time per part.
    """
    function = functions["decode_layers", dtype]
    if not recording():
        function(ctypes.byref(step), 0, len(layers) * len(PARTS))
        return
    part = 0
    for layer in layers:
        for name in _parts(step, layer):
            with span(_SPANS[name]) if name in _SPANS else nullcontext(), operator(f"roseinfer::{name}"):
                function(ctypes.byref(step), part, part + 1)
            part += 1


def _parts(step: StepStruct, layer: LayerStruct) -> Sequence[str]:
    if layer.experts.count:
        return SPARSE_PARTS
    return PARALLEL_PARTS if step.parallel else PARTS
