"""What to compute next: the policy of batching, with block accounting and no tensors.

`plan` decides and changes nothing; `begin` carries the decision out; `commit` takes the sampled tokens. A request has
`num_computed_tokens`, and a plan gives it n more: prefill, chunked prefill, decode and the recomputation of a
preempted request differ only in n.
"""

from bisect import insort
from collections import deque
from dataclasses import dataclass
from typing import Literal

from roseinfer.cache.block_pool import BlockPool
from roseinfer.engine.request import Request
from roseinfer.errors import UsageError

Phase = Literal["prefill", "decode", "mixed"]


@dataclass(frozen=True)
class Policy:
    """What tells the modes apart."""

    max_batch_size: int
    max_batch_tokens: int
    max_prefill_beside_decode: int
    """Most prompt tokens in a step that also decodes: what bounds the wait between a running request's tokens."""


@dataclass(frozen=True)
class Chunk:
    """`num_tokens` more tokens of one request, `start` of which the cache holds already."""

    request: Request
    start: int
    num_tokens: int
    samples: bool
    """Whether the chunk reaches the request's last token, so that the next one can be drawn."""

    @property
    def stop(self) -> int:
        return self.start + self.num_tokens

    @property
    def is_decode(self) -> bool:
        return self.num_tokens == 1 and self.start >= len(self.request.prompt_token_ids)


@dataclass(frozen=True)
class StepPlan:
    """One step: which requests, how many tokens each."""

    chunks: tuple[Chunk, ...]
    admitted: tuple[Request, ...]
    preempted: tuple[Request, ...]

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def num_context_tokens(self) -> int:
        """Tokens that the step's attention reads, the new ones included."""
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


class Scheduler:
    """First come, first served over one block pool; the youngest request is preempted when blocks run out."""

    def __init__(self, pool: BlockPool, policy: Policy) -> None:
        self.pool = pool
        self.policy = policy
        self._waiting: deque[Request] = deque()  # by id, preempted requests included
        self._running: list[Request] = []  # by id
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
                "shorten it, or lower max_batch_size and max_model_len"
            )
        self._waiting.append(request)

    def plan(self) -> StepPlan:
        """The next step, decided from the current state and changing none of it."""
        running, free = list(self._running), self.pool.num_free
        budget = self.policy.max_batch_tokens
        chunks: list[Chunk] = []
        preempted: list[Request] = []
        prefill_budget = self._prefill_budget()

        def next_chunk(request: Request) -> Chunk:
            left = request.num_uncomputed_tokens
            is_decode = left == 1 and request.num_computed_tokens >= len(request.prompt_token_ids)
            tokens = min(left, budget) if is_decode else min(left, budget, prefill_budget)
            return Chunk(request, request.num_computed_tokens, tokens, samples=tokens == left)

        index = 0
        while index < len(running) and budget > 0:
            chunk = next_chunk(running[index])
            if chunk.num_tokens == 0:
                index += 1
                continue
            needed = self._new_blocks(chunk)
            while needed > free and running[-1] is not chunk.request:
                free += len(running[-1].block_table)
                preempted.append(running.pop())
            if needed > free:
                # The youngest left is this one itself: it gives its blocks back and waits.
                free += len(running[index].block_table)
                preempted.append(running.pop())
                break
            chunks.append(chunk)
            free -= needed
            budget -= chunk.num_tokens
            prefill_budget -= 0 if chunk.is_decode else chunk.num_tokens
            index += 1

        admitted: list[Request] = []
        if not preempted:
            for request in self._waiting:
                if len(running) + len(admitted) == self.policy.max_batch_size or min(budget, prefill_budget) == 0:
                    break
                # Room for all its tokens, not only for this chunk: half a prompt in the cache helps nobody.
                whole = self.pool.blocks_for(len(request.token_ids))
                if whole > free:
                    break
                chunk = next_chunk(request)
                admitted.append(request)
                chunks.append(chunk)
                free -= whole
                budget -= chunk.num_tokens
                prefill_budget -= 0 if chunk.is_decode else chunk.num_tokens
        return StepPlan(tuple(chunks), tuple(admitted), tuple(preempted))

    def begin(self, plan: StepPlan) -> None:
        """Preempt, admit and allocate as planned."""
        for request in plan.preempted:
            self._running.remove(request)
            self._release(request)
            request.num_computed_tokens = 0
            self._waiting.appendleft(request)
            self.num_preemptions += 1
        for request in plan.admitted:
            assert self._waiting[0] is request, "requests are admitted in order"
            self._waiting.popleft()
            insort(self._running, request, key=lambda r: r.id)
        for chunk in plan.chunks:
            chunk.request.block_table += self.pool.allocate(self._new_blocks(chunk))

    def commit(self, plan: StepPlan, sampled: list[int]) -> list[tuple[Request, int]]:
        """Take the sampled tokens, one for each chunk that samples, in order; returns them with their requests."""
        token_ids = iter(sampled)
        news: list[tuple[Request, int]] = []
        for chunk in plan.chunks:
            request = chunk.request
            request.num_computed_tokens = chunk.stop
            if not chunk.samples:
                continue
            token_id = next(token_ids)
            request.append(token_id)
            news.append((request, token_id))
            if request.finish_reason is not None:
                self._running.remove(request)
                self._release(request)
        return news

    def abort(self, request: Request) -> None:
        """Drop a request that is waiting or running."""
        request.finish_reason = "abort"
        if request in self._running:
            self._running.remove(request)
        else:
            self._waiting.remove(request)
        self._release(request)

    def _prefill_budget(self) -> int:
        decodes = any(request.num_computed_tokens >= len(request.prompt_token_ids) for request in self._running)
        return self.policy.max_prefill_beside_decode if decodes else self.policy.max_batch_tokens

    def _new_blocks(self, chunk: Chunk) -> int:
        return self.pool.blocks_for(chunk.stop) - len(chunk.request.block_table)

    def _release(self, request: Request) -> None:
        self.pool.free(request.block_table)
        request.block_table = []
