"""The engine's Python API."""

from collections.abc import Generator, Mapping, Sequence
from typing import TypeGuard

from roseinfer.config import Mode, SamplingParams
from roseinfer.engine.loaded_model import LoadedModel, Prompt
from roseinfer.engine.outputs import RequestOutput, TokenEvent
from roseinfer.engine.schedulers import SCHEDULERS, OfflineScheduler, OnlineScheduler, Scheduler
from roseinfer.errors import UsageError


class Engine(LoadedModel):
    """A loaded model that completes prompts. `build_engine` constructs it.

    Only one thread may use an engine at a time. Its schedulers share the KV cache: finish or abort the requests of
    one scheduler before another one steps.
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
        entry per prompt. Outputs are in the order of the prompts, with `n` outputs per prompt. `request_id` is the
        index of the prompt.

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
        """Complete one or several prompts, yielding each token as it is drawn.

        Prompts, `params` and errors are as in `generate`. The texts of a completion's events concatenate to the
        completion's text, and its last event has a `finish_reason`. Several prompts run as one batch, so their events
        alternate; `request_id` is the index of the prompt. A completion of no tokens has no events. Closing the
        iterator early aborts the unfinished requests.
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
        raise UsageError(
            f"{len(several)} prompts, but {len(each)} sampling parameters: give one for all, or one per prompt"
        )
    return [scheduler.submit(prompt, its) for prompt, its in zip(several, each, strict=True)]


def _is_single(prompts: Prompt | Sequence[Prompt]) -> TypeGuard[Prompt]:
    """True for one prompt: a text, a list of messages, or a sequence of ids (elements without dimensions)."""
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
    """Abort the unfinished requests of an interrupted run, which frees their blocks."""
    for request_id in request_ids:
        scheduler.abort(request_id)
