"""Decode steps as CUDA graphs: model and sampling in one replay, fed by what the replay before has drawn.

A graph is captured for each of a few batch sizes and ways to sample; a smaller batch runs in the next larger one, its
padding rows writing to a block that no request has. Replays of one launch follow each other without the host: the
tokens drawn, positions and lengths stay on the device. The next launch takes them there, so that it need not wait for
the host to read them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from roseinfer.attention.base import AttentionBackend, DecodeLayout
from roseinfer.cache.kv_cache import KVCache
from roseinfer.engine.launch import Drawn
from roseinfer.engine.request import PENDING, Request
from roseinfer.engine.scheduler import Chunk, StepPlan
from roseinfer.kernels.advance import advance
from roseinfer.kernels.top_k import WIDEST
from roseinfer.models.base import CausalLM
from roseinfer.sampling.sampler import SamplingBatch, sample
from roseinfer.spans import span
from roseinfer.upload import Array, upload

Kind = Literal["greedy", "top_k", "all"]
"""How the rows of a graph draw: by the best logit, from the best few (`WIDEST` at most), from any."""

GraphKey = tuple[int, Kind]
"""What a graph is captured for: its batch size and how its rows draw."""


def batch_sizes(largest: int) -> list[int]:
    """The batch sizes to capture: small ones closely, so that little is padded where launches are everything."""
    sizes = [size for size in (1, 2, 4) if size < largest]
    sizes += range(8, min(largest, 64), 8)
    sizes += range(64, largest, 32)
    return [*sizes, largest]


@dataclass(frozen=True)
class _Buffers:
    """What the graphs read and write, at fixed addresses. Rows are requests, [rows] unless said otherwise."""

    token_ids: Tensor
    positions: Tensor
    context_lens: Tensor  # int32
    order: Tensor  # int32, rows by falling length
    block_tables: Tensor  # [rows, most blocks], int32
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seeds: Tensor
    advance: Tensor  # 1, or 0 for padding rows, which stay where they are
    drawn: Tensor  # [most steps, rows]
    step: Tensor  # [1], which row of `drawn` is next

    @classmethod
    def of(cls, rows: int, blocks: int, steps: int, device: torch.device) -> "_Buffers":
        def integers(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        def floats() -> Tensor:
            return torch.zeros(rows, dtype=torch.float32, device=device)

        tables = torch.zeros((rows, blocks), dtype=torch.int32, device=device)
        return cls(
            token_ids=integers(rows),
            positions=integers(rows),
            context_lens=integers(rows).to(torch.int32),
            order=integers(rows).to(torch.int32),
            block_tables=tables,
            temperature=floats(),
            top_k=integers(rows),
            top_p=floats(),
            min_p=floats(),
            seeds=integers(rows),
            advance=integers(rows),
            drawn=integers(steps, rows),
            step=integers(1),
        )


class DecodeGraphs:
    """Captures a graph when a batch first needs it, and replays it from then on."""

    def __init__(
        self,
        model: CausalLM,
        cache: KVCache,
        attention: AttentionBackend,
        *,
        max_batch_size: int,
        max_blocks: int,
        max_steps: int,
        scrap_block: int,
    ) -> None:
        self.max_steps = max_steps
        self._model, self._cache, self._attention = model, cache, attention
        device = cache.data.device
        self._sizes = batch_sizes(max_batch_size)
        self._scrap = scrap_block
        self._buffers = _Buffers.of(max_batch_size, max_blocks, max_steps, device)
        self._tables = np.full((max_batch_size, max_blocks), scrap_block, dtype=np.int32)  # what the buffer holds
        self._graphs: dict[GraphKey, torch.cuda.CUDAGraph] = {}
        self._pool: Any = None  # torch's type for it has no public name
        self._rows: list[tuple[Request, int]] = []  # of the last launch, with the tokens computed after it
        self._table_lens: list[int] = [0] * max_batch_size
        self._prepared: tuple[torch.cuda.CUDAGraph, int] | None = None

    def runs(self, plan: StepPlan) -> bool:
        """Whether the graphs can do a plan: one token a request, or several one after the other, drawn plainly.

        A prompt of which one token is left to compute is no different from a decode.
        """
        return len(plan.chunks) <= self._sizes[-1] and all(
            chunk.samples and chunk.num_tokens == plan.decode_steps and chunk.request.draws_plainly
            for chunk in plan.chunks
        )

    @property
    def captured(self) -> list[GraphKey]:
        """What there are graphs for so far."""
        return list(self._graphs)

    def key_of(self, plan: StepPlan) -> GraphKey | None:
        """The graph that a plan replays; None where none can."""
        return self._key(plan) if self.runs(plan) else None

    def is_captured(self, plan: StepPlan) -> bool:
        """Whether there is a graph for a plan."""
        return self._key(plan) in self._graphs

    def capture(self, plan: StepPlan) -> None:
        """Capture the graph of a plan. `newest` is lost."""
        key = self._key(plan)
        self._graphs[key] = self._capture(*key)

    @torch.inference_mode()
    def capture_again(self) -> None:
        """Replace every graph: a profiler may not see into those captured before its first session."""
        keys = self.captured
        self._graphs.clear()
        self._pool = None  # it ended with its last graph
        for key in keys:
            self._graphs[key] = self._capture(*key)

    @torch.inference_mode()
    def rehearse(self, key: GraphKey, *, replay: bool) -> None:
        """One step of padding rows alone, by the graph or launch by launch; to be called between requests.

        It touches no request's blocks, and what runs afterwards brings its own rows.
        """
        self._set_padding(key[0])
        if replay:
            self._graphs[key].replay()
        else:
            self._step(*key)

    @property
    def newest(self) -> Tensor:
        """The tokens that the last launch leaves for the next one, [rows], in the order of its plan."""
        return self._buffers.token_ids

    def prepare(self, plan: StepPlan, before: Drawn) -> None:
        """Bring the buffers to the state before the plan's first token, copying only what is not there already.

        The plan's graph is captured; `before` is what the step before the plan draws.
        """
        key = self._key(plan)
        # A request that was admitted may have come back with other blocks.
        if plan.admitted or self._rows != [(chunk.request, chunk.start) for chunk in plan.chunks]:
            self._set_rows(plan.chunks, key[0], before)
        else:
            self._add_blocks(plan.chunks)
        self._buffers.step.zero_()
        self._rows = [(chunk.request, chunk.stop) for chunk in plan.chunks]
        self._prepared = self._graphs[key], plan.decode_steps

    def launch(self) -> Tensor:
        """Replay as often as the prepared plan says; what that draws: [decode steps, rows or more]."""
        assert self._prepared is not None
        graph, steps = self._prepared
        for _ in range(steps):
            graph.replay()
        return self._buffers.drawn[:steps]

    def _key(self, plan: StepPlan) -> GraphKey:
        requests = [chunk.request for chunk in plan.chunks]
        return next(size for size in self._sizes if size >= len(requests)), _kind(requests)

    def _add_blocks(self, chunks: Sequence[Chunk]) -> None:
        """The requests of the launch before have got more blocks."""
        longest = 0
        for row, chunk in enumerate(chunks):
            table, had = chunk.request.block_table, self._table_lens[row]
            if len(table) != had:
                self._tables[row, had : len(table)] = table[had:]
                self._table_lens[row] = len(table)
                longest = max(longest, len(table))
        if longest:
            self._copy_tables(len(chunks), longest)

    def _set_rows(self, chunks: Sequence[Chunk], size: int, before: Drawn) -> None:
        """Other requests than in the last launch, or the same after a step that was no graph's: copy all of it."""
        count, buffers = len(chunks), self._buffers
        params = [chunk.request.params for chunk in chunks]
        token_ids = [chunk.request.token_ids[chunk.start] for chunk in chunks]
        drawing = [before.rows[c.request] if t == PENDING else -1 for c, t in zip(chunks, token_ids, strict=True)]

        def rows(values: Iterable[float], dtype: type = np.int64, padding: int = 0) -> Array:
            padded: Array = np.full(size, padding, dtype=dtype)
            padded[:count] = list(values)
            return padded

        # Padding rows: one token of context, in the scrap block.
        starts = rows(chunk.start for chunk in chunks)
        fields = (
            (buffers.token_ids, rows(token_ids)),
            (buffers.positions, starts),
            (buffers.context_lens, (starts + 1).astype(np.int32)),
            # All lengths grow alike: their order lasts as long as the rows.
            (buffers.order, np.argsort(-starts, kind="stable").astype(np.int32)),
            (buffers.temperature, rows((p.temperature for p in params), np.float32)),
            (buffers.top_k, rows(p.top_k for p in params)),
            (buffers.top_p, rows((p.top_p for p in params), np.float32)),
            (buffers.min_p, rows((p.min_p for p in params), np.float32)),
            (buffers.seeds, rows(chunk.request.seed for chunk in chunks)),
            (buffers.advance, rows([1] * count)),
        )
        sources = rows(drawing, padding=-1)
        drawn, *there = upload(buffers.positions.device, sources, *(values for _, values in fields))
        if (sources >= 0).any():
            there[0] = torch.where(drawn >= 0, before.tokens[drawn.clamp(min=0)], there[0])
        for (buffer, _), values in zip(fields, there, strict=True):
            buffer[:size].copy_(values)
        self._tables[:size] = self._scrap
        self._table_lens[:size] = [len(chunk.request.block_table) for chunk in chunks] + [0] * (size - count)
        for row, chunk in enumerate(chunks):
            self._tables[row, : self._table_lens[row]] = chunk.request.block_table
        self._copy_tables(size, max(self._table_lens[:size], default=0) or 1)

    def _copy_tables(self, rows: int, columns: int) -> None:
        """Of the columns further on nobody looks at what is there."""
        (there,) = upload(self._buffers.positions.device, self._tables[:rows, :columns])
        self._buffers.block_tables[:rows, :columns].copy_(there)

    def _set_padding(self, size: int) -> None:
        self._set_rows([], size, Drawn(self._buffers.token_ids, {}))
        self._rows = []
        self._buffers.step.zero_()

    def _capture(self, size: int, kind: Kind) -> torch.cuda.CUDAGraph:
        """The graph of a step, which runs on padding rows meanwhile."""
        self._set_padding(size)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # what runs for the first time compiles and allocates, which a capture must not
                self._step(size, kind)
                self._buffers.step.zero_()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._step(size, kind)
        self._pool = self._pool or graph.pool()
        return graph

    def _step(self, size: int, kind: Kind) -> None:
        """One decode step on the first `size` rows of the buffers, which it leaves ready for the next one."""
        buffers = self._buffers
        token_ids, positions = buffers.token_ids[:size], buffers.positions[:size]
        context_lens = buffers.context_lens[:size]
        layout = DecodeLayout(self._cache, buffers.block_tables[:size], context_lens, buffers.order[:size])
        with span("roseinfer.model.forward"):
            logits = self._model.logits(self._model(token_ids, positions, self._attention, layout))
        with span("roseinfer.sample"):
            batch = SamplingBatch(
                temperature=buffers.temperature[:size],
                top_k=buffers.top_k[:size],
                top_p=buffers.top_p[:size],
                min_p=buffers.min_p[:size],
                seeds=buffers.seeds[:size],
                positions=positions + 1 if kind != "greedy" else positions,  # which greedy rows do not look at
                changes=None,
                all_greedy=kind == "greedy",
                max_top_k=WIDEST if kind == "top_k" else 0,
            )
            drawn = sample(logits, batch)
            advance(drawn, token_ids, positions, context_lens, buffers.advance[:size], buffers.drawn, buffers.step)


def _kind(requests: list[Request]) -> Kind:
    drawn = [request.params for request in requests if request.params.temperature > 0]
    if not drawn:
        return "greedy"
    return "top_k" if all(0 < params.top_k <= WIDEST for params in drawn) else "all"
