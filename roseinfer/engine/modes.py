"""The three ways to run requests, over one scheduling core: naive, offline, online.

One thread drives a mode: `submit` requests, then `step`, or `run`, until nothing is unfinished.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

from roseinfer.config import EngineConfig, Mode, SamplingParams
from roseinfer.engine.core import EngineCore, Prompt
from roseinfer.engine.request import Request, RequestOutput, TokenEvent
from roseinfer.engine.runner import SampledToken
from roseinfer.engine.scheduler import Policy, Scheduler, StepPlan
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.sampling.uniform import derived_seed
from roseinfer.spans import span
from roseinfer.text.detokenizer import detokenizer_for
from roseinfer.text.stop import StopStrings
from roseinfer.text.tokenizer import Tokenizer

_ONLINE_PREFILL_BESIDE_DECODE = 512
"""Prompt tokens that one online step computes beside running requests: enough to keep a GPU's matrix units busy, few
enough that nobody waits long for the next token."""


class ModeScheduler(ABC):
    """What the modes have in common: everything but the batching policy."""

    def __init__(self, engine: EngineCore) -> None:
        self.engine = engine
        self.last_plan: StepPlan | None = None
        """What the last step computed."""
        policy = replace(self.policy(engine.config), max_decode_steps=engine.max_decode_steps)
        self._scheduler = Scheduler(engine.pool, policy)
        self._unfinished: dict[int, list[_Stream]] = {}  # by request id
        self._finished: list[Request] = []
        self._num_submitted = 0
        self._num_skipped = 0

    @property
    def has_unfinished(self) -> bool:
        return self._scheduler.has_unfinished

    @property
    def num_preemptions(self) -> int:
        """Times that a running request gave its blocks back to an older one."""
        return self._scheduler.num_preemptions

    def submit(self, prompt: Prompt, params: SamplingParams | None = None) -> int:
        """Queue a request, `params.n` completions of one prompt, and return its id.

        Raises UsageError for one that can never run; nothing is queued then.
        """
        submitted_s = time.perf_counter()
        requests = self.make_requests(prompt, params or SamplingParams(), submitted_s)
        request_id = requests[0].id
        if requests[0].max_new_tokens == 0:
            for request in requests:
                request.finish_reason = "length"
            self._finished += requests
        else:
            for request in requests:
                self._scheduler.add(request)
            self._unfinished[request_id] = [_Stream(request, self.engine.tokenizer) for request in requests]
        self._num_submitted += 1
        return request_id

    def skip(self) -> None:
        """Count a request that is not submitted, as one done in an earlier run: later ones draw as if it had been."""
        self._num_skipped += 1

    def step(self) -> list[TokenEvent]:
        """Run the model once over the next batch; the tokens it gave. Does nothing when nothing is unfinished."""
        if not self.has_unfinished:
            return []
        with span("roseinfer.step", lambda: self._scheduler.plan().label):
            with span("roseinfer.schedule"):
                plan = self._scheduler.plan(span)
                if not plan.chunks:
                    raise RoseinferError("no KV block is free: another scheduler of this engine holds them all")
                copies = self._scheduler.begin(plan)
            sampled = self.engine.runner.execute(plan, copies)
            with span("roseinfer.commit"):
                requests = self._scheduler.commit(plan, [token.token_id for token in sampled])
            now_s = time.perf_counter()
            with span("roseinfer.detokenize"):
                # Of a launch of several decode steps, only the last token of each request can end it.
                before_last = len(requests) - len(plan.chunks) if plan.decode_steps > 1 else 0
                events = [
                    self._event(request, token, now_s, is_last=index >= before_last)
                    for index, (request, token) in enumerate(zip(requests, sampled, strict=True))
                ]
        self.last_plan = plan
        return events

    def next_plan(self) -> StepPlan:
        """What `step` would compute now; changes nothing."""
        return self._scheduler.plan()

    def run(self) -> list[RequestOutput]:
        """Step until nothing is unfinished; the outputs of all requests not returned before, in submission order."""
        while self.has_unfinished:
            self.step()
        return self.take_outputs()

    def take_outputs(self) -> list[RequestOutput]:
        """The requests that finished since the last call, in submission order."""
        finished, self._finished = self._finished, []
        return [request.output() for request in sorted(finished, key=lambda r: (r.id, r.sample_index))]

    def abort(self, request_id: int) -> None:
        """End a request's unfinished completions now, keeping what they have. Does nothing to a finished request."""
        for stream in list(self._unfinished.get(request_id, ())):
            self._scheduler.abort(stream.request)
            stream.request.text += stream.finish()
            self._finish(stream)

    @staticmethod
    @abstractmethod
    def policy(config: EngineConfig) -> Policy:
        """The limits of this mode's batches."""

    def make_requests(self, prompt: Prompt, params: SamplingParams, submitted_s: float = 0.0) -> list[Request]:
        """The `n` requests that `submit` would queue for a prompt. Raises UsageError for what cannot run."""
        token_ids = self.engine.encode(prompt)
        self._check(params)
        room = self.engine.max_model_len - len(token_ids)
        if room < min(params.max_new_tokens, 1):
            raise UsageError(
                f"the prompt has {len(token_ids)} tokens, but the context is {self.engine.max_model_len} tokens and "
                "the completion needs at least one: shorten the prompt, or raise max_model_len if the model allows"
            )
        stops = frozenset(params.stop_token_ids) | (self.engine.eos_token_ids if params.stop_on_eos else frozenset())
        requests: list[Request] = []
        place = self._num_submitted + self._num_skipped
        for index in range(params.n):
            seed = (params.seed,) if params.seed is not None else (self.engine.config.seed, place)
            requests.append(
                Request(
                    id=self._num_submitted,
                    sample_index=index,
                    parent=requests[0] if requests else None,
                    prompt_token_ids=token_ids,
                    params=params,
                    seed=derived_seed(*seed, index),
                    max_new_tokens=min(params.max_new_tokens, room),
                    stop_token_ids=stops,
                    submitted_s=submitted_s,
                )
            )
        return requests

    def _check(self, params: SamplingParams) -> None:
        if any(params.stop) and self.engine.tokenizer is None:
            raise UsageError(
                f"stop strings need text, and {self.engine.model_name} brings no tokenizer: use stop_token_ids, "
                "or name a tokenizer with --tokenizer"
            )
        vocab_size = self.engine.model_config.vocab_size
        for name, token_ids in (("logit_bias", params.logit_bias), ("stop_token_ids", params.stop_token_ids)):
            if wrong := [token_id for token_id in token_ids if not 0 <= token_id < vocab_size]:
                raise UsageError(f"{name}: token id {wrong[0]} is outside the model's vocabulary of {vocab_size}")

    def _event(self, request: Request, sampled: SampledToken, now_s: float, *, is_last: bool) -> TokenEvent:
        stream = self._unfinished[request.id][0]
        for candidate in self._unfinished[request.id]:
            if candidate.request is request:
                stream = candidate
        request.token_times_s.append(now_s)
        if sampled.logprobs is not None:
            request.logprobs.append(sampled.logprobs)
        text = stream.add(sampled.token_id)
        if stream.stopped and request.finish_reason != "stop":
            self._scheduler.stop(request)
        finish_reason = request.finish_reason if is_last else None
        if finish_reason is not None:
            text += stream.finish()
        request.text += text
        if finish_reason is not None:
            self._finish(stream)
        return TokenEvent(
            request_id=request.id,
            sample_index=request.sample_index,
            token_id=sampled.token_id,
            text=text,
            finish_reason=finish_reason,
            logprobs=sampled.logprobs,
        )

    def _finish(self, stream: "_Stream") -> None:
        request = stream.request
        streams = self._unfinished[request.id]
        streams.remove(stream)
        if not streams:
            del self._unfinished[request.id]
        self._finished.append(request)


class _Stream:
    """The text of one completion as it grows, up to its stop strings."""

    def __init__(self, request: Request, tokenizer: Tokenizer | None) -> None:
        self.request = request
        self._detokenizer = detokenizer_for(tokenizer)
        self._stops = StopStrings(request.params.stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has appeared."""
        return self._stops.found

    def add(self, token_id: int) -> str:
        """The text that one more token lets through."""
        piece = self._detokenizer.add(token_id)
        if self.request.num_new_tokens < self.request.params.min_new_tokens:
            return piece
        return self._stops.add(piece)

    def finish(self) -> str:
        """The rest, when the completion has ended."""
        rest = self._detokenizer.finish()
        return self._stops.add(rest) + self._stops.finish()


class OnlineScheduler(ModeScheduler):
    """Requests come and go at any time; every step brings the running ones one token further."""

    @staticmethod
    def policy(config: EngineConfig) -> Policy:
        return Policy(config.max_batch_size, config.max_batch_tokens, _ONLINE_PREFILL_BESIDE_DECODE)


class OfflineScheduler(ModeScheduler):
    """All requests are known before the run, and only the whole run's time counts."""

    @staticmethod
    def policy(config: EngineConfig) -> Policy:
        return Policy(config.max_batch_size, config.max_batch_tokens, config.max_batch_tokens, longest_first=True)


class NaiveScheduler(ModeScheduler):
    """One request at a time: what batching is measured against."""

    @staticmethod
    def policy(config: EngineConfig) -> Policy:
        return Policy(1, config.max_batch_tokens, config.max_batch_tokens)


SCHEDULERS: dict[Mode, Callable[[EngineCore], ModeScheduler]] = {
    "naive": NaiveScheduler,
    "offline": OfflineScheduler,
    "online": OnlineScheduler,
}
