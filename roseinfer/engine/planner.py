"""The planner: chooses the requests and tokens of each step and allocates their KV blocks, without tensors.

`plan` decides and changes nothing. `begin` executes the decision and returns the step as plain data. `advance` counts
the step as computed, and `resolve` records the sampled tokens, before or after the next plan has begun.

A request has `num_computed_tokens`, and a plan adds tokens to it. Prefill, chunked prefill, decode and the
recomputation of a preempted request differ only in the number of tokens.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import attrgetter

from roseinfer.cache.block_pool import BlockPool
from roseinfer.cache.prefix_index import ROOT, BlockContent, block_contents
from roseinfer.engine.graph_sizes import GraphKey, GraphSizes
from roseinfer.engine.plan_builder import PlanBuilder
from roseinfer.engine.request import Request
from roseinfer.engine.row_pool import RowPool
from roseinfer.engine.step_batch import BlockCopy, BlockTableChange, RowStart, StepBatch
from roseinfer.engine.step_plan import Chunk, Policy, StepPlan
from roseinfer.engine.step_times import StepTimes
from roseinfer.errors import UsageError

_DRAWS_PLAINLY = attrgetter("request.draws_plainly")

SpanFactory = Callable[[str], AbstractContextManager[object]]


class Planner:
    """Plans the steps of requests that share a block pool. If blocks run out, it preempts the last request in order."""

    def __init__(
        self,
        pool: BlockPool,
        policy: Policy,
        rows: RowPool | None = None,
        graph_sizes: GraphSizes | None = None,
        times: StepTimes | None = None,
    ) -> None:
        """Planners that drive one runner share `rows` and `times`.

        `graph_sizes` is None if no step runs as a CUDA graph. Whoever runs the steps tells `times` how long they took.
        """
        self.pool = pool
        self.policy = policy
        self._tables = pool.tables
        self.times = times or StepTimes()
        self._rows = rows or RowPool()
        self._graph_sizes = graph_sizes
        self._order, self._reversed_order = _order(policy), _reversed_order(policy)
        self._waiting: list[Request] = []  # in reversed order: the next request is last; preempted ones included
        self._running: list[Request] = []  # in order
        self.num_waiting_tokens = 0
        """Tokens of all waiting requests, including those that the prefix cache may hold."""
        self.num_preemptions = 0

    @property
    def has_unfinished(self) -> bool:
        """True while requests wait or run."""
        return bool(self._waiting or self._running)

    def add(self, request: Request) -> None:
        """Queue a request. Raises UsageError, with the arithmetic, if the request can never run."""
        # The last token of a completion is never computed, so it needs no slot.
        num_tokens = len(request.prompt_token_ids) + max(request.max_new_tokens - 1, 0)
        blocks = self._tables.most_held(num_tokens, self.policy.max_batch_tokens)
        if blocks > self.pool.num_blocks:
            raise UsageError(
                f"a request of {len(request.prompt_token_ids)} prompt and {request.max_new_tokens} new tokens needs "
                f"{blocks} KV blocks of {self.pool.block_size} tokens, but the pool has {self.pool.num_blocks}: "
                "shorten it, or raise --kv-cache-memory"
            )
        if self._graph_sizes is not None:
            request.sampling_kind = self._graph_sizes.kind(request.params)
        self._queue(request)

    def plan(self, span: SpanFactory = nullcontext) -> StepPlan:
        """Decide the next step from the current state, without changing the state.

        `span` opens a named range around each part of planning that a trace should show.
        """
        builder = PlanBuilder(self, self._running, self._waiting, span)
        steps = builder.fill()
        chunks = tuple(builder.chunks)
        draws_plainly = all(map(_DRAWS_PLAINLY, chunks))
        graph = self._graph_for(chunks, steps) if draws_plainly and chunks else None
        return StepPlan(chunks, tuple(builder.admitted), tuple(builder.preempted), steps, draws_plainly, graph)

    def begin(self, plan: StepPlan) -> StepBatch:
        """Preempt, admit and allocate as planned. Returns the step as plain data for the runner."""
        for request in plan.preempted:
            self._stop_running(request)
            self._release(request)
            request.num_computed_tokens = 0
            self._queue(request)
            self.num_preemptions += 1
        changes: list[BlockTableChange] = []
        row_starts: list[RowStart] = []
        copied: dict[Request, tuple[int, ...]] = {}
        statistics = self.pool.statistics
        # Blocks are shared before any is allocated: an allocation may evict blocks that nobody holds.
        for admission in plan.admitted:
            request = admission.request
            assert self._waiting[-1] is request, "requests are admitted in order"
            self._waiting.pop()
            self.num_waiting_tokens -= len(request.token_ids)
            insort(self._running, request, key=self._order)
            self.pool.share(self._tables.held(admission.shared, admission.num_tokens))
            request.block_table = list(admission.shared)
            request.num_computed_tokens = request.held_query = admission.num_tokens
            request.row = self._rows.allocate()
            row_starts.append(_row_start(request))
            if admission.shared:
                changes.append(BlockTableChange(request.row, list(admission.shared)))
            statistics.queried_tokens += len(request.token_ids)
            statistics.hit_tokens += admission.num_tokens
            if admission.copied:
                copied[request] = admission.copied
        copies: list[BlockCopy] = []
        table_length = self._tables.length
        for chunk in plan.chunks:
            request = chunk.request
            missing = table_length(chunk.start + chunk.num_tokens) - len(request.block_table)
            if missing == 0:
                continue
            new = self.pool.allocate(missing)
            if request in copied:
                copies += map(BlockCopy, copied[request], new)
            request.block_table += new
            changes.append(BlockTableChange(request.row, new))
        chunks = plan.chunks
        lengths = [chunk.num_tokens for chunk in chunks]
        return StepBatch(
            [chunk.request.row for chunk in chunks],
            [chunk.start for chunk in chunks],
            lengths,
            [chunk.samples for chunk in chunks],
            _token_ids(plan, lengths),
            plan.decode_steps,
            plan.graph,
            row_starts,
            changes,
            copies,
        )

    def advance(self, plan: StepPlan) -> None:
        """Count a begun plan as computed and its tokens as pending, so that the next step can be planned.

        A request keeps its blocks until its last token has been read.
        """
        for chunk in plan.chunks:
            request = chunk.request
            request.num_computed_tokens = chunk.start + chunk.num_tokens
            if chunk.samples:
                request.expect(plan.decode_steps)
                if request.num_new_tokens >= request.max_new_tokens:
                    self._stop_running(request)

    def can_plan_ahead(self, plan: StepPlan) -> bool:
        """True if the step after an advanced plan can be planned and launched before the plan's tokens are read.

        That requires a running request, and draws that do not depend on the unread tokens: no penalties or bans.
        """
        # Asked again after the plan: a ban of stop tokens may have ended with the tokens that the plan draws.
        return bool(self._running) and (plan.draws_plainly or all(map(_DRAWS_PLAINLY, plan.chunks)))

    def resolve(self, plan: StepPlan, sampled: Sequence[int]) -> list[tuple[Request, Sequence[int]]]:
        """Append the sampled tokens of an advanced plan to their requests.

        `sampled` has one token per chunk that samples, in plan order; after several decode steps, all tokens of the
        first decode step, then all of the second, and so on. Returns each request with its new tokens. A request that
        has ended since the launch gets none.
        """
        resolved: list[tuple[Request, Sequence[int]]] = []
        rows, row = sum([chunk.samples for chunk in plan.chunks]), 0
        frees_behind = bool(self._tables.windowed)
        for chunk in plan.chunks:
            request = chunk.request
            is_over = request.finish_reason is not None
            if chunk.samples:
                token_ids = sampled[row::rows]
                row += 1
                if not is_over:
                    resolved.append((request, request.take(token_ids)))
            if not is_over:
                self._publish(chunk)
                if request.finish_reason is not None:
                    self._leave(request)
                elif frees_behind:
                    self._free_behind(request, chunk.stop)
        return resolved

    def commit(self, plan: StepPlan, sampled: Sequence[int]) -> list[tuple[Request, Sequence[int]]]:
        """Call `advance` and then `resolve`, for tokens that have been read already."""
        self.advance(plan)
        return self.resolve(plan, sampled)

    def stop(self, request: Request) -> None:
        """End a request whose text contains a stop string. Its last token may have ended the request already."""
        if request.finish_reason is None:
            self._leave(request)
        request.finish("stop")

    def abort(self, request: Request) -> None:
        """End an unfinished request and free its blocks."""
        self._leave(request)
        request.finish("abort")

    def leading_contents(self, request: Request, num_blocks: int) -> Iterator[BlockContent]:
        """Yield the contents of a request's leading full blocks, hashing at most twice as many as are asked for.

        A prompt that nobody shares is then hashed while the device computes it.
        """
        known = request.block_contents
        for index in range(num_blocks):
            if index == len(known):
                self._contents(request, min(2 * index, num_blocks) or 1)
            yield known[index]

    def _contents(self, request: Request, num_blocks: int) -> list[BlockContent]:
        """Return the contents of at least the leading `num_blocks` full blocks of a request. Each is hashed once."""
        known, size = request.block_contents, self.pool.block_size
        if len(known) < num_blocks:
            tokens = request.token_ids[len(known) * size : num_blocks * size]
            known += block_contents(known[-1].key if known else ROOT, tokens, size)
        return known

    def _graph_for(self, chunks: Sequence[Chunk], decode_steps: int) -> GraphKey | None:
        """Return the key of the graph that fits the chunks. Every request must satisfy `Request.draws_plainly`."""
        sizes = self._graph_sizes
        if sizes is None:
            return None
        lengths = [chunk.num_tokens for chunk in chunks]
        # A prompt of which one token is left to compute runs like a decode.
        if lengths.count(decode_steps) == len(lengths) and False not in [chunk.samples for chunk in chunks]:
            longest = max(chunk.start for chunk in chunks) + decode_steps
            return sizes.decode_key(len(chunks), {chunk.request.sampling_kind for chunk in chunks}, longest)
        num_decodes = sum([chunk.samples and chunk.num_tokens == 1 for chunk in chunks])
        kinds = {chunk.request.sampling_kind for chunk in chunks if chunk.samples}
        if len(chunks) == 1 and chunks[0].start == 0 and (whole := sizes.whole_key(lengths[0], kinds)) is not None:
            return whole
        return sizes.mixed_key(num_decodes, len(chunks) - num_decodes, sum(lengths), kinds)

    def _publish(self, chunk: Chunk) -> None:
        """Make the blocks that a chunk has filled available to other requests."""
        size, num_groups = self.pool.block_size, self._tables.num_groups
        first, last = chunk.start // size, (chunk.start + chunk.num_tokens) // size
        if first == last or not self.pool.prefix_cache:
            return
        table, contents = chunk.request.block_table, self._contents(chunk.request, last)
        for index in range(first, last):
            for group in range(num_groups):
                self.pool.publish(table[index * num_groups + group], contents[index], group)

    def _free_behind(self, request: Request, num_tokens: int) -> None:
        """Free the blocks that no query after the first `num_tokens` tokens of a running request can see.

        Those that the last of these tokens sees are still held: other completions of its prompt compute it again.
        """
        # Launches in flight may still read these blocks, but a later launch cannot write to them before.
        self.pool.free(self._tables.behind(request.block_table, request.held_query, num_tokens - 1))
        request.held_query = num_tokens - 1

    def _queue(self, request: Request) -> None:
        insort(self._waiting, request, key=self._reversed_order)
        self.num_waiting_tokens += len(request.token_ids)

    def _stop_running(self, request: Request) -> None:
        """Remove a running request from the next steps. A launch in flight may still compute its row."""
        self._running.remove(request)
        self._rows.free(request.row)

    def _leave(self, request: Request) -> None:
        """Remove an ended request from the queue that it is in, if any, and free its blocks."""
        if request in self._running:
            self._stop_running(request)
        else:
            order = self._reversed_order
            at = bisect_left(self._waiting, order(request), key=order)
            if at < len(self._waiting) and self._waiting[at] is request:
                del self._waiting[at]
                self.num_waiting_tokens -= len(request.token_ids)
        self._release(request)
        # A scheduler holds ended requests until their outputs are taken. The contents of a million tokens take 13 MB in
        # blocks of 16.
        request.block_contents = []

    def _release(self, request: Request) -> None:
        self.pool.free(self._tables.held(request.block_table, request.held_query))
        request.block_table, request.held_query = [], 0


def _row_start(request: Request) -> RowStart:
    params = request.params
    return RowStart(
        row=request.row,
        params=params,
        seed=request.seed,
        num_prompt_tokens=len(request.prompt_token_ids),
        stop_token_ids=list(request.stop_token_ids) if params.min_new_tokens else [],
        cached_token_ids=request.token_ids[: request.num_computed_tokens] if params.has_penalty else [],
    )


def _token_ids(plan: StepPlan, lengths: Sequence[int]) -> list[int]:
    """Return `StepBatch.token_ids` of a plan."""
    chunks = plan.chunks
    if plan.decode_steps > 1 or sum(lengths) == len(lengths):
        return [chunk.request.token_ids[chunk.start] for chunk in chunks]
    token_ids: list[int] = []
    for chunk in chunks:
        token_ids += chunk.request.token_ids[chunk.start : chunk.stop]
    return token_ids


def _order(policy: Policy) -> Callable[[Request], tuple[int, ...]]:
    """Return the sort key of the order in which requests are admitted and served."""
    if policy.longest_first:
        return lambda request: (-request.max_new_tokens, request.id, request.sample_index)
    return lambda request: (request.id, request.sample_index)


def _reversed_order(policy: Policy) -> Callable[[Request], tuple[int, ...]]:
    """Return the sort key of the reverse of `_order`."""
    if policy.longest_first:
        return lambda request: (request.max_new_tokens, -request.id, -request.sample_index)
    return lambda request: (-request.id, -request.sample_index)
