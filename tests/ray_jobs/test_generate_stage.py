"""`GenerateStage`: each row of a batch is answered as the engine alone would answer it, or has an error."""

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from roseinfer import EngineConfig, SamplingParams, UsageError, build_engine
from roseinfer.ray import GenerateStage

SAMPLING = SamplingParams(max_new_tokens=5)
ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "one", "prompt_token_ids": None, "n": None, "max_new_tokens": None, "tag": 1.5},
    {"id": "b", "prompt": None, "prompt_token_ids": [1, 2, 3], "n": 2, "max_new_tokens": 3, "tag": None},
    {"id": "c", "prompt": None, "prompt_token_ids": None, "n": None, "max_new_tokens": None, "tag": 2.5},
    {"id": "d", "prompt": "four", "prompt_token_ids": None, "n": -1, "max_new_tokens": None, "tag": 3.5},
    {"id": "e", "prompt": "x" * 500, "prompt_token_ids": None, "n": None, "max_new_tokens": None, "tag": 4.5},
    {"id": "f", "prompt": "six", "prompt_token_ids": None, "n": None, "max_new_tokens": 0, "tag": 5.5},
]


@pytest.fixture(scope="module")
def config(tiny_llama: Path) -> EngineConfig:
    return EngineConfig(model=str(tiny_llama), dtype="float64", device="cpu", max_batch_size=4)


@pytest.fixture(scope="module")
def stage(config: EngineConfig) -> GenerateStage:
    return GenerateStage(config, SAMPLING)


def answered(stage: GenerateStage, *batches: Any) -> list[list[dict[str, Any]]]:
    """Run batches at once, and return the rows of each."""

    async def one(batch: Any) -> list[dict[str, Any]]:
        return [row async for table in stage(batch) for row in table.to_pylist()]

    async def every() -> list[list[dict[str, Any]]]:
        return await asyncio.gather(*map(one, batches))

    return asyncio.run(every())


def test_rows_keep_their_columns_and_get_the_engines_answer_or_an_error(
    stage: GenerateStage, config: EngineConfig
) -> None:
    [rows] = answered(stage, pa.Table.from_pylist(ROWS))
    assert [row["id"] for row in rows] == ["a", "b", "b", "c", "d", "e", "f"], "a row per completion"
    assert [row["tag"] for row in rows] == [1.5, None, None, 2.5, 3.5, 4.5, 5.5]
    assert [bool(row["error"]) for row in rows] == [False, False, False, True, True, True, False]
    assert all(row["text"] is None and row["token_ids"] is None for row in rows if row["error"])
    engine = build_engine(config)
    alone = engine.generate("one", SAMPLING) + engine.generate([1, 2, 3], SamplingParams(max_new_tokens=3))
    assert [rows[0]["token_ids"], rows[1]["token_ids"]] == [output.token_ids for output in alone]
    assert (rows[0]["text"], rows[0]["finish_reason"], rows[0]["completion_tokens"]) == (alone[0].text, "length", 5)
    assert [row["sample_index"] for row in rows[1:3]] == [0, 1]
    assert (rows[-1]["token_ids"], rows[-1]["completion_tokens"], rows[-1]["ttft_ms"]) == ([], 0, None)


def test_sampled_answers_do_not_depend_on_the_batch(stage: GenerateStage) -> None:
    rows = [{"id": number, "prompt": f"number {number}", "temperature": 1.0} for number in range(12)]
    [whole] = answered(stage, pa.Table.from_pylist(rows))
    parts = answered(stage, *(pa.Table.from_pylist(rows[start : start + 5][::-1]) for start in (0, 5, 10)))
    by_id = {row["id"]: row["token_ids"] for part in parts for row in part}
    assert {row["id"]: row["token_ids"] for row in whole} == by_id
    assert len({tuple(ids) for ids in by_id.values()}) > 6, "the seeds differ"


def test_log_probabilities_and_batches_of_numpy_arrays(stage: GenerateStage) -> None:
    [[row]] = answered(stage, {"prompt": ["one"], "logprobs": [2]})
    assert len(row["token_logprobs"]) == len(row["token_alternatives"]) == 5
    first = row["token_alternatives"][0]
    assert first[0] == {"token_id": row["token_ids"][0], "logprob": row["token_logprobs"][0]}, "greedy"
    assert len(first) == 2
    with pytest.raises(UsageError, match="batch_format='pyarrow'"):
        answered(stage, ["one"])


def test_an_empty_batch_has_the_columns_of_the_answers(stage: GenerateStage) -> None:
    [rows] = answered(stage, pa.Table.from_pylist(ROWS[:1]).slice(0, 0))
    assert rows == []
