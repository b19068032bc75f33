"""The planner alone, over a simulated cache that remembers the contents of every slot. No torch, many random runs."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roseinfer.cache.block_pool import BlockPool
from roseinfer.cache.group_tables import GroupTables
from roseinfer.config import SamplingParams
from roseinfer.engine.planner import Planner
from roseinfer.engine.request import Request
from roseinfer.engine.step_plan import Policy, StepPlan
from roseinfer.errors import UsageError

Content = tuple[int, ...]
"""Simulated keys and values of one token: the group of layers, then all tokens up to it, which determine the real ones.
"""


@dataclass
class Machine:
    """A planner, its pool, and a simulated model whose next token is a function of all tokens before it."""

    scheduler: Planner
    slots: dict[tuple[int, int], Content] = field(default_factory=dict)  # by block and offset
    step_s: Callable[[StepPlan], float] = lambda plan: 0.01

    def step(self) -> StepPlan:
        """Run one step as an engine does, and check every cached token that the model would read."""
        plan = self.scheduler.plan()
        size, windows = self.scheduler.pool.block_size, self.scheduler.pool.tables.windows
        for source, target in self.scheduler.begin(plan).block_copies:
            for offset in range(size):
                self.slots.pop((target, offset), None)
                if (source, offset) in self.slots:
                    self.slots[target, offset] = self.slots[source, offset]
        for chunk in plan.chunks:
            table, tokens = chunk.request.block_table, chunk.request.token_ids
            for at in range(chunk.start, chunk.stop):
                for group in range(len(windows)):
                    self.slots[table[at // size * len(windows) + group], at % size] = (group, *tokens[: at + 1])
        for chunk in plan.chunks:
            table, tokens = chunk.request.block_table, chunk.request.token_ids
            for group, window in enumerate(windows):
                # Of a chunk's tokens, the first sees the farthest.
                for at in range(0 if window is None else max(chunk.start - window + 1, 0), chunk.stop):
                    block = table[at // size * len(windows) + group]
                    assert self.slots[block, at % size] == (group, *tokens[: at + 1])
                    assert self.scheduler.pool.holders(block) > 0
        sampled = [next_token(chunk.request) for chunk in plan.chunks if chunk.samples]
        self.scheduler.commit(plan, sampled)
        self.scheduler.times.observe(plan, self.step_s(plan))
        return plan


def next_token(request: Request) -> int:
    """Return the next token; completions of one prompt get different tokens, so that they diverge."""
    return hash((tuple(request.token_ids), request.sample_index)) % 7


def completion_alone(request: Request) -> list[int]:
    """Return the completion of the same request without other requests and without preemption."""
    alone = new_request(request.id, request.prompt_token_ids, request.max_new_tokens, sample_index=request.sample_index)
    while alone.finish_reason is None:
        token_id = next_token(alone)
        alone.expect(1)
        alone.take([token_id])
    return alone.completion_token_ids


def new_request(
    number: int,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    sample_index: int = 0,
    parent: Request | None = None,
) -> Request:
    return Request(
        id=number,
        sample_index=sample_index,
        parent=parent,
        prompt_token_ids=list(prompt),
        params=SamplingParams(max_new_tokens=max_new_tokens),
        seed=0,
        max_new_tokens=max_new_tokens,
        stop_token_ids=frozenset({6}),
        submitted_s=0.0,
    )


def state(scheduler: Planner, requests: Sequence[Request]) -> object:
    """Return all state that planning could change by mistake."""
    pool = scheduler.pool
    return (
        pool.num_free,
        [pool.holders(block) for block in range(pool.num_blocks)],
        [(r.num_computed_tokens, list(r.block_table), list(r.token_ids), r.finish_reason) for r in requests],
        scheduler.num_preemptions,
    )


@st.composite
def jobs(draw: st.DrawFn) -> list[tuple[list[int], int, int, int]]:
    """Draw jobs of (prompt, new tokens, completions, steps after the previous arrival), often with shared prefixes."""
    common = draw(st.lists(st.integers(0, 2), max_size=12))
    found = []
    for _ in range(draw(st.integers(1, 7))):
        own = draw(st.lists(st.integers(0, 3), min_size=1, max_size=10))
        prompt = common[: draw(st.integers(0, len(common)))] + own
        found.append(
            (prompt, draw(st.integers(1, 9)), draw(st.sampled_from([1, 1, 1, 2, 3])), draw(st.integers(0, 12)))
        )
    return found


@given(
    of=jobs(),
    block_size=st.sampled_from([1, 2, 3, 4, 8]),
    spare_blocks=st.integers(0, 8),
    prefix_cache=st.booleans(),
    windows=st.sampled_from([(None,), (None,), (3,), (None, 4), (None, 2, 2), (None, 1, 7), (5, 2)]),
    policy=st.builds(
        Policy,
        max_batch_size=st.integers(1, 5),
        max_batch_tokens=st.integers(1, 24),
        max_mixed_tokens=st.integers(1, 24),
        least_prompt_tokens=st.integers(1, 24),
        full_prompt_tokens=st.integers(1, 24),
        bounds_itl=st.booleans(),
        max_itl_ms=st.one_of(st.none(), st.floats(0.01, 100)),
        spreads_prompts=st.booleans(),
        longest_first=st.booleans(),
    ),
    durations_s=st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 0.05)), min_size=1, max_size=7),
    aborts=st.dictionaries(st.integers(0, 7), st.integers(0, 25), max_size=3),
)
@settings(max_examples=400, deadline=None)
def test_every_request_ends_once_with_its_own_completion_and_no_block_is_lost(
    of: list[tuple[list[int], int, int, int]],
    block_size: int,
    spare_blocks: int,
    prefix_cache: bool,
    windows: tuple[int | None, ...],
    policy: Policy,
    durations_s: list[float],
    aborts: dict[int, int],
) -> None:
    # Hardly more blocks than the largest request needs, so that most runs preempt.
    tables = GroupTables(windows, block_size)
    largest = max(tables.most_held(len(prompt) + new - 1, policy.max_batch_tokens) for prompt, new, _, _ in of)
    pool = BlockPool(largest + spare_blocks, block_size, prefix_cache=prefix_cache, windows=windows)
    duration_s = cycle(durations_s)
    machine = Machine(Planner(pool, policy), step_s=lambda plan: next(duration_s))
    scheduler = machine.scheduler
    requests: list[Request] = []
    events: list[tuple[int, str, list[Request]]] = []
    for number, (prompt, new, completions, _) in enumerate(of):
        first = new_request(number, prompt, new)
        group = [first]
        group += [new_request(number, prompt, new, sample_index=i, parent=first) for i in range(1, completions)]
        requests += group
        # Offline runs have all requests from the start; in other modes ids follow the order of arrival.
        at = 0 if policy.longest_first else sum(job[3] for job in of[: number + 1])
        events.append((at, "arrive", group))
        if number in aborts:
            events.append((at + aborts[number], "abort", group))

    arrived: list[Request] = []
    num_steps = 0
    while events or scheduler.has_unfinished:
        for _, kind, group in [event for event in events if event[0] <= num_steps]:
            for request in group:
                if kind == "arrive":
                    scheduler.add(request)
                    arrived.append(request)
                elif request.finish_reason is None:
                    scheduler.abort(request)
        events = [event for event in events if event[0] > num_steps]
        num_steps += 1
        if not scheduler.has_unfinished:
            continue
        live = [request for request in arrived if request.finish_reason is None]
        waiting = [request for request in live if not request.block_table]
        assert scheduler.num_waiting_tokens == sum(len(request.token_ids) for request in waiting)
        decoding = [r for r in live if r.block_table and r.num_computed_tokens >= len(r.prompt_token_ids)]
        before = state(scheduler, requests)
        planned = scheduler.plan()
        assert scheduler.plan() == planned
        assert state(scheduler, requests) == before

        plan = machine.step()
        assert plan == planned
        assert 1 <= len(plan.chunks) <= policy.max_batch_size
        assert 1 <= plan.num_tokens <= policy.max_batch_tokens
        assert all(chunk.num_tokens >= 1 for chunk in plan.chunks)
        assert len({id(chunk.request) for chunk in plan.chunks}) == len(plan.chunks)
        started = {id(admission.request) for admission in plan.admitted}
        if decodes := sum(chunk.is_decode and id(chunk.request) not in started for chunk in plan.chunks):
            prefill = sum(chunk.num_tokens for chunk in plan.chunks if not chunk.is_decode)
            limit = max(policy.max_mixed_tokens - decodes, policy.least_prompt_tokens)
            assert prefill <= limit or policy.spreads_prompts or policy.bounds_itl
        # Prompts, of earlier requests or later ones, leave out no decoding request.
        computed = {id(request) for request in (*(chunk.request for chunk in plan.chunks), *plan.preempted)}
        assert policy.max_batch_tokens < policy.max_batch_size or all(id(r) in computed for r in decoding)
        # No starvation: the first request in order is in every step.
        assert any(chunk.request is min(live, key=lambda r: order(policy, r)) for chunk in plan.chunks)
        assert num_steps < 5000, "no progress"
        held = Counter(block for request in live for block in visible_blocks(pool, request))
        assert [pool.holders(block) for block in range(pool.num_blocks)] == [held[at] for at in range(pool.num_blocks)]

    for request in requests:
        expected = completion_alone(request)
        if request.finish_reason == "abort":
            assert request.completion_token_ids == expected[: len(request.completion_token_ids)]
        else:
            assert request.finish_reason in ("stop", "length")
            assert request.completion_token_ids == expected
        assert request.block_table == []
        assert request.block_contents == [], "ended requests hold no memory for the prefix cache"
    assert pool.num_free == pool.num_blocks
    assert all(pool.holders(block) == 0 for block in range(pool.num_blocks))


def visible_blocks(pool: BlockPool, request: Request) -> set[int]:
    """Return the blocks that queries can see from the last computed token on, token by token."""
    windows, table = pool.tables.windows, request.block_table
    end = len(table) // len(windows) * pool.block_size
    last = max(request.num_computed_tokens - 1, 0)
    return {
        table[at // pool.block_size * len(windows) + group]
        for group, window in enumerate(windows)
        for at in range(0 if window is None else max(last - window + 1, 0), end)
    }


def order(policy: Policy, request: Request) -> tuple[int, ...]:
    first = -request.max_new_tokens if policy.longest_first else 0
    return (first, request.id, request.sample_index)


def test_a_request_that_can_never_fit_is_refused_with_the_arithmetic() -> None:
    scheduler = Planner(BlockPool(3, 4), Policy(2, 16, 16))
    scheduler.add(new_request(0, range(5), 8))  # 12 tokens in the cache: the last one is never computed
    with pytest.raises(UsageError, match="5 prompt and 9 new tokens needs 4 KV blocks of 4 tokens, but the pool has 3"):
        scheduler.add(new_request(1, range(5), 9))


def test_prompts_are_spread_over_the_steps_of_completions_that_are_long_enough() -> None:
    policy = Policy(4, 64, max_mixed_tokens=6, least_prompt_tokens=2, spreads_prompts=True)
    machine = Machine(Planner(BlockPool(64, 4), policy))
    for number, new in enumerate((9, 8, 4)):
        machine.scheduler.add(new_request(number, range(10 * number, 10 * number + 10), new))
    labels = [machine.step().label for _ in range(4)]
    # 30 prompt tokens at six per step, decodes included. The longest completion has nine steps.
    assert labels == [
        "prefill bs=1 tokens=6",
        "prefill bs=2 tokens=6",
        "mixed bs=2 tokens=6",
        "mixed bs=3 tokens=6",
    ]
    machine = Machine(Planner(BlockPool(64, 4), policy))
    for number in range(3):
        machine.scheduler.add(new_request(number, range(10 * number, 10 * number + 10), 4))
    assert machine.step().label == "prefill bs=3 tokens=30", "four steps are not enough"


def test_what_is_left_of_running_prompts_counts_when_prompts_are_spread() -> None:
    """At five prompt tokens per step, 14 left of running requests and 21 waiting fit in the longest's seven steps."""
    policy = Policy(4, 64, max_mixed_tokens=6, least_prompt_tokens=2, spreads_prompts=True)
    for waiting, label in ((21, "mixed bs=2 tokens=6"), (22, "mixed bs=3 tokens=36")):
        machine = Machine(Planner(BlockPool(64, 4), policy))
        first = new_request(0, range(6), 9)
        first.stop_token_ids = frozenset()
        machine.scheduler.add(first)
        machine.scheduler.add(new_request(1, range(50, 68), 2))
        assert [machine.step().label for _ in range(2)] == ["prefill bs=1 tokens=6", "mixed bs=2 tokens=6"]
        machine.scheduler.add(new_request(2, range(100, 100 + waiting), 2))
        assert machine.step().label == label


def test_requests_that_a_full_batch_cannot_admit_do_not_keep_prompts_from_being_spread() -> None:
    """At five prompt tokens per step, the 14 left of the running request fit in the steps of any completion."""
    policy = Policy(2, 64, max_mixed_tokens=6, least_prompt_tokens=2, spreads_prompts=True)
    machine = Machine(Planner(BlockPool(64, 4), policy))
    first = new_request(0, range(6), 9)
    first.stop_token_ids = frozenset()
    machine.scheduler.add(first)
    machine.scheduler.add(new_request(1, range(50, 68), 2))
    assert [machine.step().label for _ in range(2)] == ["prefill bs=1 tokens=6", "mixed bs=2 tokens=6"]
    machine.scheduler.add(new_request(2, range(100, 110), 30))
    assert machine.step().label == "mixed bs=2 tokens=6"


@pytest.mark.parametrize(("stops", "steps"), [(frozenset[int](), 8), (frozenset({6}), 1)])
def test_several_steps_are_planned_only_where_no_token_ends_a_request(stops: frozenset[int], steps: int) -> None:
    planner = Planner(BlockPool(64, 4), Policy(4, 64, 64, max_decode_steps=8))
    request = new_request(0, range(6), 20)
    request.stop_token_ids = stops
    planner.add(request)
    plan = planner.plan()
    planner.begin(plan)
    planner.commit(plan, [1])
    assert planner.plan().decode_steps == steps


def test_prompts_are_not_spread_where_completions_would_only_end_later() -> None:
    policy = Policy(8, 64, max_mixed_tokens=8, least_prompt_tokens=2, spreads_prompts=True)
    one = Machine(Planner(BlockPool(64, 4), policy))
    one.scheduler.add(new_request(0, range(40), 30))
    assert one.step().label == "prefill bs=1 tokens=40", "nothing decodes beside a single prompt"
    alike = Machine(Planner(BlockPool(64, 4), policy))
    for number in range(4):
        alike.scheduler.add(new_request(number, range(10 * number, 10 * number + 8), 30))
    assert alike.step().label == "prefill bs=4 tokens=32", "the last of four equal requests would end three steps later"


def test_a_long_prompt_is_computed_in_chunks_beside_decoding_requests() -> None:
    machine = Machine(Planner(BlockPool(32, 4), Policy(4, 16, max_mixed_tokens=5, least_prompt_tokens=1)))
    machine.scheduler.add(new_request(0, range(10, 13), 30))
    assert machine.step().label == "prefill bs=1 tokens=3"
    machine.scheduler.add(new_request(1, range(20, 30), 5))
    steps = [machine.step().label for _ in range(4)]
    assert steps == ["mixed bs=2 tokens=5", "mixed bs=2 tokens=5", "mixed bs=2 tokens=3", "decode bs=2 tokens=2"]


def test_no_prompt_is_cut_to_fill_up_a_step_that_is_full_enough() -> None:
    machine = Machine(Planner(BlockPool(64, 4), Policy(8, 16, 16, full_prompt_tokens=8)))
    for number, length in enumerate((7, 6, 8, 9)):
        machine.scheduler.add(new_request(number, range(10 * number, 10 * number + length), 30))
    lengths = [[chunk.num_tokens for chunk in machine.step().chunks if not chunk.is_decode] for _ in range(3)]
    assert lengths == [[7, 6], [8], [9]], "8 do not fit beside 13, 9 do not beside 8 and two decodes"


def test_a_prompt_is_cut_if_no_step_could_hold_all_of_it_or_the_step_is_nearly_empty() -> None:
    machine = Machine(Planner(BlockPool(64, 4), Policy(8, 16, 16, full_prompt_tokens=8)))
    for number, length in enumerate((7, 10, 20)):
        machine.scheduler.add(new_request(number, range(10 * number, 10 * number + length), 30))
    lengths = [[chunk.num_tokens for chunk in machine.step().chunks if not chunk.is_decode] for _ in range(3)]
    assert lengths == [[7, 8], [2, 12], [8]], "chunks of 8 tokens or more that do not end a prompt are even"


def test_the_youngest_is_preempted_and_finishes_all_the_same() -> None:
    pool = BlockPool(4, 2, prefix_cache=False)
    machine = Machine(Planner(pool, Policy(2, 16, 16)))
    old, young = new_request(0, [10, 11, 12], 5), new_request(1, [20, 21, 22], 5)
    old.stop_token_ids = young.stop_token_ids = frozenset()
    machine.scheduler.add(old)
    machine.scheduler.add(young)
    preempted = []
    while machine.scheduler.has_unfinished:
        preempted += machine.step().preempted
        assert not (young.finish_reason and not old.finish_reason)
    assert preempted
    assert set(map(id, preempted)) == {id(young)}
    assert machine.scheduler.num_preemptions == len(preempted)
    assert len(old.completion_token_ids) == len(young.completion_token_ids) == 5


def test_a_shared_prefix_is_computed_once() -> None:
    machine = Machine(Planner(BlockPool(16, 4), Policy(2, 64, 64)))
    prompt = list(range(100, 113))
    machine.scheduler.add(new_request(0, prompt, 1))
    assert machine.step().num_tokens == 13
    machine.scheduler.add(new_request(1, [*prompt[:12], 999], 1))
    assert machine.step().num_tokens == 1
    assert machine.scheduler.pool.statistics.hit_tokens == 12


def test_without_a_prefix_cache_nothing_is_shared() -> None:
    machine = Machine(Planner(BlockPool(16, 4, prefix_cache=False), Policy(2, 64, 64)))
    for number in range(2):
        machine.scheduler.add(new_request(number, range(100, 113), 1))
        assert machine.step().num_tokens == 13


def test_completions_of_one_prompt_compute_it_once() -> None:
    machine = Machine(Planner(BlockPool(32, 4), Policy(4, 64, 64)))
    first = new_request(0, range(100, 114), 3)
    for request in (first, *(new_request(0, range(100, 114), 3, sample_index=i, parent=first) for i in (1, 2))):
        machine.scheduler.add(request)
    assert machine.step().num_tokens == 14
    # The others compute the prompt's last token to draw their own first token; the first completion decodes.
    assert machine.step().num_tokens == 3
