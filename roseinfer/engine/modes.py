"""The three ways to run requests, over one scheduling core: naive, offline, online.

One thread drives a mode: `submit` requests, then `step`, or `run`, until nothing is unfinished.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from roseinfer.config import EngineConfig, Mode, SamplingParams
from roseinfer.engine.core import EngineCore, Prompt
from roseinfer.engine.request import Request, RequestOutput, TokenEvent
from roseinfer.engine.scheduler import Policy, Scheduler, StepPlan
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.sampling.uniform import derived_seed
from roseinfer.spans import span
from roseinfer.text.detokenizer import Detokenizer, detokenizer_for

_ONLINE_PREFILL_BESIDE_DECODE = 512
"""Prompt tokens that one online step computes beside running requests: enough to keep a GPU's matrix units busy, few
enough that nobody waits long for the next token."""


class ModeScheduler(ABC):
    """What the modes have in common: everything but the batching policy."""

    def __init__(self, engine: EngineCore) -> None:
        self.engine = engine
        self.last_plan: StepPlan | None = None
        """What the last step computed."""
        self._scheduler = Scheduler(engine.pool, self._policy(engine.config))
        self._requests: dict[int, Request] = {}  # unfinished
        self._detokenizers: dict[int, Detokenizer] = {}
        self._finished: list[Request] = []
        self._num_submitted = 0

    @property
    def has_unfinished(self) -> bool:
        return self._scheduler.has_unfinished

    @property
    def num_preemptions(self) -> int:
        """Times that a running request gave its blocks back to an older one."""
        return self._scheduler.num_preemptions

    def submit(self, prompt: Prompt, params: SamplingParams | None = None) -> int:
        """Queue a request and return its id. Raises UsageError for one that can never run."""
        submitted_s = time.perf_counter()
        request = self._request(prompt, params or SamplingParams(), submitted_s)
        if request.max_new_tokens == 0:
            request.finish_reason = "length"
            self._finished.append(request)
        else:
            self._scheduler.add(request)
            self._requests[request.id] = request
            self._detokenizers[request.id] = detokenizer_for(self.engine.tokenizer)
        self._num_submitted += 1
        return request.id

    def step(self) -> list[TokenEvent]:
        """Run the model once over the next batch; the tokens it gave. Does nothing when nothing is unfinished."""
        if not self.has_unfinished:
            return []
        with span("roseinfer.step", lambda: self._scheduler.plan().label):
            with span("roseinfer.schedule"):
                plan = self._scheduler.plan()
                if not plan.chunks:
                    raise RoseinferError("no KV block is free: another scheduler of this engine holds them all")
                self._scheduler.begin(plan)
            sampled = self.engine.runner.execute(plan)
            with span("roseinfer.commit"):
                news = self._scheduler.commit(plan, sampled)
            now_s = time.perf_counter()
            with span("roseinfer.detokenize"):
                events = [self._event(request, token_id, now_s) for request, token_id in news]
        self.last_plan = plan
        return events

    def run(self) -> list[RequestOutput]:
        """Step until nothing is unfinished; the outputs of all requests not returned before, in submission order."""
        while self.has_unfinished:
            self.step()
        return self.take_outputs()

    def take_outputs(self) -> list[RequestOutput]:
        """The requests that finished since the last call, in submission order."""
        finished, self._finished = self._finished, []
        return [request.output() for request in sorted(finished, key=lambda request: request.id)]

    def abort(self, request_id: int) -> None:
        """End a request now, keeping what it has. Does nothing to a finished one."""
        request = self._requests.get(request_id)
        if request is not None:
            self._scheduler.abort(request)
            request.text += self._detokenizers[request_id].finish()
            self._finish(request)

    @staticmethod
    @abstractmethod
    def _policy(config: EngineConfig) -> Policy:
        """The limits of this mode's batches."""

    def _request(self, prompt: Prompt, params: SamplingParams, submitted_s: float) -> Request:
        token_ids = self.engine.encode(prompt)
        room = self.engine.max_model_len - len(token_ids)
        if room < min(params.max_new_tokens, 1):
            raise UsageError(
                f"the prompt has {len(token_ids)} tokens, but the context is {self.engine.max_model_len} tokens and "
                "the completion needs at least one: shorten the prompt, or raise max_model_len if the model allows"
            )
        unseeded = derived_seed(self.engine.config.seed, self._num_submitted)
        return Request(
            id=self._num_submitted,
            prompt_token_ids=token_ids,
            params=params,
            seed=unseeded if params.seed is None else derived_seed(params.seed),
            max_new_tokens=min(params.max_new_tokens, room),
            stop_token_ids=self.engine.eos_token_ids if params.stop_on_eos else frozenset(),
            submitted_s=submitted_s,
        )

    def _event(self, request: Request, token_id: int, now_s: float) -> TokenEvent:
        detokenizer = self._detokenizers[request.id]
        text = detokenizer.add(token_id)
        request.token_times_s.append(now_s)
        if request.finish_reason is not None:
            text += detokenizer.finish()
        request.text += text
        if request.finish_reason is not None:
            self._finish(request)
        return TokenEvent(request_id=request.id, token_id=token_id, text=text, finish_reason=request.finish_reason)

    def _finish(self, request: Request) -> None:
        del self._requests[request.id]
        del self._detokenizers[request.id]
        self._finished.append(request)


class OnlineScheduler(ModeScheduler):
    """Requests come and go at any time; every step brings the running ones one token further."""

    @staticmethod
    def _policy(config: EngineConfig) -> Policy:
        return Policy(config.max_batch_size, config.max_batch_tokens, _ONLINE_PREFILL_BESIDE_DECODE)


class OfflineScheduler(ModeScheduler):
    """All requests are known before the run, and only the whole run's time counts."""

    @staticmethod
    def _policy(config: EngineConfig) -> Policy:
        return Policy(config.max_batch_size, config.max_batch_tokens, config.max_batch_tokens)


class NaiveScheduler(ModeScheduler):
    """One request at a time: what batching is measured against."""

    @staticmethod
    def _policy(config: EngineConfig) -> Policy:
        return Policy(1, config.max_batch_tokens, config.max_batch_tokens)


SCHEDULERS: dict[Mode, Callable[[EngineCore], ModeScheduler]] = {
    "naive": NaiveScheduler,
    "offline": OfflineScheduler,
    "online": OnlineScheduler,
}
