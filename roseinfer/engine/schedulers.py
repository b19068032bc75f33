"""The three ways to run requests, over one scheduling core: naive, offline, online.

One thread drives a mode: `submit` requests, then `step`, or `run`, until nothing is unfinished.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

from roseinfer.config import Mode, SamplingParams
from roseinfer.engine.graphs.mixed_steps import MIXED_TOKENS
from roseinfer.engine.launch import Launch
from roseinfer.engine.loaded_model import LoadedModel, Prompt
from roseinfer.engine.planner import Planner, Policy, SpanFactory, StepPlan
from roseinfer.engine.request import Request, RequestOutput, TokenEvent
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.sampling.uniform import derived_seed
from roseinfer.spans import span
from roseinfer.text.detokenizer import Detokenizer
from roseinfer.text.stop import StopStrings

_LARGE_BYTES = 1 << 29
"""Weights of layers that a GPU takes long enough to read: on an H200 qwen3-0.6b gains 3 % by mixed steps, gpt2, a fifth
of its size, takes as long as the host takes to prepare them."""


class Scheduler(ABC):
    """What the modes have in common: everything but the batching policy."""

    def __init__(self, engine: LoadedModel) -> None:
        self.engine = engine
        self.last_plan: StepPlan | None = None
        """What the last call of `step` launched; None where it only read what was launched before."""
        policy = replace(self.policy(engine), max_decode_steps=engine.max_decode_steps)
        self._scheduler = Planner(engine.pool, policy)
        self._unfinished: dict[int, list[_Stream]] = {}  # by request id
        self._streams: dict[Request, _Stream] = {}  # the same, each by its own request
        self._finished: list[Request] = []
        self._in_flight: _InFlight | None = None
        self._events: list[TokenEvent] = []  # read, but not returned yet
        self._steps: list[tuple[StepPlan, float]] = []
        self._read_s = 0.0  # when the last step's tokens were there
        self._num_submitted = 0
        self._num_skipped = 0

    @property
    def has_unfinished(self) -> bool:
        """Whether `step` has something to do or to return."""
        return bool(self._unfinished or self._events)

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
            streams = [_Stream(request, self.engine.new_detokenizer()) for request in requests]
            self._unfinished[request_id] = streams
            self._streams |= {stream.request: stream for stream in streams}
        self._num_submitted += 1
        return request_id

    def skip(self) -> None:
        """Count a request that is not submitted, as one done in an earlier run: later ones draw as if it had been."""
        self._num_skipped += 1

    def step(self) -> list[TokenEvent]:
        """Launch the model once over the next batch; the tokens that are there. Does nothing when all is finished.

        With overlap, those are the tokens of the launch before, and the host reads them while this launch runs.
        """
        self.last_plan = None
        if self._unfinished:
            with span("roseinfer.step", lambda: self._scheduler.plan().label):
                self._step()
        events, self._events = self._events, []
        return events

    def next_plan(self) -> StepPlan | None:
        """What `step` would launch now; None when all that is unfinished ends with tokens that are drawn already."""
        plan = self._plan()
        return plan if plan is not None and plan.chunks else None

    def take_steps(self) -> list[tuple[StepPlan, float]]:
        """What was computed since the last call, and how long each step took, in seconds.

        That is from its launch, or the end of the step before where that was later, until its tokens were there.
        """
        steps, self._steps = self._steps, []
        return steps

    def _plan(self, mark: SpanFactory = nullcontext) -> StepPlan | None:
        """The next plan; None when reading what is in flight has ended everything."""
        plan = self._scheduler.plan(mark)
        if self._in_flight is None or (plan.chunks and not plan.preempted):
            return plan
        # With the tokens in flight there may be room: requests end, and give their blocks back.
        self._read()
        return self._scheduler.plan(mark) if self._unfinished else None

    def _step(self) -> None:
        with span("roseinfer.schedule"):
            plan = self._plan(span)
            if plan is None:
                return
            if not plan.chunks:
                raise RoseinferError("no KV block is free: another scheduler of this engine holds them all")
            copies = self._scheduler.begin(plan)
        launched_s = time.perf_counter()
        launch = self.engine.runner.launch(plan, copies)
        self._scheduler.advance(plan)
        if self._in_flight is not None:
            self._read()
        self._in_flight = _InFlight(plan, launch, launched_s)
        self.last_plan = plan
        if not (self.engine.overlap and self._scheduler.can_plan_ahead(plan)):
            self._read()

    def _read(self) -> None:
        """Wait for the tokens in flight, and hand them out."""
        assert self._in_flight is not None
        (plan, launch, launched_s), self._in_flight = self._in_flight, None
        with span("roseinfer.read_tokens"):
            sampled = launch.tokens()
        now_s = time.perf_counter()
        self._steps.append((plan, now_s - max(launched_s, self._read_s)))
        self._read_s = now_s
        with span("roseinfer.commit"):
            news = self._scheduler.resolve(plan, sampled)
            if launch.logprobs is not None:
                asking = [chunk.request for chunk in plan.chunks if chunk.samples]
                for request, row in zip(asking, launch.logprobs, strict=True):
                    if row is not None:
                        request.logprobs.append(row)
        with span("roseinfer.detokenize"):
            for request, token_ids in news:
                self._hand_out(request, token_ids, now_s)

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
    def policy(engine: LoadedModel) -> Policy:
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

    def _hand_out(self, request: Request, token_ids: Sequence[int], now_s: float) -> None:
        """Make events of a request's new tokens, one or more, the last of which may end it.

        A request with stop strings gets one at a time: a token behind the one that ends it would be too late to drop.
        """
        stream = self._streams[request]
        texts = stream.add(token_ids)
        if stream.stopped:
            self._scheduler.stop(request)
        if request.finish_reason is not None:
            texts[-1] += stream.finish()
        request.text += "".join(texts)
        request.token_times_s += [now_s] * len(token_ids)
        logprobs = request.logprobs[-1] if request.logprobs else None
        last = len(token_ids) - 1
        self._events += [
            TokenEvent(
                request_id=request.id,
                sample_index=request.sample_index,
                token_id=token_id,
                text=text,
                finish_reason=request.finish_reason if at == last else None,
                logprobs=logprobs,
            )
            for at, (token_id, text) in enumerate(zip(token_ids, texts, strict=True))
        ]
        if request.finish_reason is not None:
            self._finish(stream)

    def _finish(self, stream: "_Stream") -> None:
        request = stream.request
        streams = self._unfinished[request.id]
        streams.remove(stream)
        if not streams:
            del self._unfinished[request.id]
        del self._streams[request]
        self._finished.append(request)


class _InFlight(NamedTuple):
    """A launch whose tokens have not been read."""

    plan: StepPlan
    launch: Launch
    launched_s: float


class _Stream:
    """The text of one completion as it grows, up to its stop strings."""

    def __init__(self, request: Request, detokenizer: Detokenizer) -> None:
        self.request = request
        self._detokenizer = detokenizer
        self._stops = StopStrings(request.params.stop) if any(request.params.stop) else None
        self._num_tokens = 0
        self._num_without_stop = request.params.min_new_tokens - 1  # leading tokens that no stop string can end

    @property
    def stopped(self) -> bool:
        """Whether a stop string has appeared."""
        return self._stops is not None and self._stops.found

    def add(self, token_ids: Sequence[int]) -> list[str]:
        """The text that each of the next tokens lets through."""
        texts = [self._detokenizer.add(token_id) for token_id in token_ids]
        return texts if self._stops is None else [self._let_through(text) for text in texts]

    def finish(self) -> str:
        """The rest, when the completion has ended."""
        rest = self._detokenizer.finish()
        return rest if self._stops is None else self._stops.add(rest) + self._stops.finish()

    def _let_through(self, text: str) -> str:
        assert self._stops is not None
        self._num_tokens += 1
        return text if self._num_tokens <= self._num_without_stop else self._stops.add(text)


class OnlineScheduler(Scheduler):
    """Requests come and go at any time; every step brings the running ones one token further.

    A step that computes prompts beside them has as many tokens as are worth a graph, which are enough to keep a GPU's
    matrix units busy, and few enough that nobody waits long for the next token.
    """

    @staticmethod
    def policy(engine: LoadedModel) -> Policy:
        config = engine.config
        return Policy(config.max_batch_size, config.max_batch_tokens, MIXED_TOKENS)


class OfflineScheduler(Scheduler):
    """All requests are known before the run, and only the whole run's time counts.

    Prompts computed beside decodes save those a reading of the weights. Where that takes a while, they are spread over
    as many steps as possible; but not without graphs, as each step then costs the host its launches.
    """

    @staticmethod
    def policy(engine: LoadedModel) -> Policy:
        config = engine.config
        spreads = engine.runner.graphs is not None and engine.weight_bytes.layers >= _LARGE_BYTES
        return Policy(
            config.max_batch_size,
            config.max_batch_tokens,
            MIXED_TOKENS if spreads else config.max_batch_tokens,
            spreads_prompts=spreads,
            longest_first=True,
        )


class NaiveScheduler(Scheduler):
    """One request at a time: what batching is measured against."""

    @staticmethod
    def policy(engine: LoadedModel) -> Policy:
        config = engine.config
        return Policy(1, config.max_batch_tokens, config.max_batch_tokens)


SCHEDULERS: dict[Mode, Callable[[LoadedModel], Scheduler]] = {
    "naive": NaiveScheduler,
    "offline": OfflineScheduler,
    "online": OnlineScheduler,
}
