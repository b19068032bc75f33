"""Every token of a step's prompts is computed once: in a run, or over the block tables."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roseinfer.attention.dense_layouts import dense_parts
from roseinfer.attention.step_layouts import StepLayout
from roseinfer.kernels.attention.dense_attention import LENGTH_UNIT, dense_ceiling, dense_length

LENGTHS = st.one_of(st.integers(1, 700), st.sampled_from([512, 1024, 2048, 4096, 5000, 4097, 8191, 9000, 16384]))
PASTS = st.one_of(st.just(0), st.integers(1, 40000))


@given(
    requests=st.lists(st.tuples(PASTS, LENGTHS), min_size=1, max_size=9).map(
        lambda some: [request for request in some for _ in range(1 + request[1] % 3)]
    ),
    decodes=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_runs_and_parts_hold_every_token_once(requests: list[tuple[int, int]], decodes: int) -> None:
    requests = [(100, 1)] * decodes + requests
    layout = StepLayout([new for _, new in requests], [past for past, _ in requests], [], torch.empty(0))
    parts = dense_parts(layout, decodes, 16)
    if parts is None:
        return
    rows = np.zeros(sum(layout.query_lens), dtype=np.int64)
    for run in parts.runs:
        assert dense_length(run.length) == run.length
        rows[run.first : run.first + run.prompts * run.length] += 1
    if parts.sources:
        assert parts.query_starts[0] == decodes
        assert parts.query_starts[-1] == len(rows)
        for (start, stop), context, source in zip(
            pairwise(parts.query_starts), parts.context_lens, parts.sources, strict=True
        ):
            past, new = requests[source]
            assert context in (0, past + new)
            rows[start:stop] += context > 0
    assert (rows[decodes:] == 1).all()
    first_keys = dict(zip(parts.query_starts.tolist(), parts.first_keys.tolist(), strict=False))
    for past in parts.pasts:
        assert first_keys[past.first] == past.keys
        assert past.keys % LENGTH_UNIT == 0
        assert past.length <= past.padded <= dense_ceiling(max(past.length, past.keys + past.length))
        if past.request is not None:
            assert past.keys <= requests[decodes + past.request][0]
            assert past.length == requests[decodes + past.request][1]
        else:
            assert past.first >= past.keys
