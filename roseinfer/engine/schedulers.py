"""The loops that run requests over one planner: naive, offline, online.

`submit` requests, then `step`, or `run`, until nothing is unfinished. Calls of several threads run one after another.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from roseinfer.config import Mode, SamplingParams
from roseinfer.engine.completion_text import CompletionText
from roseinfer.engine.engine_lock import exclusive
from roseinfer.engine.launch import Launch
from roseinfer.engine.loaded_model import LoadedModel
from roseinfer.engine.outputs import RequestOutput, TokenEvent
from roseinfer.engine.planner import Planner
from roseinfer.engine.prompt import Prompt
from roseinfer.engine.request import Request
from roseinfer.engine.step_plan import Policy, StepPlan
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.sampling.uniform import derived_seed
from roseinfer.spans import span

_MIXED_TOKENS = 512
"""Maximum tokens of a step with prompts and decodes, where throughput spreads prompts, and before times are known.

On an H200, the time of a 16-bit matrix product grows in steps of 128 rows, and 512 rows are among the fastest per row.
"""

_LARGE_BYTES = 1 << 29
"""Minimum bytes of layer weights for spreading prompts over steps: a GPU must take long enough to read them. On an
H200, qwen3-0.6b gains 3 %; gpt2, a fifth of its size, is limited by the host's preparation of the steps.
"""


class Scheduler(ABC):
    """The loop that all modes share. Subclasses define the batching policy."""

    def __init__(self, engine: LoadedModel) -> None:
        self.engine = engine
        self.last_plan: StepPlan | None = None
        """The plan that the last call of `step` launched; None if the call only read tokens of an earlier launch."""
        policy = replace(self.policy(engine), max_decode_steps=engine.max_decode_steps)
        graphs = engine.runner.graphs
        sizes = None if graphs is None else graphs.sizes
        self._planner = Planner(engine.pool, policy, engine.rows, sizes, engine.step_times)
        self._unfinished: dict[int, list[CompletionText]] = {}  # by request id
        self._texts: dict[Request, CompletionText] = {}  # the same objects, by request
        self._finished: list[Request] = []
        self._in_flight: _InFlight | None = None
        self._events: list[TokenEvent] = []  # of tokens that were read and not returned yet
        self._steps: list[tuple[StepPlan, float]] = []
        self._read_s = 0.0  # time at which the last step's tokens were read
        self._num_submitted = 0
        self._num_skipped = 0

    @property
    def has_unfinished(self) -> bool:
        """True while a request is unfinished, or `step` has events to return."""
        return bool(self._unfinished or self._events)

    @property
    def num_preemptions(self) -> int:
        """Times that a running request lost its blocks to an older one, to be recomputed later."""
        return self._planner.num_preemptions

    @exclusive
    def submit(self, prompt: Prompt, params: SamplingParams | None = None, *, place: int | None = None) -> int:
        """Queue a request, `params.n` completions of one prompt, and return its id.

        Without `params`, the model's recommended settings apply (`Engine.default_params`). Without a seed of its own,
        the request's seed is derived from `place`. None is the number of requests before it. Raises UsageError for a
        request that can never run; nothing is queued then.
        """
        submitted_s = time.perf_counter()
        return self._submit(self.engine.encode(prompt), params or self.engine.default_params, submitted_s, place)

    @exclusive
    def submit_encoded(self, token_ids: list[int], params: SamplingParams, *, place: int | None = None) -> int:
        """Queue a request as `submit` does, for token ids that the engine's `encode` has returned and thus checked.

        The list is not copied: it must not be changed afterwards.
        """
        return self._submit(token_ids, params, time.perf_counter(), place)

    def _submit(self, token_ids: list[int], params: SamplingParams, submitted_s: float, place: int | None) -> int:
        requests = self.make_requests(token_ids, params, submitted_s, place)
        request_id = requests[0].id
        if requests[0].max_new_tokens == 0:
            for request in requests:
                request.finish_reason = "length"
            self._finished += requests
        else:
            for request in requests:
                self._planner.add(request)
            texts = [CompletionText(each, self.engine.detokenizer_after(token_ids)) for each in requests]
            self._unfinished[request_id] = texts
            self._texts |= {text.request: text for text in texts}
        self._num_submitted += 1
        return request_id

    def skip(self) -> None:
        """Count a request that an earlier run has completed, so that later requests get the same seeds as then."""
        self._num_skipped += 1

    @exclusive
    def step(self, before_step: Callable[[StepPlan], None] | None = None) -> list[TokenEvent]:
        """Launch the model once over the next batch, and return the events of tokens that were read.

        With overlap, these are the tokens of the previous launch, which the host reads while this launch runs.
        `before_step` is called with the plan that comes next, before it is planned: a profiler that starts there
        records the planning too. Does nothing when all requests are finished.
        """
        self.last_plan = None
        if self._unfinished and before_step is not None:
            self._announce(before_step)
        if self._unfinished and (plan := self._plan()) is not None:
            with span("roseinfer.step", lambda: plan.label):
                self._run_plan(plan)
        events, self._events = self._events, []
        return events

    @exclusive
    def next_plan(self) -> StepPlan | None:
        """Return the plan that `step` would launch now, without changing any state.

        None if no unfinished request has anything to compute, or if the plan depends on tokens in flight.
        """
        plan = self._planner.plan()
        return plan if plan.chunks and not (self._in_flight and plan.preempted) else None

    @exclusive
    def take_steps(self) -> list[tuple[StepPlan, float]]:
        """Return the steps read since the last call, each with its duration in seconds.

        A step lasts from its launch, or from the end of the previous step if that is later, until its tokens have
        been read.
        """
        steps, self._steps = self._steps, []
        return steps

    def _announce(self, before_step: Callable[[StepPlan], None]) -> None:
        """Call `before_step` with the next plan, after reading the tokens in flight if the plan depends on them."""
        plan = self.next_plan()
        if plan is None and self._in_flight is not None:
            self._read()
            plan = self.next_plan() if self._unfinished else None
        if plan is not None:
            before_step(plan)

    def _plan(self) -> StepPlan | None:
        """Return the plan to run next; None if the tokens in flight end all requests."""
        with span("roseinfer.plan"):
            plan = self._planner.plan(span)
        if self._in_flight is not None and (plan.preempted or not plan.chunks):
            # Reading the tokens in flight may end requests, and free their blocks.
            self._read()
            if not self._unfinished:
                return None
            with span("roseinfer.plan"):
                plan = self._planner.plan(span)
        if not plan.chunks:
            raise RoseinferError("no KV block is free: another scheduler of this engine holds them all")
        return plan

    def _run_plan(self, plan: StepPlan) -> None:
        with span("roseinfer.schedule"):
            batch = self._planner.begin(plan)
        launched_s = time.perf_counter()
        captured = self._num_captured
        launch = self.engine.runner.launch(batch)
        is_typical = self._num_captured == captured
        self._planner.advance(plan)
        if self._in_flight is not None:
            self._read(is_typical)
        self._in_flight = _InFlight(plan, launch, launched_s, is_typical)
        self.last_plan = plan
        if not (self.engine.overlap and self._planner.can_plan_ahead(plan)):
            self._read()

    @property
    def _num_captured(self) -> int:
        """Number of captured CUDA graphs; -1 once the runner has none."""
        graphs = self.engine.runner.graphs
        return -1 if graphs is None else graphs.num_captured

    def _read(self, is_typical: bool = True) -> None:
        """Wait for the tokens in flight, append them to their requests, and create their events.

        `is_typical` is False if the host was late for them, because it captured a graph: their step's time then says
        nothing about other steps.
        """
        assert self._in_flight is not None
        (plan, launch, launched_s, was_typical), self._in_flight = self._in_flight, None
        with span("roseinfer.read_tokens"):
            sampled = launch.tokens()
        now_s = time.perf_counter()
        elapsed_s = now_s - max(launched_s, self._read_s)
        self._steps.append((plan, elapsed_s))
        if is_typical and was_typical:
            self._planner.times.observe(plan, elapsed_s)
        self._read_s = now_s
        with span("roseinfer.commit"):
            resolved = self._planner.resolve(plan, sampled)
            if launch.logprobs is not None:
                asking = [chunk.request for chunk in plan.chunks if chunk.samples]
                for request, row in zip(asking, launch.logprobs, strict=True):
                    if row is not None:
                        request.logprobs.append(row)
        with span("roseinfer.detokenize"):
            for request, token_ids in resolved:
                self._hand_out(request, token_ids, now_s)

    def run(self) -> list[RequestOutput]:
        """Step until nothing is unfinished. Returns all outputs not returned before, in submission order."""
        while self.has_unfinished:
            self.step()
        return self.take_outputs()

    @exclusive
    def take_outputs(self) -> list[RequestOutput]:
        """Return the outputs of requests that finished since the last call, in submission order."""
        finished, self._finished = self._finished, []
        return [request.output() for request in sorted(finished, key=lambda r: (r.id, r.sample_index))]

    @exclusive
    def abort(self, request_id: int) -> None:
        """End a request's unfinished completions now, with the tokens drawn so far. A finished request is unchanged."""
        for text in list(self._unfinished.get(request_id, ())):
            self._planner.abort(text.request)
            text.request.text += text.finish()
            self._finish(text)

    @staticmethod
    @abstractmethod
    def policy(engine: LoadedModel) -> Policy:
        """Return the limits of this mode's batches."""

    def make_requests(
        self, token_ids: list[int], params: SamplingParams, submitted_s: float = 0.0, place: int | None = None
    ) -> list[Request]:
        """Return the `n` requests that `submit` would queue, for token ids that the engine's `encode` has returned.

        Raises UsageError for a request that cannot run.
        """
        self._check(params)
        room = self.engine.max_model_len - len(token_ids)
        if room < min(params.max_new_tokens, 1):
            raise UsageError(
                f"the prompt has {len(token_ids)} tokens, but the context is {self.engine.max_model_len} tokens and "
                "the completion needs at least one: shorten the prompt, or raise --max-model-len if the model allows"
            )
        stops = frozenset(params.stop_token_ids) | (self.engine.eos_token_ids if params.stop_on_eos else frozenset())
        requests: list[Request] = []
        place = self._num_submitted + self._num_skipped if place is None else place
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
                f"stop strings need a tokenizer, and {self.engine.model_name} has none: use --stop-token-id, "
                "or name a tokenizer with --tokenizer"
            )
        vocab_size = self.engine.model_config.vocab_size
        for name, token_ids in (("logit_bias", params.logit_bias), ("stop_token_ids", params.stop_token_ids)):
            if wrong := [token_id for token_id in token_ids if not 0 <= token_id < vocab_size]:
                raise UsageError(f"{name}: token id {wrong[0]} is outside the model's vocabulary of {vocab_size}")

    def _hand_out(self, request: Request, token_ids: Sequence[int], now_s: float) -> None:
        """Create the events of a request's new tokens. The last token may end the request.

        A request with stop strings gets one token per step, because a stop string may end it at any token.
        """
        text = self._texts[request]
        pieces = text.add(token_ids)
        if text.stopped:
            self._planner.stop(request)
        if request.finish_reason is not None:
            pieces[-1] += text.finish()
        request.text += "".join(pieces)
        request.token_times_s += [now_s] * len(token_ids)
        logprobs = request.logprobs[-1] if request.logprobs else None
        last = len(token_ids) - 1
        self._events += [
            TokenEvent(
                request_id=request.id,
                sample_index=request.sample_index,
                token_id=token_id,
                text=piece,
                finish_reason=request.finish_reason if at == last else None,
                logprobs=logprobs,
            )
            for at, (token_id, piece) in enumerate(zip(token_ids, pieces, strict=True))
        ]
        if request.finish_reason is not None:
            self._finish(text)

    def _finish(self, text: CompletionText) -> None:
        request = text.request
        texts = self._unfinished[request.id]
        texts.remove(text)
        if not texts:
            del self._unfinished[request.id]
        del self._texts[request]
        self._finished.append(request)


class _InFlight(NamedTuple):
    """A launched step whose tokens have not been read."""

    plan: StepPlan
    launch: Launch
    launched_s: float
    is_typical: bool
    """False if a CUDA graph was captured for the step, which takes longer than the step itself."""


class OnlineScheduler(Scheduler):
    """Latency mode: requests arrive at any time, and every step decodes all running requests.

    A step that also computes prompts is limited by the time that the running requests wait for it, as measured on
    steps before. Steps in which no request decodes compute as many prompt tokens as a step may have.
    """

    @staticmethod
    def policy(engine: LoadedModel) -> Policy:
        size, tokens = engine.limits.max_batch_size, engine.limits.max_batch_tokens
        return Policy(size, tokens, _MIXED_TOKENS, bounds_itl=True, max_itl_ms=engine.config.max_itl_ms)


class OfflineScheduler(Scheduler):
    """Throughput mode: all requests are known before the run, and only the duration of the whole run counts.

    Prompts that are computed together with decodes share one pass over the weights. For models whose weights take
    long to read, prompts are therefore spread over as many steps as possible. Without CUDA graphs they are not,
    because every step then costs the host its kernel launches. No wait is bounded, unless `max_itl_ms` is set.
    """

    @staticmethod
    def policy(engine: LoadedModel) -> Policy:
        spreads = (
            engine.runner.graphs is not None
            and engine.weight_bytes.layers + engine.weight_bytes.experts >= _LARGE_BYTES
        )
        size, tokens = engine.limits.max_batch_size, engine.limits.max_batch_tokens
        max_itl_ms = engine.config.max_itl_ms
        return Policy(
            size,
            tokens,
            _MIXED_TOKENS if spreads or max_itl_ms is not None else tokens,
            bounds_itl=max_itl_ms is not None,
            max_itl_ms=max_itl_ms,
            spreads_prompts=spreads,
            longest_first=True,
        )


class NaiveScheduler(Scheduler):
    """Runs one request at a time: the baseline that batching is compared with."""

    @staticmethod
    def policy(engine: LoadedModel) -> Policy:
        tokens = engine.limits.max_batch_tokens
        return Policy(1, tokens, tokens, max_itl_ms=engine.config.max_itl_ms)


SCHEDULERS: dict[Mode, Callable[[LoadedModel], Scheduler]] = {
    "naive": NaiveScheduler,
    "offline": OfflineScheduler,
    "online": OnlineScheduler,
}
