"""Step inputs match their chunks token by token, and uploads preserve arrays."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roseinfer.engine.step_batch import PENDING, StepBatch
from roseinfer.engine.step_inputs import StepInputs
from roseinfer.upload import staged, upload, upload_into

chunks_drawn = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 30), st.integers(0, 5), st.booleans()), min_size=1, max_size=6
)
"""Chunks as (tokens before it, tokens in it, tokens after it, samples)."""


@given(
    drawn=chunks_drawn,
    block_size=st.sampled_from([1, 3, 16]),
    num_groups=st.integers(1, 3),
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=60, deadline=None)
def test_inputs_are_those_of_each_token(
    drawn: list[tuple[int, int, int, bool]], block_size: int, num_groups: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    sequences = [
        random.choice([PENDING, *range(50)], start + count + behind).tolist() for start, count, behind, _ in drawn
    ]
    tables = [
        random.integers(0, 1000, -(-(start + count) // block_size) * num_groups).tolist()
        for start, count, _, _ in drawn
    ]
    batch = StepBatch(
        rows=list(range(len(drawn))),
        starts=[start for start, _, _, _ in drawn],
        lengths=[count for _, count, _, _ in drawn],
        samples=[samples for _, _, _, samples in drawn],
        token_ids=[
            t for (start, count, _, _), known in zip(drawn, sequences, strict=True) for t in known[start:][:count]
        ],
    )
    for order in (None, random.permutation(len(drawn)).tolist()):
        inputs = StepInputs.of(batch, tables, block_size, order, num_groups=num_groups)
        tokens, positions, slots, last_rows = [], [], [], []
        pending, pending_chunks = [], []
        for at in range(len(drawn)) if order is None else order:
            start, count, _, samples = drawn[at]
            for position in range(start, start + count):
                token_id = sequences[at][position]
                if token_id == PENDING:
                    pending.append(len(tokens))
                    pending_chunks.append(at)
                tokens.append(0 if token_id == PENDING else token_id)
                positions.append(position)
                first = position // block_size * num_groups
                blocks = tables[at][first : first + num_groups]
                slots.append([block * block_size + position % block_size for block in blocks])
            if samples:
                last_rows.append(len(tokens) - 1)
        assert inputs.token_ids.tolist() == tokens
        assert inputs.positions.tolist() == positions
        assert inputs.slots.T.tolist() == slots
        assert inputs.last_rows.tolist() == last_rows
        assert inputs.pending.tolist() == pending
        assert inputs.pending_chunks.tolist() == pending_chunks


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
        tensors[0].zero_()  # must not share memory


def test_an_array_is_uploaded_into_a_tensor() -> None:
    target, array = torch.zeros(2, 3, dtype=torch.int64), np.arange(6).reshape(2, 3)
    upload_into(target, array)
    assert target.tolist() == array.tolist()
