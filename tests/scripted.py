"""A fake engine with given step times and a simulated clock. It plans with the real planner and runs no model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import torch

from roseinfer.cache.block_pool import BlockPool
from roseinfer.config import EngineConfig, Mode, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.limits import StepLimits
from roseinfer.engine.outputs import RequestOutput, TokenEvent
from roseinfer.engine.planner import Planner
from roseinfer.engine.prompt import Prompt
from roseinfer.engine.request import Request
from roseinfer.engine.step_plan import Policy, StepPlan
from roseinfer.models.expert_use import ExpertUse
from roseinfer.models.model_config import ModelConfig


class SimulatedClock:
    """Simulated time in seconds, starting at 100. Only steps, submissions and waits advance it."""

    def __init__(self) -> None:
        self.time_s = 100.0

    def now_s(self) -> float:
        return self.time_s

    def wait_until(self, time_s: float) -> None:
        self.time_s = max(self.time_s, time_s)


class ScriptedScheduler:
    """Scheduler with the real planner and a fake model, whose step takes `step_s(plan)` and always draws token 7."""

    def __init__(self, engine: "ScriptedEngine", policy: Policy) -> None:
        self._engine = engine
        self._scheduler = Planner(engine.pool, policy)
        self._requests: list[Request] = []
        self._finished: list[Request] = []
        self._steps: list[tuple[StepPlan, float]] = []
        self.last_plan: StepPlan | None = None

    @property
    def has_unfinished(self) -> bool:
        return self._scheduler.has_unfinished

    @property
    def num_preemptions(self) -> int:
        return self._scheduler.num_preemptions

    def submit(self, prompt: Sequence[int], params: SamplingParams) -> int:
        submitted_s = self._engine.clock.time_s
        self._engine.clock.time_s += self._engine.submit_s
        request = Request(
            id=len(self._requests),
            sample_index=0,
            parent=None,
            prompt_token_ids=list(prompt),
            params=params,
            seed=0,
            max_new_tokens=params.max_new_tokens,
            stop_token_ids=frozenset(),
            submitted_s=submitted_s,
        )
        self._requests.append(request)
        self._scheduler.add(request)
        return request.id

    def step(self, before_step: Callable[[StepPlan], None] | None = None) -> list[TokenEvent]:
        plan = self._scheduler.plan()
        if before_step is not None:
            before_step(plan)
        self._scheduler.begin(plan)
        self._engine.clock.time_s += self._engine.step_s(plan)
        self._steps.append((plan, self._engine.step_s(plan)))
        self.last_plan = plan
        for request, _ in self._scheduler.commit(plan, [7] * sum(chunk.samples for chunk in plan.chunks)):
            request.token_times_s.append(self._engine.clock.time_s)
            if request.finish_reason is not None:
                self._finished.append(request)
        return []

    def take_steps(self) -> list[tuple[StepPlan, float]]:
        steps, self._steps = self._steps, []
        return steps

    def take_outputs(self) -> list[RequestOutput]:
        finished, self._finished = self._finished, []
        return [request.output() for request in sorted(finished, key=lambda request: request.id)]

    def abort(self, request_id: int) -> None:
        request = self._requests[request_id]
        if request.finish_reason is None:
            self._scheduler.abort(request)
            self._finished.append(request)


TINY = ModelConfig(
    architecture="gpt2",
    vocab_size=100,
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    head_dim=4,
    intermediate_size=16,
    max_position_embeddings=4096,
    norm_eps=1e-5,
    tie_word_embeddings=True,
)


DEFAULTS = EngineConfig(max_batch_size=8)


@dataclass
class ScriptedEngine:
    """Fake engine: prefill takes `token_s` per token, a decode step `decode_s` plus `request_s` per request."""

    decode_s: float = 0.01
    token_s: float = 0.001
    request_s: float = 0.0
    submit_s: float = 0.0
    config: EngineConfig = DEFAULTS
    model_config: ModelConfig = TINY
    clock: SimulatedClock = field(default_factory=SimulatedClock)
    pool: BlockPool = field(default_factory=lambda: BlockPool(4096, 4))
    dtype = torch.float32
    weight_bytes = None
    expert_use = ExpertUse()
    chat_template = None
    limits: StepLimits | None = None
    runner = SimpleNamespace(
        capture_missing=lambda: None,
        device=torch.device("cpu"),
        cache=SimpleNamespace(data=torch.empty(0, dtype=torch.float32)),
    )

    def __post_init__(self) -> None:
        self.limits = self.limits or StepLimits(self.config.max_batch_size or 8, 10_000)

    @property
    def rank_config(self) -> ModelConfig:
        """One rank has all of the model."""
        return self.model_config

    def step_s(self, plan: StepPlan) -> float:
        prefill = sum(chunk.num_tokens for chunk in plan.chunks if not chunk.is_decode)
        decodes = sum(chunk.is_decode for chunk in plan.chunks)
        return prefill * self.token_s + (self.decode_s + decodes * self.request_s if decodes else 0.0)

    def scheduler(self, mode: Mode) -> ScriptedScheduler:
        assert self.limits is not None
        size = 1 if mode == "naive" else self.limits.max_batch_size
        return ScriptedScheduler(self, Policy(size, 10_000, 10_000, longest_first=mode == "offline"))

    def encode(self, prompt: Prompt) -> list[int]:
        return [int(cast("Any", token_id)) for token_id in prompt]

    @property
    def as_engine(self) -> Engine:
        """The fake, typed as a real engine."""
        return cast("Engine", self)
