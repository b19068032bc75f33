"""A step's inputs are what its chunks say, token by token, and arrive on the device as they are."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roseinfer.config import SamplingParams
from roseinfer.engine.planner import Chunk, StepPlan
from roseinfer.engine.request import Request
from roseinfer.engine.step_inputs import StepInputs
from roseinfer.upload import staged, upload

chunks_drawn = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 30), st.integers(0, 5), st.booleans()), min_size=1, max_size=6
)
"""Tokens before the chunk, in it, and behind it; whether it samples."""


@given(drawn=chunks_drawn, block_size=st.sampled_from([1, 3, 16]), seed=st.integers(0, 1 << 20))
@settings(max_examples=60, deadline=None)
def test_inputs_are_those_of_each_token(drawn: list[tuple[int, int, int, bool]], block_size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    chunks = []
    for index, (start, count, behind, samples) in enumerate(drawn):
        tokens = random.integers(0, 1000, start + count + behind).tolist()
        request = Request(
            id=index,
            sample_index=0,
            parent=None,
            prompt_token_ids=tokens,
            params=SamplingParams(),
            seed=0,
            max_new_tokens=1,
            stop_token_ids=frozenset(),
            submitted_s=0.0,
        )
        request.block_table = random.integers(0, 1000, -(-(start + count) // block_size)).tolist()
        chunks.append(Chunk(request, start, count, samples, is_decode=False))
    inputs = StepInputs.of(StepPlan(tuple(chunks), (), ()), block_size)

    tokens, positions, slots, last_rows = [], [], [], []
    for chunk in chunks:
        for at in range(chunk.start, chunk.stop):
            tokens.append(chunk.request.token_ids[at])
            positions.append(at)
            slots.append(chunk.request.block_table[at // block_size] * block_size + at % block_size)
        if chunk.samples:
            last_rows.append(len(tokens) - 1)
    assert inputs.token_ids.tolist() == tokens
    assert inputs.positions.tolist() == positions
    assert inputs.slots.tolist() == slots
    assert inputs.last_rows.tolist() == last_rows


def test_uploaded_arrays_keep_values_shapes_and_dtypes_and_begin_aligned() -> None:
    arrays = [
        np.arange(5, dtype=np.int32),
        np.arange(6, dtype=np.int64).reshape(2, 3).T,
        np.zeros(0, dtype=np.int64),
        np.array([[0.5]], dtype=np.float32),
    ]
    cpu = torch.device("cpu")
    in_one_copy = staged(cpu, arrays, pin_memory=False)
    assert [(tensor.data_ptr() - in_one_copy[0].data_ptr()) % 64 for tensor in in_one_copy] == [0] * len(arrays)
    for tensors in (in_one_copy, upload(cpu, *arrays)):
        for array, tensor in zip(arrays, tensors, strict=True):
            assert tensor.dtype == getattr(torch, array.dtype.name)
            assert tuple(tensor.shape) == array.shape
            assert tensor.tolist() == array.tolist()
        tensors[0].zero_()  # nobody else's memory
