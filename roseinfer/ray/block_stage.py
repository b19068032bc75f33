"""The actors of a job of the command line: blocks of requests in, encoded lines of answers out."""

import asyncio
import os
import pickle
import time
from collections.abc import AsyncIterator
from functools import cached_property
from typing import Any

from msgspec.structs import replace

from roseinfer.config import RunConfig
from roseinfer.engine.engine import Engine
from roseinfer.errors import RoseinferError
from roseinfer.ray.actor_engine import node_engine
from roseinfer.ray.actor_recording import ActorRecording
from roseinfer.ray.answer_loop import AnswerLoop
from roseinfer.ray.attempts import BatchAttempts, attempt_to_build
from roseinfer.ray.blocks import Block, BlockAnswer, Failure, PlacedRequest
from roseinfer.workload.answer import Answer, encoded
from roseinfer.workload.load_plan import PlannedRequest, plan_load, requests_per_pass
from roseinfer.workload.prompts import PromptForm
from roseinfer.workload.workload_request import WorkloadRequest


class BlockStage:
    """Answers blocks of requests. A class for `Dataset.map_batches`, with a block per batch.

    An engine that cannot be built, a step that fails, and a block that kills the process time and again become the
    failure of a block: Ray would start the actor again, and again in vain.
    """

    def __init__(self, config: RunConfig, form: PromptForm, warms_up: bool = False) -> None:
        """With `warms_up`, one pass of the configured workload runs before the first block."""
        started_s = time.time()
        self._failure: Failure | None = None
        self._config = config
        self._attempts = BatchAttempts("leave these requests out, or lower --max-batch-size")
        try:
            with attempt_to_build("lower --max-batch-size or --kv-cache-memory"):
                self._build(config, form, warms_up)
        except RoseinferError as error:
            self._failure = Failure.of(error)
        self._startup_s = time.time() - started_s

    def _build(self, config: RunConfig, form: PromptForm, warms_up: bool) -> None:
        engine = node_engine(config.engine)
        form.check(engine)
        self._has_text = engine.tokenizer is not None
        self._loop = AnswerLoop(engine, config.workload.mode, lambda prompt: form.converted(prompt, engine))
        self._workload = DrawnWorkload(engine, config)
        if warms_up:
            self._loop.submit(self._workload.requests(0, self._workload.per_pass)).result()
            engine.runner.capture_missing()
            engine.pool.reset_prefix_cache()
            self._loop.reset_idle()

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Yield {"answer": [an encoded BlockAnswer]} for {"block": [a pickled Block]}."""
        block: Block = pickle.loads(batch["block"][0])
        yield {"answer": [pickle.dumps(await self._answer(block))]}

    async def _answer(self, block: Block) -> BlockAnswer:
        failure = self._failure or block.failure
        if failure is not None:
            return BlockAnswer(number=block.number, failure=failure)
        started_s = time.time()
        try:
            async with self._attempts.attempt(str(block.number), _named(block)):
                requests = block.requests if block.drawn is None else self._workload.requests(*block.drawn)
                recording = ActorRecording(self._loop, self._config) if block.records else None
                if recording is not None:
                    recording.begin()
                answers = await asyncio.wrap_future(self._loop.submit(requests))
                files = {} if recording is None else await asyncio.wrap_future(recording.files)
        except RoseinferError as error:
            return BlockAnswer(number=block.number, failure=Failure.of(error))
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            return BlockAnswer(number=block.number, failure=Failure(f"a step failed in an actor: {text}", False))
        outputs = [output for answer in answers for output in answer.outputs]
        return BlockAnswer(
            number=block.number,
            place=requests[0].place,
            lines=b"".join(encoded(answer, has_text=self._has_text) for answer in answers),
            answers=len(answers),
            refused=sum(answer.error is not None for answer in answers),
            prompt_tokens=sum(map(_prompt_tokens, answers)),
            completion_tokens=sum(len(output.token_ids) for output in outputs),
            ttft_s=min((output.ttft_s for output in outputs if output.ttft_s is not None), default=None),
            actor=f"{os.uname().nodename}:{os.getpid()}",
            started_s=started_s,
            ended_s=time.time(),
            startup_s=self._startup_s,
            idle_s=self._loop.idle_s,
            files=files,
        )


class DrawnWorkload:
    """The requests of a configured workload, repeated without end. Each pass draws other prompts."""

    def __init__(self, engine: Engine, config: RunConfig) -> None:
        self._engine, self._config = engine, config
        self._passes: dict[int, list[PlannedRequest]] = {}

    @cached_property
    def per_pass(self) -> int:
        """Number of requests per pass."""
        return requests_per_pass(self._config)

    def requests(self, start: int, stop: int) -> list[PlacedRequest]:
        """Return the requests from number `start` to `stop`, counted over all passes."""
        return [PlacedRequest(place, self._request(place)) for place in range(start, stop)]

    def _request(self, place: int) -> WorkloadRequest:
        number, index = divmod(place, self.per_pass)
        if number not in self._passes:
            workload = replace(self._config.workload, seed=self._config.workload.seed + number)
            self._passes[number] = plan_load(workload, self._config.sampling, self._engine)
        planned = self._passes[number][index]
        return WorkloadRequest(id=place, prompt=planned.prompt, params=planned.params)


def _named(block: Block) -> str:
    if block.drawn is not None:
        first, last = block.drawn[0], block.drawn[1] - 1
    else:
        first, last = block.requests[0].place, block.requests[-1].place
    return f"block {block.number} (requests {first + 1} to {last + 1})"


def _prompt_tokens(answer: Answer) -> int:
    return len(answer.outputs[0].prompt_token_ids) if answer.outputs else 0
