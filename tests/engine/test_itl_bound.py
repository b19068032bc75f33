"""The bound of the wait between a request's tokens, planned by step times that a simulated clock gives."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roseinfer.cache.block_pool import BlockPool
from roseinfer.config import SamplingParams
from roseinfer.engine.planner import Planner
from roseinfer.engine.request import Request
from roseinfer.engine.step_plan import Chunk, Policy, StepPlan
from roseinfer.engine.step_times import StepTimes

ONLINE = Policy(64, 4096, 512, bounds_itl=True, max_decode_steps=16)
PAIR_WORK = 1 / 4096


@dataclass
class Device:
    """A simulated device. Its times are in seconds and fit the model that a planner assumes: a sum of parts."""

    decode_s: float = 0.002
    request_s: float = 1e-5
    token_s: float = 1e-5
    pair_s: float = 1e-5 * PAIR_WORK

    def step_s(self, plan: StepPlan) -> float:
        decodes = sum(chunk.is_decode for chunk in plan.chunks)
        prompts = [chunk for chunk in plan.chunks if not chunk.is_decode]
        pairs = sum(chunk.num_tokens * (chunk.start + chunk.num_tokens / 2) for chunk in prompts)
        tokens = sum(chunk.num_tokens for chunk in prompts)
        decode_s = plan.decode_steps * (self.decode_s + decodes * self.request_s) if decodes else 0.0
        return decode_s + tokens * self.token_s + pairs * self.pair_s


class Run:
    """A planner whose steps take the time that a device says."""

    def __init__(
        self, policy: Policy = ONLINE, *, tokens: int = 1 << 17, step_s: Callable[[StepPlan], float] | None = None
    ) -> None:
        self.planner = Planner(BlockPool(tokens // 16, 16, prefix_cache=False), policy, times=StepTimes(PAIR_WORK))
        self.step_s = step_s or Device().step_s
        self._num_requests = 0

    def add(self, prompt: int, new: int) -> Request:
        request = Request(
            id=self._num_requests,
            sample_index=0,
            parent=None,
            prompt_token_ids=list(range(prompt)),
            params=SamplingParams(max_new_tokens=new),
            seed=0,
            max_new_tokens=new,
            stop_token_ids=frozenset(),
            submitted_s=0.0,
        )
        self._num_requests += 1
        self.planner.add(request)
        return request

    def step(self) -> tuple[StepPlan, float]:
        """Run a step; return its plan and its time in seconds."""
        plan = self.planner.plan()
        self.planner.begin(plan)
        self.planner.commit(plan, [5] * (plan.decode_steps * sum(chunk.samples for chunk in plan.chunks)))
        seconds = self.step_s(plan)
        self.planner.times.observe(plan, seconds)
        return plan, seconds

    def warm_up(self) -> None:
        """Decode beside prompts until the times of steps are known."""
        self.add(64, 100)
        for _ in range(12):
            self.add(2048, 2)
        while self.planner.has_unfinished:
            self.step()


def prompt_tokens(plan: StepPlan) -> int:
    return sum(chunk.num_tokens for chunk in plan.chunks if not chunk.is_decode)


def test_a_step_without_decodes_computes_as_many_prompt_tokens_as_a_step_may_have() -> None:
    run = Run(replace(ONLINE, max_itl_ms=1.0))
    run.warm_up()
    run.add(3000, 4)
    run.add(3000, 4)
    assert run.step()[0].label == "prefill bs=2 tokens=4096"


def test_before_times_are_known_a_step_beside_decodes_has_512_tokens() -> None:
    run = Run()
    run.add(10, 50)
    run.step()
    run.add(3000, 1)
    assert run.step()[0].label == "mixed bs=2 tokens=512"


@pytest.mark.parametrize("max_itl_ms", [None, 5.0, 20.0, 40.0])
def test_no_step_takes_longer_than_the_bound(max_itl_ms: float | None) -> None:
    run = Run(replace(ONLINE, max_itl_ms=max_itl_ms))
    run.warm_up()
    for _ in range(8):
        run.add(100, 3000)
    while len(run.planner._running) < 8 or run.planner._waiting:
        run.step()
    decode_s = Device().decode_s + 8 * Device().request_s
    bound_s = 8 * decode_s if max_itl_ms is None else max_itl_ms / 1e3
    run.add(30_000, 1)
    taken = []
    while True:
        plan, seconds = run.step()
        if not prompt_tokens(plan):
            break
        taken.append(seconds)
        assert plan.phase == "mixed"
    assert max(taken) <= bound_s
    assert sorted(taken)[len(taken) // 2] >= 0.4 * bound_s, "steps use most of what the bound allows"


def test_a_longer_context_gets_shorter_chunks() -> None:
    run = Run()
    run.warm_up()
    run.add(10, 500)
    run.step()
    run.add(100_000, 1)
    chunks = []
    while run.planner._waiting or run.planner._running[1:]:
        chunks.append(prompt_tokens(run.step()[0]))
    assert len(chunks) > 20
    assert chunks[-2] < chunks[8] / 4, "attention to 100,000 tokens takes most of the time"


@given(bound_ms=st.floats(0.001, 2.0), prompts=st.lists(st.integers(1, 900), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_a_bound_that_cannot_be_met_stops_neither_prompts_nor_decodes(bound_ms: float, prompts: list[int]) -> None:
    run = Run(replace(ONLINE, max_itl_ms=bound_ms, max_batch_size=8), step_s=Device(decode_s=0.01).step_s)
    run.warm_up()
    decoding = run.add(10, 400)
    run.step()
    requests = [run.add(prompt, 3) for prompt in prompts]
    left = sum(prompts)
    for _ in range(100):
        if not left:
            break
        plan, _ = run.step()
        assert any(chunk.request is decoding for chunk in plan.chunks)
        assert prompt_tokens(plan) >= min(left, 32)
        left -= prompt_tokens(plan)
    while run.planner.has_unfinished:
        run.step()
    assert all(request.finish_reason == "length" for request in (decoding, *requests))


def test_a_stream_of_prompts_stops_no_decoding_request() -> None:
    run = Run(replace(ONLINE, max_batch_size=16))
    run.warm_up()
    decoding = run.add(10, 60)
    run.step()
    for _ in range(59):
        if len(run.planner._waiting) < 3:
            run.add(1500, 8)
        before = decoding.num_new_tokens
        run.step()
        assert decoding.num_new_tokens == before + 1
    assert decoding.finish_reason == "length"


def test_a_launch_has_as_many_decode_steps_as_the_bound_allows() -> None:
    for max_itl_ms, decode_steps in ((None, 16), (8.0, 3), (0.5, 1)):
        run = Run(replace(ONLINE, max_itl_ms=max_itl_ms))
        run.add(10, 200)
        launches = [run.step()[0].decode_steps for _ in range(8)]
        assert launches[-1] == decode_steps  # 2.01 ms each; a plan fills 80 % of the bound
        assert max_itl_ms is None or launches[1] == 1, "not known yet"


def test_sizes_that_take_longer_per_token_are_avoided() -> None:
    """Steps of more than 512 tokens run without a graph here: their launches alone take 20 ms."""

    def step_s(plan: StepPlan) -> float:
        return max(Device(pair_s=0.0).step_s(plan), 0.020 if plan.num_tokens > 512 else 0.0)

    run = Run(step_s=step_s)
    run.planner.times = StepTimes()
    run.warm_up()
    run.add(10, 2000)
    run.step()
    run.add(60_000, 1)
    sizes = [run.step()[0].num_tokens for _ in range(100)]
    assert sum(size > 512 for size in sizes) <= 4, "only to see whether their times have changed"
    assert sizes.count(512) >= 90


def test_prompts_that_cost_a_decode_step_nothing_do_not_keep_chunks_small() -> None:
    """Up to 64 tokens are free here beside decodes, which read the weights anyway."""

    def step_s(plan: StepPlan) -> float:
        return 0.005 + max(plan.num_tokens / plan.decode_steps - 64, 0) * 1e-5

    run = Run(step_s=step_s)
    for _ in range(30):
        run.add(3, 40)  # steps of a few prompt tokens
        run.step()
        run.step()
    run.warm_up()
    run.add(10, 2000)
    run.step()
    run.add(20_000, 1)
    assert sum(prompt_tokens(run.step()[0]) for _ in range(20)) > 20 * 300


def test_rare_slow_steps_hardly_change_the_plans() -> None:
    def chunks(outliers: bool) -> list[int]:
        run = Run()
        run.warm_up()
        run.add(10, 300)
        found = []
        for number in range(60):
            if number % 8 == 0:
                run.add(4000, 2)
            factor = 100 if outliers and number % 10 == 3 else 1
            run.step_s = lambda plan, factor=factor: Device().step_s(plan) * factor
            found.append(prompt_tokens(run.step()[0]))
        return sorted(found)

    expected, found = chunks(outliers=False), chunks(outliers=True)
    assert sum(found) == sum(expected)
    assert abs(found[45] - expected[45]) <= expected[45] / 4


def test_times_that_were_once_too_long_are_measured_again() -> None:
    slow = Device(token_s=2e-4)
    run = Run(step_s=slow.step_s)
    run.warm_up()
    run.step_s = Device().step_s
    run.add(10, 4000)
    chunks = []
    for number in range(2500):
        if number % 4 == 0:
            run.add(2000, 1)
        chunks.append(prompt_tokens(run.step()[0]))
    assert 0 < chunks[4] < 128
    assert max(chunks[-100:]) > 800


@given(work=st.floats(0, 1e7), start=st.integers(0, 1 << 20), pair_work=st.sampled_from([0.0, 1e-6, PAIR_WORK, 0.1]))
def test_tokens_within_is_the_inverse_of_work(work: float, start: int, pair_work: float) -> None:
    times = StepTimes(pair_work)
    tokens = times.tokens_within(work, start)

    def work_of(count: int) -> float:
        return times.work(Chunk(None, start, count, samples=False, is_decode=False))  # type: ignore[arg-type]

    assert work_of(tokens) <= work * (1 + 1e-9)
    assert work_of(tokens + 1) >= work * (1 - 1e-9)


def test_a_request_of_the_longest_context_is_computed_in_chunks_of_the_largest_step() -> None:
    policy = Policy(256, 16_384, 512, bounds_itl=True)
    run = Run(policy, tokens=131_072)
    request = run.add(131_000, 72)
    plans = [run.step()[0] for _ in range(8)]
    assert [plan.num_tokens for plan in plans] == [16_384] * 7 + [131_000 - 7 * 16_384]
    assert len(request.block_table) == 8188
    while run.planner.has_unfinished:
        run.step()
    assert request.finish_reason == "length"
    assert run.planner.pool.num_free == run.planner.pool.num_blocks == 8192
