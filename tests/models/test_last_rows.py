"""The last layer computes only the tokens to sample after: the same hidden states, and all keys and values."""

from itertools import pairwise

import pytest
import torch

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.factory import build_engine
from roseinfer.engine.step_batch import BlockTableChange, RowStart, StepBatch

pytestmark = pytest.mark.usefixtures("single_threaded")


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["paged", "gather"])
@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt2"])
def test_hidden_states_of_some_rows_are_those_of_all_rows(
    model: str, attention: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    found = []
    for selects in (True, False):
        engine = build_engine(
            EngineConfig(model=str(folder), device="cpu", dtype="float64", attention=attention, max_batch_size=3)
        )
        runner, lengths, steps = engine.runner, [9, 5, 20], [[0, 0, 0], [8, 0, 7], [9, 5, 12], [9, 5, 20]]
        starts = [RowStart(row, SamplingParams(), 0, length, [], []) for row, length in enumerate(lengths)]
        blocks = [BlockTableChange(row, engine.pool.allocate(3)) for row in range(3)]
        hidden = []
        for number, (before, after) in enumerate(pairwise(steps)):
            some = [row for row in range(3) if after[row] > before[row]]
            batch = StepBatch(
                rows=some,
                starts=[before[row] for row in some],
                lengths=[after[row] - before[row] for row in some],
                samples=[after[row] == lengths[row] for row in some],
                token_ids=[row + at for row in some for at in range(before[row], after[row])],
                row_starts=starts if number == 0 else [],
                block_table_changes=blocks if number == 0 else [],
            )
            token_ids, positions, last_rows, metadata = runner._inputs(batch, runner._update_rows(batch))
            step = (token_ids, positions, runner.attention, metadata)
            hidden.append(runner.model(*step, last_rows) if selects else runner.model(*step)[last_rows])
        found.append(torch.cat(hidden))
        assert len(found[-1]) == len(lengths)
    torch.testing.assert_close(*found)
