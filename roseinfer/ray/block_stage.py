"""The actors of a job of the command line: blocks of requests in, encoded lines of answers out."""

import asyncio
import os
import pickle
import time
from collections.abc import AsyncIterator
from typing import Any

from roseinfer.config import RunConfig
from roseinfer.errors import RoseinferError
from roseinfer.ray.actor_engine import node_engine
from roseinfer.ray.answer_loop import AnswerLoop
from roseinfer.ray.blocks import Block, BlockAnswer, Failure
from roseinfer.workload.answer import Answer, encoded
from roseinfer.workload.prompts import PromptForm


class BlockStage:
    """Answers blocks of requests. A class for `Dataset.map_batches`, with a block per batch.

    An engine that cannot be built, and a step that fails, become the failure of a block: Ray would start the actor
    again, and again in vain.
    """

    def __init__(self, config: RunConfig, form: PromptForm) -> None:
        started_s = time.time()
        self._failure: Failure | None = None
        try:
            engine = node_engine(config.engine)
            form.check(engine)
        except RoseinferError as error:
            self._failure = Failure.of(error)
            return
        self._has_text = engine.tokenizer is not None
        self._loop = AnswerLoop(engine, config.workload.mode, lambda prompt: form.converted(prompt, engine))
        self._ready_s = time.time()
        self._startup_s = self._ready_s - started_s

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
            answers = await asyncio.wrap_future(self._loop.submit(block.requests))
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            return BlockAnswer(number=block.number, failure=Failure(f"a step failed in an actor: {text}", False))
        outputs = [output for answer in answers for output in answer.outputs]
        return BlockAnswer(
            number=block.number,
            place=block.requests[0].place,
            lines=b"".join(encoded(answer, has_text=self._has_text) for answer in answers),
            answers=len(answers),
            refused=sum(answer.error is not None for answer in answers),
            prompt_tokens=sum(map(_prompt_tokens, answers)),
            completion_tokens=sum(len(output.token_ids) for output in outputs),
            ttft_s=min((output.ttft_s for output in outputs if output.ttft_s is not None), default=None),
            actor=f"{os.uname().nodename}:{os.getpid()}",
            started_s=started_s,
            ended_s=time.time(),
            ready_s=self._ready_s,
            startup_s=self._startup_s,
            idle_s=self._loop.idle_s,
        )


def _prompt_tokens(answer: Answer) -> int:
    return len(answer.outputs[0].prompt_token_ids) if answer.outputs else 0
