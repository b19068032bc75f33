"""What to compute next: the policy of batching, with block accounting and no tensors.

`plan` decides and changes nothing; `begin` carries the decision out; `advance` counts it as done, and `resolve` takes
the sampled tokens, after the next plan has begun or before. A request has
`num_computed_tokens`, and a plan gives it n more: prefill, chunked prefill, decode and the recomputation of a
preempted request differ only in n.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec

from roseinfer.cache.block_pool import BlockPool
from roseinfer.cache.prefix_index import ROOT, Key, block_key
from roseinfer.engine.request import Request
from roseinfer.errors import UsageError

Phase = Literal["prefill", "decode", "mixed"]

LEAST_PROMPT_TOKENS = 128
"""Of prompts, that a step computes however many requests decode."""

SpanFactory = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class Policy:
    """What tells the modes apart."""

    max_batch_size: int
    max_batch_tokens: int
    max_mixed_tokens: int
    """Most tokens of a step that computes prompts and also decodes: what bounds the wait between a running request's
    tokens."""
    least_prompt_tokens: int = LEAST_PROMPT_TOKENS
    """What of them, or beyond them, is left to prompts however many requests decode."""
    spreads_prompts: bool = False
    """Where the completions to come have steps enough for all prompts, compute those in steps of `max_mixed_tokens`,
    the first ones too; else as many at once as possible."""
    longest_first: bool = False
    """Start the longest completions first, so that a batch does not end with one straggler; else first come first."""
    max_decode_steps: int = 1
    """Most tokens a request that one launch decodes, where nothing can end inside it."""


class Chunk(msgspec.Struct, frozen=True, gc=False):  # one a request a step: cheap to make
    """`num_tokens` more tokens of one request, `start` of which the cache holds already."""

    request: Request
    start: int
    num_tokens: int
    samples: bool
    """Whether the chunk reaches the request's last token, so that the next one can be drawn."""
    is_decode: bool
    """Whether it computes what was just drawn; several tokens then come one after the other."""

    @property
    def stop(self) -> int:
        return self.start + self.num_tokens


@dataclass(frozen=True)
class Admission:
    """A waiting request that starts, and what of it other requests have computed."""

    request: Request
    shared: tuple[int, ...] = ()
    """Blocks to hold together with others: full ones, which nobody writes any more."""
    copied: int | None = None
    """A block that others go on writing: its first tokens are copied into a block of the request's own."""
    num_tokens: int = 0
    """Tokens in the blocks shared and copied."""


class BlockCopy(NamedTuple):
    """Contents to copy before the step runs."""

    source: int
    target: int


@dataclass(frozen=True)
class StepPlan:
    """One step: which requests, how many tokens each."""

    chunks: tuple[Chunk, ...]
    admitted: tuple[Admission, ...]
    preempted: tuple[Request, ...]
    decode_steps: int = 1
    """Tokens that each request of a pure decode draws, one after the other, in one launch."""

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def num_context_tokens(self) -> int:
        """Tokens that the step's attention reads, the new ones included."""
        if self.decode_steps > 1:
            return sum(sum(range(chunk.start + 1, chunk.stop + 1)) for chunk in self.chunks)
        return sum(chunk.stop for chunk in self.chunks)

    @property
    def phase(self) -> Phase:
        decodes = sum(chunk.is_decode for chunk in self.chunks)
        if decodes == len(self.chunks):
            return "decode"
        return "mixed" if decodes else "prefill"

    @property
    def label(self) -> str:
        """What the step's span says in brackets."""
        return f"{self.phase} bs={len(self.chunks)} tokens={self.num_tokens}"


class Planner:
    """Requests in order over one block pool; the last in order is preempted when blocks run out."""

    def __init__(self, pool: BlockPool, policy: Policy) -> None:
        self.pool = pool
        self.policy = policy
        self._waiting: list[Request] = []  # the next one last, preempted requests included
        self._running: list[Request] = []  # the first in order first
        self.num_waiting_tokens = 0
        """To compute of requests that wait, where nothing of them is cached."""
        self.num_preemptions = 0

    @property
    def has_unfinished(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, request: Request) -> None:
        """Queue a request. Raises UsageError, with the arithmetic, for one that can never run."""
        # The last token of a completion is never computed, so it needs no slot.
        num_tokens = len(request.prompt_token_ids) + max(request.max_new_tokens - 1, 0)
        blocks = self.pool.blocks_for(num_tokens)
        if blocks > self.pool.num_blocks:
            raise UsageError(
                f"a request of {len(request.prompt_token_ids)} prompt and {request.max_new_tokens} new tokens needs "
                f"{blocks} KV blocks of {self.pool.block_size} tokens, but the pool has {self.pool.num_blocks}: "
                "shorten it, or raise kv_cache_memory"
            )
        self._queue(request)

    def plan(self, span: SpanFactory = nullcontext) -> StepPlan:
        """The next step, decided from the current state and changing none of it.

        `span` is what the parts worth seeing in a trace are marked with.
        """
        draft = _Draft(self, span)
        for request in self._running:
            if draft.budget == 0 or request in draft.preempted:
                break
            if not draft.extend(request):
                break
        if not draft.preempted:
            for request in reversed(self._waiting):
                if not draft.admit(request):
                    break
        steps = draft.run_ahead()
        return StepPlan(tuple(draft.chunks), tuple(draft.admitted), tuple(draft.preempted), steps)

    def begin(self, plan: StepPlan) -> list[BlockCopy]:
        """Preempt, admit and allocate as planned; what to copy before the step runs."""
        for request in plan.preempted:
            self._running.remove(request)
            self._release(request)
            request.num_computed_tokens = 0
            self._queue(request)
            self.num_preemptions += 1
        statistics = self.pool.statistics
        copied: dict[Request, int] = {}
        # Blocks are shared before any is allocated: an allocation may take what is kept but not held.
        for admission in plan.admitted:
            request = admission.request
            assert self._waiting[-1] is request, "requests are admitted in order"
            self._waiting.pop()
            self.num_waiting_tokens -= len(request.token_ids)
            insort(self._running, request, key=_order(self.policy))
            self.pool.share(admission.shared)
            request.block_table = list(admission.shared)
            request.num_computed_tokens = admission.num_tokens
            statistics.queried_tokens += len(request.token_ids)
            statistics.hit_tokens += admission.num_tokens
            if admission.copied is not None:
                copied[request] = admission.copied
        copies: list[BlockCopy] = []
        for chunk in plan.chunks:
            request = chunk.request
            missing = self.pool.blocks_for(chunk.stop) - len(request.block_table)
            if missing == 0:
                continue
            new = self.pool.allocate(missing)
            if request in copied:
                copies.append(BlockCopy(copied[request], new[0]))
            request.block_table += new
        return copies

    def advance(self, plan: StepPlan) -> None:
        """Count the plan as computed, its tokens as pending, so that the next step can be planned before they are read.

        A request keeps its blocks until its last token is there.
        """
        for chunk in plan.chunks:
            request = chunk.request
            request.num_computed_tokens = chunk.stop
            if chunk.samples:
                request.expect(plan.decode_steps)
                if request.num_new_tokens >= request.max_new_tokens:
                    self._running.remove(request)

    def can_plan_ahead(self, plan: StepPlan) -> bool:
        """Whether the step after an advanced plan can be planned, and run, before the plan's tokens are read.

        It can where there will be something to run, for tokens that the device knows; penalties and the like need them
        on the host.
        """
        return bool(self._running) and all(chunk.request.draws_plainly for chunk in plan.chunks)

    def resolve(self, plan: StepPlan, sampled: Sequence[int]) -> list[tuple[Request, Sequence[int]]]:
        """Take the sampled tokens of an advanced plan, one for each chunk that samples, in order; who got which.

        Of a launch of several decode steps, the tokens of one step come after those of the one before. A request that
        has ended since the launch gets none.
        """
        news: list[tuple[Request, Sequence[int]]] = []
        rows, row = sum(chunk.samples for chunk in plan.chunks), 0
        for chunk in plan.chunks:
            request = chunk.request
            is_over = request.finish_reason is not None
            if chunk.samples:
                token_ids = sampled[row::rows]
                row += 1
                if not is_over:
                    news.append((request, request.take(token_ids)))
            if not is_over:
                self._publish(chunk)
                if request.finish_reason is not None:
                    self._leave(request)
        return news

    def commit(self, plan: StepPlan, sampled: Sequence[int]) -> list[tuple[Request, Sequence[int]]]:
        """`advance` and `resolve` at once, for tokens that are there already."""
        self.advance(plan)
        return self.resolve(plan, sampled)

    def stop(self, request: Request) -> None:
        """End a request whose text says so; one that its last token ended anyway has left already."""
        if request.finish_reason is None:
            self._leave(request)
        request.finish("stop")

    def abort(self, request: Request) -> None:
        """Drop an unfinished request."""
        self._leave(request)
        request.finish("abort")

    def keys(self, request: Request, num_blocks: int) -> list[Key]:
        """Keys of a request's leading full blocks, hashed once."""
        size, keys = self.pool.block_size, request.block_keys
        for index in range(len(keys), num_blocks):
            parent = keys[-1] if keys else ROOT
            keys.append(block_key(parent, request.token_ids[index * size : (index + 1) * size]))
        return keys[:num_blocks]

    def _publish(self, chunk: Chunk) -> None:
        """Let other requests find the blocks that this chunk has filled."""
        size = self.pool.block_size
        first, last = chunk.start // size, (chunk.start + chunk.num_tokens) // size
        if first == last or not self.pool.prefix_cache:
            return
        request = chunk.request
        keys = self.keys(request, last)
        for index in range(first, last):
            parent = keys[index - 1] if index else ROOT
            tokens = request.token_ids[index * size : (index + 1) * size]
            self.pool.publish(request.block_table[index], keys[index], parent, tokens)

    def _queue(self, request: Request) -> None:
        insort(self._waiting, request, key=_reversed_order(self.policy))
        self.num_waiting_tokens += len(request.token_ids)

    def _leave(self, request: Request) -> None:
        """Out of the queues, where it still is in one, and away from its blocks."""
        if request in self._running:
            self._running.remove(request)
        else:
            order = _reversed_order(self.policy)
            at = bisect_left(self._waiting, order(request), key=order)
            if at < len(self._waiting) and self._waiting[at] is request:
                del self._waiting[at]
                self.num_waiting_tokens -= len(request.token_ids)
        self._release(request)

    def _release(self, request: Request) -> None:
        self.pool.free(request.block_table)
        request.block_table = []


def _order(policy: Policy) -> Callable[[Request], tuple[int, ...]]:
    if policy.longest_first:
        return lambda request: (-request.max_new_tokens, request.id, request.sample_index)
    return lambda request: (request.id, request.sample_index)


def _reversed_order(policy: Policy) -> Callable[[Request], tuple[int, ...]]:
    order = _order(policy)
    return lambda request: tuple(-part for part in order(request))


@dataclass
class _Draft:
    """A plan in the making, with the room that is left once it is carried out."""

    scheduler: Planner
    span: SpanFactory
    chunks: list[Chunk] = field(default_factory=list)
    admitted: list[Admission] = field(default_factory=list)
    preempted: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        policy, self._pool = self.scheduler.policy, self.scheduler.pool
        self._running = list(self.scheduler._running)
        self.budget = policy.max_batch_tokens
        decodes = sum(request.num_computed_tokens >= len(request.prompt_token_ids) for request in self._running)
        beside = max(policy.max_mixed_tokens - decodes, policy.least_prompt_tokens)
        is_limited = self._can_spread(beside) if policy.spreads_prompts else decodes > 0
        self._prefill_budget = beside if is_limited else policy.max_batch_tokens
        self._free = self._pool.num_free
        self._holders: dict[int, int] = {}  # of blocks whose holders the plan changes

    def _can_spread(self, prompt_tokens: int) -> bool:
        """Whether all prompts are computed before the longest completion ends, so many of their tokens a step."""
        first = self.scheduler._waiting[-1:]
        longest = max((r.max_new_tokens - r.num_new_tokens for r in (*self._running, *first)), default=0)
        left = sum(len(request.token_ids) - request.num_computed_tokens for request in self._running)
        return left + self.scheduler.num_waiting_tokens <= prompt_tokens * longest

    def extend(self, request: Request) -> bool:
        """Give a running request its next tokens, preempting from the end of the order until they fit."""
        chunk = self._chunk(request, request.num_computed_tokens)
        if chunk.num_tokens == 0:
            return True
        needed = self._pool.blocks_for(chunk.stop) - len(request.block_table)
        while needed > self._free:
            victim = self._running.pop()
            self.preempted.append(victim)
            self._let_go(victim.block_table)
            if victim is request:
                return False
        self._take(chunk, needed)
        return True

    def admit(self, request: Request) -> bool:
        """Start a waiting request, if the batch, the budget and the pool have room for it."""
        if len(self._running) >= self.scheduler.policy.max_batch_size or min(self.budget, self._prefill_budget) == 0:
            return False
        admission = self._admission(request)
        if admission is None:
            return False
        # Room for all its tokens, not only for this chunk: half a prompt in the cache helps nobody.
        needed = self._pool.blocks_for(len(request.token_ids)) - len(admission.shared)
        idle = sum(self._held(block) == 0 for block in admission.shared)
        if needed + idle > self._free:
            return False
        for block in admission.shared:
            self._holders[block] = self._held(block) + 1
        self._free -= idle
        self._running.append(request)
        self.admitted.append(admission)
        self._take(self._chunk(request, admission.num_tokens), needed)
        return True

    def _admission(self, request: Request) -> Admission | None:
        """What others have computed of the request; None while a sibling is about to compute its prompt."""
        size, parent = self._pool.block_size, request.parent
        reusable = len(request.token_ids) - 1  # the last token is computed anyway, to draw the next one
        with self.span("roseinfer.prefix_cache.lookup"):
            keys = self.scheduler.keys(request, reusable // size) if self._pool.prefix_cache else []
            cached = self._pool.match(request.token_ids, keys)
        if parent is not None and parent.finish_reason is None:
            prompt = len(request.prompt_token_ids)
            if parent.num_computed_tokens < prompt and (parent.block_table or self._starts_now(parent)):
                return None
            if parent.num_computed_tokens >= prompt and (prompt - 1) // size >= len(cached):
                full, rest = divmod(prompt - 1, size)
                table = parent.block_table
                return Admission(request, tuple(table[:full]), table[full] if rest else None, prompt - 1)
        return Admission(request, tuple(cached), None, len(cached) * size)

    def _starts_now(self, request: Request) -> bool:
        return any(admission.request is request for admission in self.admitted)

    def _chunk(self, request: Request, start: int) -> Chunk:
        left = len(request.token_ids) - start
        is_decode = left == 1 and start >= len(request.prompt_token_ids)
        tokens = min(left, self.budget) if is_decode else min(left, self.budget, self._prefill_budget)
        return Chunk(request, start, tokens, samples=tokens == left, is_decode=is_decode)

    def run_ahead(self) -> int:
        """Turn a decode step into one of several tokens a request, where no request can end inside; how many."""
        most = self.scheduler.policy.max_decode_steps
        if most == 1 or self.admitted or self.preempted or not all(chunk.is_decode for chunk in self.chunks):
            return 1
        requests = [chunk.request for chunk in self.chunks]
        if not requests or not all(request.ends_by_length_only for request in requests):
            return 1
        steps = min(most, *(request.max_new_tokens - request.num_new_tokens for request in requests))
        while steps > 1 and self._more_blocks(steps) > self._free:
            steps //= 2
        if steps > 1:
            self.chunks = [msgspec.structs.replace(chunk, num_tokens=steps) for chunk in self.chunks]
        return steps

    def _more_blocks(self, steps: int) -> int:
        """Blocks that the chunks need beyond those of a single step."""
        blocks_for = self._pool.blocks_for
        return sum(blocks_for(chunk.start + steps) - blocks_for(chunk.stop) for chunk in self.chunks)

    def _take(self, chunk: Chunk, blocks: int) -> None:
        self.chunks.append(chunk)
        self._free -= blocks
        self.budget -= chunk.num_tokens
        self._prefill_budget -= 0 if chunk.is_decode else chunk.num_tokens

    def _let_go(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            self._holders[block] = self._held(block) - 1
            self._free += self._holders[block] == 0

    def _held(self, block: int) -> int:
        return self._holders.get(block, self._pool.holders(block))
