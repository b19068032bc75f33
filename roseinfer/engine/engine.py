"""The engine as a library user sees it."""

from collections.abc import Generator, Mapping, Sequence
from typing import TypeGuard

from roseinfer.config import Mode, SamplingParams
from roseinfer.engine.loaded_model import LoadedModel, Prompt
from roseinfer.engine.outputs import RequestOutput, TokenEvent
from roseinfer.engine.schedulers import SCHEDULERS, OfflineScheduler, OnlineScheduler, Scheduler
from roseinfer.errors import UsageError


class Engine(LoadedModel):
    """A loaded model. `build_engine` makes one.

    One thread uses an engine at a time. Its schedulers share the KV cache: finish or abort the requests of one before
    another steps.
    """

    def scheduler(self, mode: Mode) -> Scheduler:
        """A fresh scheduler: no requests, ids and unseeded draws counted from zero."""
        return SCHEDULERS[mode](self)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Complete one prompt or several, batched for throughput.

        A prompt is a text, token ids, or a chat: a list of {"role", "content"} messages. Texts are sent as they are,
        also to a chat model. `params` are for all prompts, or one for each. Outputs come in the prompts' order, `n`
        for a prompt whose parameters ask for n completions; `request_id` is the prompt's index.

        Raises UsageError, before anything runs, for a prompt or parameters that can never run.
        """
        scheduler = OfflineScheduler(self)
        request_ids = _submit(scheduler, prompts, params)
        try:
            return scheduler.run()
        finally:
            _abort(scheduler, request_ids)

    def stream(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> Generator[TokenEvent, None, None]:
        """Complete one prompt or several, token by token; prompts, `params` and errors as in `generate`.

        The texts of a completion's events concatenate to its text; the last one has a `finish_reason`. Completions of
        several prompts run as one batch, so their events alternate: `request_id` is the prompt's index. A completion
        of no tokens has no events. Closing the iterator early aborts what is unfinished.
        """
        scheduler = OnlineScheduler(self)
        return _events(scheduler, _submit(scheduler, prompts, params))


def _submit(
    scheduler: Scheduler,
    prompts: Prompt | Sequence[Prompt],
    params: SamplingParams | Sequence[SamplingParams] | None,
) -> list[int]:
    several: Sequence[Prompt] = [prompts] if _is_single(prompts) else prompts  # type: ignore[assignment]
    each = [params] * len(several) if params is None or isinstance(params, SamplingParams) else list(params)
    if len(each) != len(several):
        raise UsageError(f"there are {len(several)} prompts, but parameters for {len(each)}: give one for each, or one")
    return [scheduler.submit(prompt, its) for prompt, its in zip(several, each, strict=True)]


def _is_single(prompts: Prompt | Sequence[Prompt]) -> TypeGuard[Prompt]:
    """Whether this is one prompt: a text, messages, or ids, which in an array have no dimensions."""
    if isinstance(prompts, str):
        return True
    if len(prompts) == 0:
        return False
    first = prompts[0]
    return isinstance(first, Mapping) or not (isinstance(first, Sequence) or getattr(first, "ndim", False))


def _events(scheduler: Scheduler, request_ids: list[int]) -> Generator[TokenEvent, None, None]:
    try:
        while scheduler.has_unfinished:
            yield from scheduler.step()
    finally:
        _abort(scheduler, request_ids)


def _abort(scheduler: Scheduler, request_ids: list[int]) -> None:
    """Give back what an interrupted run holds; finished requests are not touched."""
    for request_id in request_ids:
        scheduler.abort(request_id)
