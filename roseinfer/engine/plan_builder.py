"""Decisions of one step plan: chunks within the limits, preemptions, admissions, decode steps per launch."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Protocol

from msgspec import structs

from roseinfer.cache.block_pool import BlockPool
from roseinfer.cache.prefix_index import BlockContent
from roseinfer.engine.request import Request
from roseinfer.engine.step_plan import ITL_DECODE_STEPS, Admission, Chunk, Policy
from roseinfer.engine.step_times import PromptLimit, StepTimes

_AIM = 0.8
"""Share of the bound of a wait that a plan may fill: predictions are medians, and half of the steps take longer."""

_LEAST_TIMED_TOKENS = 32
"""Prompt tokens of a step however long they take: a bound that decoding alone exceeds must not stop prompts."""


class PlannerState(Protocol):
    """The part of a planner's state that a plan builder reads."""

    pool: BlockPool
    policy: Policy
    times: StepTimes
    num_waiting_tokens: int

    def leading_contents(self, request: Request, num_blocks: int) -> Iterator[BlockContent]: ...


class PlanBuilder:
    """One step plan under construction. Reads the planner's state and the block pool, and changes neither."""

    def __init__(
        self,
        planner: PlannerState,
        running: Sequence[Request],
        waiting: Sequence[Request],
        span: Callable[[str], AbstractContextManager[object]],
    ) -> None:
        """`running` is in the policy's order, `waiting` in the reverse order: the next request to start is last."""
        self.chunks: list[Chunk] = []
        self.admitted: list[Admission] = []
        self.preempted: list[Request] = []
        self._planner, self._queued_running, self._waiting, self._span = planner, running, waiting, span
        self._policy, self._pool = policy, pool = planner.policy, planner.pool
        self._tables = pool.tables
        self._running = list(running)
        self._budget = policy.max_batch_tokens
        decodes = sum([request.num_computed_tokens >= len(request.prompt_token_ids) for request in self._running])
        self._least = _LEAST_TIMED_TOKENS
        self._work, self._prompt_budget = math.inf, policy.max_batch_tokens
        if waiting or decodes < len(self._running):  # most plans are pure decodes, which need no limits of prompts
            timed = self._timed_limit(decodes)
            self._work = math.inf if timed is None else timed.work
            self._prompt_budget = self._prompt_tokens(decodes, timed)
        self._most_prompt = self._prompt_budget
        self._num_free = pool.num_free
        self._holders: dict[int, int] = {}  # for blocks whose number of holders the plan changes

    def fill(self) -> int:
        """Plan chunks until a limit is reached. Returns the number of decode steps in the launch."""
        for request in self._queued_running:
            if self._budget == 0 or request in self.preempted or not self._extend(request):
                break
        if not self.preempted:
            for request in reversed(self._waiting):
                if not self._admit(request):
                    break
        return self._run_ahead()

    def _timed_limit(self, decodes: int) -> PromptLimit | None:
        """Return the limit of prompts by the wait that they add to a step with `decodes` decoding requests.

        None if no wait is bounded, or if the times of steps are not known yet.
        """
        policy, times = self._policy, self._planner.times
        if not policy.bounds_itl or decodes == 0:
            return None
        decode_s = times.decode_s(decodes)
        if policy.max_itl_ms is not None:
            left_s = _AIM * policy.max_itl_ms / 1e3 - (decode_s or 0.0)
        elif decode_s is not None:
            left_s = (_AIM * ITL_DECODE_STEPS - 1) * decode_s
        else:
            return None
        prompts = (r.num_computed_tokens for r in self._running if r.num_computed_tokens < len(r.prompt_token_ids))
        return times.prompt_limit(left_s, decodes, next(prompts, 0))

    def _prompt_tokens(self, decodes: int, timed: PromptLimit | None) -> int:
        """Return the maximum prompt tokens of a step with `decodes` decoding requests."""
        policy = self._policy
        # Prompts that come before decoding requests leave a token for each of these.
        most = max(policy.max_batch_tokens - decodes, 1)
        if timed is not None:
            most = min(most, max(timed.tokens, self._least))
        limit = max(policy.max_mixed_tokens - decodes, policy.least_prompt_tokens)
        is_untimed = policy.bounds_itl and decodes > 0 and timed is None
        if policy.spreads_prompts:
            is_limited = is_untimed or self._can_spread(limit)
        else:
            is_limited = is_untimed or (decodes > 0 and not policy.bounds_itl)
        return min(limit, most) if is_limited else most

    def _can_spread(self, prompt_tokens: int) -> bool:
        """True if all prompts, at `prompt_tokens` per step, are computed before the longest completion ends.

        Completions that start later may also end later than the longest one, which costs decode steps of few requests.
        Spreading must not add more of them than half of the steps that it adds prompts to.
        """
        waiting = self._waiting
        longest = max((r.max_new_tokens - r.num_new_tokens for r in (*self._running, *waiting[-1:])), default=0)
        left = sum([len(request.token_ids) - request.num_computed_tokens for request in self._running])
        total = left + self._planner.num_waiting_tokens
        if total > prompt_tokens * longest:
            return False
        tokens, latest = 0, longest * prompt_tokens  # both in prompt tokens of steps
        places = max(self._policy.max_batch_size - len(self._running), 0)
        for request in (*self._running, *islice(reversed(waiting), places)):
            tokens += len(request.token_ids) - request.num_computed_tokens
            latest = max(latest, tokens + (request.max_new_tokens - request.num_new_tokens) * prompt_tokens)
        return latest - longest * prompt_tokens <= max(total / 2, prompt_tokens)

    def _extend(self, request: Request) -> bool:
        """Plan a running request's next tokens, preempting from the end of the order until they fit.

        Returns False if the request itself had to be preempted.
        """
        chunk = self._chunk(request, request.num_computed_tokens)
        if chunk.num_tokens == 0:
            return True
        needed = self._tables.length(chunk.stop) - len(request.block_table)
        while needed > self._num_free:
            victim = self._running.pop()
            self.preempted.append(victim)
            self._release(self._tables.held(victim.block_table, victim.held_query))
            if victim is request:
                return False
        self._add(chunk, needed)
        return True

    def _admit(self, request: Request) -> bool:
        """Start a waiting request, if batch, limits and pool have room for it."""
        if len(self._running) >= self._policy.max_batch_size or min(self._budget, self._prompt_budget) == 0:
            return False
        admission = self._admission(request)
        if admission is None:
            return False
        chunk = self._chunk(request, admission.num_tokens)
        if chunk.num_tokens == 0 or self._is_better_whole(chunk):
            return False
        # All tokens of the request must fit, not only this chunk: half a prompt in the cache is of no use.
        shared = self._tables.held(admission.shared, admission.num_tokens)
        needed = self._tables.most_held(len(request.token_ids), self._policy.max_batch_tokens) - len(shared)
        idle = sum(self._num_holders(block) == 0 for block in shared)
        if needed + idle > self._num_free:
            return False
        for block in shared:
            self._holders[block] = self._num_holders(block) + 1
        self._num_free -= idle
        self._running.append(request)
        self.admitted.append(admission)
        self._add(chunk, needed)
        return True

    def _is_better_whole(self, chunk: Chunk) -> bool:
        """True if the rest of a prompt does not fit into a step that is full enough, but fits into the next one.

        Attention of a whole prompt is faster than that of its chunks, and a full step gains nothing from a chunk more.
        """
        left = len(chunk.request.token_ids) - chunk.start
        planned = self._most_prompt - self._prompt_budget
        return planned >= self._policy.full_prompt_tokens and chunk.num_tokens < left <= self._most_prompt

    def _admission(self, request: Request) -> Admission | None:
        """Return the admission of a waiting request, with the leading tokens that other requests have computed.

        None while another completion of the same prompt is still computing the prompt, which can then be shared.
        """
        size, num_groups, parent = self._pool.block_size, self._tables.num_groups, request.parent
        reusable = len(request.token_ids) - 1  # the last token is always computed, to draw the next one
        with self._span("roseinfer.prefix_cache.lookup"):
            cached = self._pool.match(self._planner.leading_contents(request, reusable // size))
        num_cached = len(cached) // num_groups * size
        if parent is not None and parent.finish_reason is None:
            prompt = len(request.prompt_token_ids)
            if parent.num_computed_tokens < prompt and (parent.block_table or self._starts_now(parent)):
                return None
            if prompt <= parent.num_computed_tokens and self._tables.serves(parent.held_query, prompt - 1):
                full, rest = divmod(prompt - 1, size)
                if full * size >= num_cached:
                    table = parent.block_table
                    shared, copied = table[: full * num_groups], table[full * num_groups : (full + 1) * num_groups]
                    return Admission(request, tuple(shared), tuple(copied) if rest else (), prompt - 1)
        return Admission(request, tuple(cached), (), num_cached)

    def _starts_now(self, request: Request) -> bool:
        return any(admission.request is request for admission in self.admitted)

    def _chunk(self, request: Request, start: int) -> Chunk:
        left = len(request.token_ids) - start
        is_decode = left == 1 and start >= len(request.prompt_token_ids)
        tokens = min(left, self._budget)
        if not is_decode:
            affordable = self._planner.times.tokens_within(self._work, start)
            tokens = min(tokens, self._prompt_budget, max(affordable, self._least))
            full = self._policy.full_prompt_tokens
            if full <= tokens < left:
                tokens -= tokens % max(full // 4, 1)  # attention is fast for a few lengths
        return Chunk(request, start, tokens, samples=tokens == left, is_decode=is_decode)

    def _run_ahead(self) -> int:
        """Extend a pure decode to several decode steps if no request can end within them; return their number."""
        most = self._policy.max_decode_steps
        if most == 1 or self.admitted or self.preempted or not all(chunk.is_decode for chunk in self.chunks):
            return 1
        requests = [chunk.request for chunk in self.chunks]
        if not requests or not all(request.ends_by_length_only for request in requests):
            return 1
        steps = min(most, *[request.max_new_tokens - request.num_new_tokens for request in requests])
        if self._policy.max_itl_ms is not None:
            decode_s = self._planner.times.decode_s(len(requests))
            affordable = 1 if decode_s is None else int(_AIM * self._policy.max_itl_ms / 1e3 / max(decode_s, 1e-9))
            steps = min(steps, max(affordable, 1))
        while steps > 1 and self._more_blocks(steps) > self._num_free:
            steps //= 2
        if steps > 1:
            self.chunks = [structs.replace(chunk, num_tokens=steps) for chunk in self.chunks]
        return steps

    def _more_blocks(self, steps: int) -> int:
        """Return the blocks that the chunks need beyond those of a single decode step."""
        length = self._tables.length
        return sum(length(chunk.start + steps) - length(chunk.stop) for chunk in self.chunks)

    def _add(self, chunk: Chunk, blocks: int) -> None:
        self.chunks.append(chunk)
        self._num_free -= blocks
        self._budget -= chunk.num_tokens
        if chunk.is_decode:
            return
        if chunk.stop < len(chunk.request.token_ids):
            self._prompt_budget = 0  # no later prompt overtakes one that a limit cuts
            return
        self._prompt_budget -= chunk.num_tokens
        self._work -= self._planner.times.work(chunk)
        self._least = max(self._least - chunk.num_tokens, 0)

    def _release(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            self._holders[block] = self._num_holders(block) - 1
            self._num_free += self._holders[block] == 0

    def _num_holders(self, block: int) -> int:
        return self._holders.get(block, self._pool.holders(block))
