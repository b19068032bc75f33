"""The engine as a library user sees it."""

from collections.abc import Iterator, Sequence

from roseinfer.config import Mode, SamplingParams
from roseinfer.engine.core import EngineCore, Prompt
from roseinfer.engine.modes import SCHEDULERS, ModeScheduler, OfflineScheduler, OnlineScheduler
from roseinfer.engine.request import RequestOutput, TokenEvent


class Engine(EngineCore):
    """A loaded model. `build_engine` makes one."""

    def scheduler(self, mode: Mode) -> ModeScheduler:
        """A fresh scheduler: no requests, ids and unseeded draws counted from zero."""
        return SCHEDULERS[mode](self)

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | None = None) -> list[RequestOutput]:
        """Complete all prompts, batched for throughput; outputs in the prompts' order."""
        scheduler = OfflineScheduler(self)
        for prompt in prompts:
            scheduler.submit(prompt, params)
        return scheduler.run()

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[TokenEvent]:
        """Complete one prompt, token by token. Closing the iterator early aborts the request."""
        scheduler = OnlineScheduler(self)
        request_id = scheduler.submit(prompt, params)
        try:
            while scheduler.has_unfinished:
                yield from scheduler.step()
        finally:
            scheduler.abort(request_id)
