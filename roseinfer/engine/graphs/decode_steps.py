"""Decode steps that follow each other without the host.

Tokens drawn, positions and lengths stay on the device, where the next step finds them, and so does the first step of
the next launch: it need not wait for the host to read them.
"""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from roseinfer.attention.backend import AttentionBackend
from roseinfer.attention.step_layouts import DecodeLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.engine.graphs.graph_key import GraphKey, kind_of
from roseinfer.engine.graphs.static_inputs import StaticBlockTables, StaticInputs
from roseinfer.engine.graphs.static_sampling import fill_sampling, sampling_batch, sampling_fields
from roseinfer.engine.launch import Drawn
from roseinfer.engine.planner import Chunk, StepPlan
from roseinfer.engine.request import PENDING, Request
from roseinfer.kernels.sampling.advance import advance
from roseinfer.models.causal_lm import CausalLM
from roseinfer.sampling.sampler import sample
from roseinfer.spans import span
from roseinfer.upload import upload


def batch_sizes(largest: int) -> list[int]:
    """The batch sizes to capture: small ones closely, so that little is padded where launches are everything."""
    sizes = [size for size in (1, 2, 4) if size < largest]
    sizes += range(8, min(largest, 64), 8)
    sizes += range(64, largest, 32)
    return [*sizes, largest]


class DecodeSteps:
    """One token for each request of a batch, as often as is wanted."""

    def __init__(
        self,
        model: CausalLM,
        cache: KVCache,
        attention: AttentionBackend,
        tables: StaticBlockTables,
        *,
        max_batch_size: int,
        max_steps: int,
    ) -> None:
        self._model, self._cache, self._attention, self._tables = model, cache, attention, tables
        self._sizes = batch_sizes(max_batch_size)
        device = cache.data.device
        self._inputs = StaticInputs(
            device,
            {
                "token_ids": (max_batch_size, np.int64),
                "positions": (max_batch_size, np.int64),
                "context_lens": (max_batch_size, np.int32),
                "order": (max_batch_size, np.int32),
                **sampling_fields(max_batch_size),
                "advance": (max_batch_size, np.int64),  # 1, or 0 for padding rows, which stay where they are
                "step": (1, np.int64),  # which row of `drawn` is next
            },
        )
        self._drawn = torch.zeros((max_steps, max_batch_size), dtype=torch.int64, device=device)
        self._rows: list[tuple[Request, int]] = []  # of the last launch, with the tokens computed after it

    def key_of(self, plan: StepPlan) -> GraphKey | None:
        """What the plan's step is captured for; None for one that is no decode, or does not draw plainly.

        A prompt of which one token is left to compute is no different from a decode.
        """
        if len(plan.chunks) > self._sizes[-1] or not all(
            chunk.samples and chunk.num_tokens == plan.decode_steps and chunk.request.draws_plainly
            for chunk in plan.chunks
        ):
            return None
        size = self._sizes[bisect_left(self._sizes, len(plan.chunks))]
        return GraphKey(size, kind_of(chunk.request for chunk in plan.chunks))

    @property
    def newest(self) -> Tensor:
        """The tokens that the last step leaves for the next one, [rows or more], in the order of its plan."""
        return self._inputs.there["token_ids"]

    def drawn(self, steps: int) -> Tensor:
        """What so many steps have drawn: [steps, rows or more]."""
        return self._drawn[:steps]

    def prepare(self, plan: StepPlan, key: GraphKey, before: Drawn) -> None:
        """Bring the inputs to the state before the plan's first token, copying only what is not there already."""
        self._tables.bring([chunk.request.block_table for chunk in plan.chunks], key.rows)
        if self._rows == [(chunk.request, chunk.start) for chunk in plan.chunks]:
            self._inputs.there["step"].zero_()
        else:
            self._set_rows(plan.chunks, key.rows, before)
        self._rows = [(chunk.request, chunk.stop) for chunk in plan.chunks]

    def pad(self, key: GraphKey) -> None:
        """Rows of nobody's: one token of context, in the tables' padding block."""
        self._tables.bring([], key.rows)
        self._set_rows([], key.rows, Drawn(self.newest, {}))
        self._rows = []

    def step(self, key: GraphKey) -> None:
        """One step on the first rows of the inputs, which it leaves ready for the next one."""
        size = key.rows
        there = {name: values[:size] for name, values in self._inputs.there.items()}
        token_ids, positions, context_lens = there["token_ids"], there["positions"], there["context_lens"]
        layout = DecodeLayout(self._cache, self._tables.there[:size], context_lens, there["order"])
        with span("roseinfer.model.forward"):
            logits = self._model.logits(self._model(token_ids, positions, self._attention, layout))
        with span("roseinfer.sample"):
            places = positions + 1 if key.kind != "greedy" else positions  # which greedy rows do not look at
            drawn = sample(logits, sampling_batch(self._inputs, size, places, key.kind))
            advance(drawn, token_ids, positions, context_lens, there["advance"], self._drawn, there["step"])

    def _set_rows(self, chunks: Sequence[Chunk], size: int, before: Drawn) -> None:
        """Other requests than in the last launch, or the same after a step of another kind."""
        fill = self._inputs.fill
        token_ids = [chunk.request.token_ids[chunk.start] for chunk in chunks]
        fill("token_ids", [max(token_id, 0) for token_id in token_ids], size)
        fill("positions", [chunk.start for chunk in chunks], size)
        fill("context_lens", [chunk.start + 1 for chunk in chunks], size, padding=1)
        # All lengths grow alike: their order lasts as long as the rows.
        fill("order", np.argsort(-self._inputs.here["positions"][:size], kind="stable"), size)
        fill_sampling(self._inputs, chunks, size)
        fill("advance", [1] * len(chunks), size)
        pending = [row for row, token_id in enumerate(token_ids) if token_id == PENDING]
        if not pending:
            self._inputs.bring()
            return
        # Read before the inputs are overwritten: they may be what the step before has drawn into.
        sources = np.array([before.rows[chunks[row].request] for row in pending], dtype=np.int64)
        at, rows = upload(before.tokens.device, sources, np.array(pending, dtype=np.int64))
        known = before.tokens[at]
        self._inputs.bring()
        self.newest.index_copy_(0, rows, known)
