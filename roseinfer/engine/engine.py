"""The engine's Python API."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import replace
from typing import TypeGuard

from roseinfer.config import Mode, SamplingParams
from roseinfer.engine.call import Call
from roseinfer.engine.loaded_model import LoadedModel
from roseinfer.engine.outputs import RequestOutput, TokenEvent
from roseinfer.engine.prompt import Chat, Prompt
from roseinfer.engine.schedulers import SCHEDULERS, OfflineScheduler, OnlineScheduler, Scheduler
from roseinfer.engine.shared_loop import NewScheduler, SharedLoop
from roseinfer.engine.step_plan import Policy
from roseinfer.errors import UsageError


class Engine(LoadedModel):
    """A loaded model that completes prompts. `build_engine` constructs it.

    All threads may call an engine. Calls of `generate`, `stream` and their asyncio forms run as one batch, also those
    of different threads. The text of a call does not depend on the others. A process that was forked after the engine
    was built cannot use it.

    The schedulers that `scheduler` returns share the KV cache with these calls: finish or abort the requests of one
    scheduler before another one steps.
    """

    def scheduler(self, mode: Mode) -> Scheduler:
        """Return a new scheduler without requests. Request ids and the seeds derived from them start at zero."""
        return SCHEDULERS[mode](self)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Complete one or several prompts, batched for throughput.

        A prompt is a text, a list of token ids, or a list of {"role", "content"} chat messages. No chat template is
        applied to a text, even if the model is a chat model. `params` applies to all prompts, or is a list with one
        entry per prompt; without it, `default_params` applies. Outputs are in the order of the prompts, with `n`
        outputs per prompt. `request_id` is the index of the prompt.

        Raises UsageError, before anything runs, for a prompt or parameters that can never run.
        """
        call = self._call(prompts, params, streams=False)
        if not call.is_over:
            loop = self._loop
            try:
                loop.submit(call, self._batch_scheduler)
                loop.wait(call, lambda: call.is_over)
            finally:
                loop.cancel(call)
            call.raise_error()
        return call.sorted_outputs()

    def stream(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> Generator[TokenEvent, None, None]:
        """Complete one or several prompts, yielding each token as it is drawn.

        Prompts, `params` and errors are as in `generate`. The texts of a completion's events concatenate to the
        completion's text, and its last event has a `finish_reason`. Several prompts run as one batch, so their events
        alternate; `request_id` is the index of the prompt. A completion of no tokens has no events. Closing the
        iterator early aborts the unfinished requests.
        """
        call = self._call(prompts, params, streams=True)
        events = _events(self._loop, call, self._online_scheduler)
        next(events)
        return events

    async def generate_async(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Complete one or several prompts, as `generate` does, without blocking the event loop.

        The steps run on a thread of the engine. Cancelling the task aborts the unfinished requests.
        """
        call = await asyncio.to_thread(self._call, prompts, params, streams=False)
        if not call.is_over:
            loop = self._loop
            try:
                loop.submit(call, self._online_scheduler)
                await loop.wait_async(call, lambda: call.is_over)
            finally:
                loop.cancel(call)
            call.raise_error()
        return call.sorted_outputs()

    async def stream_async(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> AsyncGenerator[TokenEvent, None]:
        """Complete one or several prompts, yielding each token, as `stream` does, without blocking the event loop.

        The steps run on a thread of the engine, and only while a token is awaited. Cancelling the task, or closing the
        iterator early, aborts the unfinished requests. Errors are raised when the first token is awaited.
        """
        call = await asyncio.to_thread(self._call, prompts, params, streams=True)
        if call.is_over:
            return
        loop = self._loop
        try:
            loop.submit(call, self._online_scheduler)
            while True:
                await loop.wait_async(call, lambda: bool(call.events) or call.is_over)
                event = loop.take_event(call)
                if event is None:
                    return
                yield event
        finally:
            loop.cancel(call)

    def close(self) -> None:
        """Release the processes of an engine with `tensor_parallel`. It cannot run requests afterwards.

        An engine that is no longer referenced, or whose process ends, releases them too. Without other ranks, this does
        nothing.
        """
        with self.lock:
            self.runner.close()

    @property
    def _loop(self) -> SharedLoop:
        """The loop of this engine's calls. Not a field: a copy of the engine with other limits has its own."""
        with self.lock:
            loop: SharedLoop = self.__dict__.setdefault("_shared_loop", SharedLoop())
            return loop

    def _call(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        *,
        streams: bool,
    ) -> Call:
        """Return the call of these prompts, encoded. Raises UsageError for a prompt that is none."""
        self.lock.check_process()
        submitted_s = time.perf_counter()
        several: Sequence[Prompt] = [prompts] if _is_single(prompts) else prompts  # type: ignore[assignment]
        each = _params_of(several, self.default_params, params)
        return Call([self.encode(prompt) for prompt in several], each, submitted_s, streams=streams)

    def _batch_scheduler(self) -> Scheduler:
        return _BatchScheduler(self)

    def _online_scheduler(self) -> Scheduler:
        return OnlineScheduler(self)


class _BatchScheduler(OfflineScheduler):
    """The offline mode for calls: each call sorts its own requests, so that none is overtaken by later calls."""

    @staticmethod
    def policy(engine: LoadedModel) -> Policy:
        return replace(OfflineScheduler.policy(engine), longest_first=False)


def _params_of(
    prompts: Sequence[Prompt], default: SamplingParams, params: SamplingParams | Sequence[SamplingParams] | None
) -> list[SamplingParams]:
    """Return the parameters of each prompt."""
    if params is None or isinstance(params, SamplingParams):
        return [params or default] * len(prompts)
    each = list(params)
    if wrong := [one for one in each if not isinstance(one, SamplingParams)]:
        raise UsageError(
            f"invalid sampling parameters {wrong[0]!r}: give SamplingParams, one for all or one per prompt"
        )
    if len(each) != len(prompts):
        raise UsageError(
            f"{len(prompts)} prompts, but {len(each)} sampling parameters: give one for all, or one per prompt"
        )
    return each


def _is_single(prompts: Prompt | Sequence[Prompt]) -> TypeGuard[Prompt]:
    """True for one prompt: a text, a list of messages, or a sequence of ids (elements without dimensions)."""
    if isinstance(prompts, str | Chat):
        return True
    if len(prompts) == 0:
        return False
    first = prompts[0]
    return isinstance(first, Mapping) or not (isinstance(first, Sequence | Chat) or getattr(first, "ndim", False))


def _events(loop: SharedLoop, call: Call, new_scheduler: NewScheduler) -> Generator[TokenEvent, None, None]:
    """Queue a call, and yield nothing once, then its events. A generator that was never begun could not clean up."""
    try:
        if not call.is_over:
            loop.submit(call, new_scheduler)
            loop.wait(call, lambda: call.is_started)
            call.raise_error()
        yield None  # type: ignore[misc]  # dropped by the caller
        while True:
            loop.wait(call, lambda: bool(call.events) or call.is_over)
            event = loop.take_event(call)
            if event is None:
                return
            yield event
    finally:
        loop.cancel(call)
