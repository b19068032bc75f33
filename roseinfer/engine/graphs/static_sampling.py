"""How the rows of a step that is a graph draw: parameters at fixed addresses."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from roseinfer.engine.graphs.graph_key import Kind
from roseinfer.engine.graphs.static_inputs import Field, StaticInputs
from roseinfer.engine.planner import Chunk
from roseinfer.kernels.sampling.top_k import WIDEST
from roseinfer.sampling.sampler import SamplingBatch


def sampling_fields(rows: int) -> dict[str, Field]:
    """What static inputs need for so many rows."""
    return {
        "temperature": (rows, np.float32),
        "top_k": (rows, np.int64),
        "top_p": (rows, np.float32),
        "min_p": (rows, np.float32),
        "seeds": (rows, np.int64),
    }


def fill_sampling(inputs: StaticInputs, chunks: Sequence[Chunk], size: int) -> None:
    """Write the parameters of the chunks' requests, a row each, and up to `size` rows that are greedy."""
    params = [chunk.request.params for chunk in chunks]
    inputs.fill("temperature", [p.temperature for p in params], size)
    inputs.fill("top_k", [p.top_k for p in params], size)
    inputs.fill("top_p", [p.top_p for p in params], size)
    inputs.fill("min_p", [p.min_p for p in params], size)
    inputs.fill("seeds", [chunk.request.seed for chunk in chunks], size)


def sampling_batch(inputs: StaticInputs, size: int, positions: Tensor, kind: Kind) -> SamplingBatch:
    """The first `size` rows; `positions` [size] count tokens before the ones to draw."""
    there = inputs.there
    return SamplingBatch(
        temperature=there["temperature"][:size],
        top_k=there["top_k"][:size],
        top_p=there["top_p"][:size],
        min_p=there["min_p"][:size],
        seeds=there["seeds"][:size],
        positions=positions,
        changes=None,
        all_greedy=kind == "greedy",
        max_top_k=WIDEST if kind == "top_k" else 0,
    )
