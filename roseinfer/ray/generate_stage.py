"""A stage of a Ray Data dataset that completes prompts."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from hashlib import blake2b
from typing import Any

import msgspec
import pyarrow as pa

from roseinfer.config import EngineConfig, Mode, SamplingParams
from roseinfer.errors import UsageError
from roseinfer.ray.actor_engine import actor_pool, batches_in_flight, node_engine
from roseinfer.ray.answer_loop import AnswerLoop
from roseinfer.ray.attempts import BatchAttempts, attempt_to_build
from roseinfer.ray.blocks import PlacedRequest
from roseinfer.workload.answer import Answer, rows
from roseinfer.workload.prompts import PromptForm, shown
from roseinfer.workload.request_files import without_nulls
from roseinfer.workload.request_lines import ROW_KEYS, request_of
from roseinfer.workload.workload_request import WorkloadRequest

_COLUMNS = {
    "sample_index": pa.int64(),
    "text": pa.string(),
    "token_ids": pa.list_(pa.int64()),
    "finish_reason": pa.string(),
    "prompt_tokens": pa.int64(),
    "completion_tokens": pa.int64(),
    "ttft_ms": pa.float64(),
    "e2e_ms": pa.float64(),
    "token_logprobs": pa.list_(pa.float64()),
    "token_alternatives": pa.list_(pa.list_(pa.struct([("token_id", pa.int64()), ("logprob", pa.float64())]))),
    "error": pa.string(),
}
"""Columns of the answers. All but `error` are null in the row of a request that cannot run."""

_MAX_NAMED = 60
"""Maximum characters of a prompt that an error names."""


class GenerateStage:
    """Completes the prompts of a dataset: a class for `Dataset.map_batches`, with the options of `stage_options`.

    A row is a request with the keys of a line of `roseinfer generate --input`: a `prompt`, `messages` or
    `prompt_token_ids`, and sampling settings; null is "not set". Each completion becomes a row: the columns of its
    request, then those of the answer. The row of a request that cannot run has an `error`; the job goes on.

    Batches in flight run as one continuous batch. A request without a seed gets one from its id and prompt, so that an
    answer depends neither on the order of the rows nor on the actor. Raises RoseinferError if the engine cannot be
    built, and for a batch that killed the process of its actor three times, which Ray would repeat without end.
    """

    def __init__(
        self,
        engine: EngineConfig,
        sampling: SamplingParams | None = None,
        *,
        mode: Mode = "offline",
        form: PromptForm | None = None,
    ) -> None:
        """Without `sampling`, the settings that the model recommends apply. `form` says how prompts are converted."""
        form = form or PromptForm()
        with attempt_to_build("lower max_batch_size or kv_cache_memory of EngineConfig"):
            built = node_engine(engine)
        form.check(built)
        self._has_text = built.tokenizer is not None
        self._sampling = sampling or built.default_params
        self._loop = AnswerLoop(built, mode, lambda prompt: form.converted(prompt, built))
        self._attempts = BatchAttempts("leave these requests out, or lower max_batch_size of EngineConfig")

    async def __call__(self, batch: pa.Table | Mapping[str, Any]) -> AsyncIterator[pa.Table]:
        """Yield the answers to a batch, in the order of its rows. Raises UsageError for a batch of another type."""
        table = _table(batch)
        requests = table.to_pylist()
        placed = [self._placed(number, row) for number, row in enumerate(requests)]
        async with self._attempts.attempt(_digest(placed), _named(requests, placed)):
            answers = await asyncio.wrap_future(self._loop.submit(placed))
        done = [(at, row) for at, answer in enumerate(answers) for row in _rows(answer, self._has_text)]
        result = table.take(pa.array([at for at, _ in done], pa.int64()))
        for name, kind in _COLUMNS.items():
            column = pa.array([row.get(name) for _, row in done], kind)
            at = result.schema.get_field_index(name)
            result = result.append_column(name, column) if at < 0 else result.set_column(at, name, column)
        yield result

    def _placed(self, number: int, row: dict[str, Any]) -> PlacedRequest:
        fields = without_nulls({key: value for key, value in row.items() if key in ROW_KEYS})
        try:
            request = request_of(fields, number, self._sampling)
        except UsageError as error:
            request = WorkloadRequest(id=number, prompt="", params=self._sampling, refusal=str(error))
        identity = msgspec.json.encode((str(row.get("id")), request.prompt))
        return PlacedRequest(int.from_bytes(blake2b(identity, digest_size=7).digest()), request)


def stage_options(
    engine: EngineConfig, sampling: SamplingParams | None = None, *, actors: int, batch_size: int = 32, **options: Any
) -> dict[str, Any]:
    """Return the arguments of `Dataset.map_batches` for a GenerateStage.

    `actors` is the number of engines. Each gets `engine.tensor_parallel` GPUs, or none for device "cpu". `options` are
    further arguments of GenerateStage.
    """
    has_gpu = engine.device != "cpu"
    return {
        "fn_constructor_kwargs": {"engine": engine, "sampling": sampling, **options},
        "compute": actor_pool(actors, batches_in_flight(engine, batch_size, has_gpu=has_gpu)),
        "batch_size": batch_size,
        "batch_format": "pyarrow",
        "num_gpus": engine.tensor_parallel if has_gpu else 0,
    }


def _table(batch: Any) -> pa.Table:
    if isinstance(batch, pa.Table):
        return batch
    if isinstance(batch, Mapping):
        return pa.table({name: list(values) for name, values in batch.items()})
    raise UsageError(
        f"a batch of type {type(batch).__name__} is not supported: give map_batches batch_format='pyarrow'"
    )


def _digest(placed: list[PlacedRequest]) -> str:
    """Return a digest of the ids and prompts of a batch, the same whenever Ray repeats the batch."""
    return blake2b(msgspec.json.encode([each.place for each in placed]), digest_size=16).hexdigest()


def _named(requests: list[dict[str, Any]], placed: list[PlacedRequest]) -> str:
    if not placed:
        return "an empty batch"
    given = requests[0].get("id")
    first = f"id {given!r}" if given is not None else f"prompt {shown(placed[0].request.prompt)[:_MAX_NAMED]!r}"
    return f"a batch of {len(placed)} requests, the first with {first},"


def _rows(answer: Answer, has_text: bool) -> Iterator[dict[str, Any]]:
    for row in rows(answer, has_text=has_text):
        drawn = row.get("logprobs")
        if drawn is not None:
            row["token_logprobs"] = [each.logprob for each in drawn]
            row["token_alternatives"] = [[{"token_id": i, "logprob": p} for i, p in each.top] for each in drawn]
        if "token_ids" in row:
            row["completion_tokens"] = len(row["token_ids"])
        yield row
