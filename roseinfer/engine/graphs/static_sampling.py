"""Sampling parameters of captured steps, at fixed addresses."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from roseinfer.engine.graph_sizes import SamplingKind
from roseinfer.engine.graphs.static_inputs import Field, StaticInputs
from roseinfer.engine.row_state import RowState
from roseinfer.kernels.sampling.draw_top_k import MAX_TOP_K
from roseinfer.sampling.sampler import SamplingBatch


def sampling_fields(rows: int) -> dict[str, Field]:
    """Return the fields of `StaticInputs` that hold the sampling parameters of up to `rows` rows."""
    return {
        "temperature": (rows, np.float32),
        "top_k": (rows, np.int64),
        "top_p": (rows, np.float32),
        "min_p": (rows, np.float32),
        "seeds": (rows, np.int64),
    }


def fill_sampling(inputs: StaticInputs, states: Sequence[RowState], size: int) -> None:
    """Write the sampling parameters of some rows, followed by greedy padding rows up to index `size`."""
    params = [state.params for state in states]
    inputs.fill("temperature", [p.temperature for p in params], size)
    inputs.fill("top_k", [p.top_k for p in params], size)
    inputs.fill("top_p", [p.top_p for p in params], size)
    inputs.fill("min_p", [p.min_p for p in params], size)
    inputs.fill("seeds", [state.seed for state in states], size)


def sampling_batch(inputs: StaticInputs, size: int, positions: Tensor, kind: SamplingKind) -> SamplingBatch:
    """Return the sampling parameters of the first `size` rows.

    `positions` [size] has the number of tokens before the token to draw, per row.
    """
    fields = inputs.on_device
    return SamplingBatch(
        temperature=fields["temperature"][:size],
        top_k=fields["top_k"][:size],
        top_p=fields["top_p"][:size],
        min_p=fields["min_p"][:size],
        seeds=fields["seeds"][:size],
        positions=positions,
        changes=None,
        all_greedy=kind == "greedy",
        max_top_k=MAX_TOP_K if kind == "top_k" else 0,
    )
