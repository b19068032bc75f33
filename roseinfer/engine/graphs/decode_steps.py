"""Captured decode steps, which run one after another without the host.

Drawn tokens, positions and context lengths stay on the device, where the next step reads them. The first step of the
next launch reads them there as well, so it need not wait until the host has read the tokens.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from roseinfer.attention.backend import AttentionBackend
from roseinfer.attention.step_layouts import DecodeLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.engine.graph_sizes import GraphKey
from roseinfer.engine.graphs.static_inputs import StaticBlockTables, StaticInputs
from roseinfer.engine.graphs.static_sampling import fill_sampling, sampling_batch, sampling_fields
from roseinfer.engine.launch import DrawnTokens
from roseinfer.engine.rank_sampling import draw
from roseinfer.engine.row_state import RowState
from roseinfer.engine.step_batch import PENDING, StepBatch
from roseinfer.kernels.sampling.advance import advance
from roseinfer.models.causal_lm import CausalLM
from roseinfer.spans import span
from roseinfer.upload import upload


class DecodeSteps:
    """Captured steps of one token per request. A launch replays one or several of them."""

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
        device = cache.data.device
        self._inputs = StaticInputs(
            device,
            {
                "token_ids": (max_batch_size, np.int64),
                "positions": (max_batch_size, np.int64),
                "context_lens": (max_batch_size, np.int32),
                "order": (max_batch_size, np.int32),
                **sampling_fields(max_batch_size),
                "advance": (max_batch_size, np.int64),  # 1, or 0 for padding rows, whose position stays
                "step": (1, np.int64),  # index in `drawn` of the next decode step
            },
        )
        self._drawn = torch.zeros((max_steps, max_batch_size), dtype=torch.int64, device=device)
        # Rows of the last launch. Their inputs are ready on the device for the token at these positions.
        self._states: Sequence[RowState] = ()
        self._stops: Sequence[int] = ()

    @property
    def newest(self) -> Tensor:
        """Last drawn tokens, which the next step reads as its input, in batch order: [rows or more]."""
        return self._inputs.on_device["token_ids"]

    def drawn(self, steps: int) -> Tensor:
        """Return the tokens of the first `steps` decode steps of a launch: [steps, rows or more]."""
        return self._drawn[:steps]

    def prepare(self, batch: StepBatch, states: Sequence[RowState], key: GraphKey, before: DrawnTokens) -> None:
        """Prepare the inputs for the batch's first token, uploading only what the device does not hold already."""
        self._tables.update([state.block_table for state in states], key.rows)
        if self._stops == batch.starts and self._states == states:
            self._inputs.on_device["step"].zero_()
        else:
            self._set_rows(batch, states, key.rows, before)
        decode_steps = batch.decode_steps
        self._states, self._stops = states, [start + decode_steps for start in batch.starts]

    def pad(self, key: GraphKey) -> None:
        """Prepare padding rows only: one token of context each, in the padding block."""
        self._tables.update([], key.rows)
        self._set_rows(StepBatch([], [], [], [], []), [], key.rows, DrawnTokens(self.newest, ()))
        self._states = self._stops = ()

    def step(self, key: GraphKey) -> None:
        """Run one decode step on the first `key.rows` rows, and prepare their inputs for the next step."""
        size = key.rows
        fields = {name: values[:size] for name, values in self._inputs.on_device.items()}
        token_ids, positions, context_lens = fields["token_ids"], fields["positions"], fields["context_lens"]
        # Kernels choose their tiles by the width of the tables.
        width = key.context // self._cache.block_size or None
        layouts = [
            DecodeLayout(self._cache, tables[:size, :width], context_lens, fields["order"])
            for tables in self._tables.on_device
        ]
        with span("roseinfer.model.forward"):
            logits = self._model.rank_logits(self._model(token_ids, positions, self._attention, layouts))
        with span("roseinfer.sample"):
            num_tokens = positions + 1 if key.kind != "greedy" else positions  # greedy rows do not read it
            drawn = draw(self._model, logits, sampling_batch(self._inputs, size, num_tokens, key.kind))
            advance(drawn, token_ids, positions, context_lens, fields["advance"], self._drawn, fields["step"])

    def _set_rows(self, batch: StepBatch, states: Sequence[RowState], size: int, before: DrawnTokens) -> None:
        """Upload all inputs of a step: the batch's own rows, then padding rows up to `size`."""
        fill = self._inputs.fill
        starts = np.array(batch.starts, dtype=np.int64)
        fill("token_ids", [max(token_id, 0) for token_id in batch.token_ids], size)
        fill("positions", starts, size)
        fill("context_lens", starts + 1, size, padding=1)
        # All contexts grow alike, so their order holds until the rows change.
        fill("order", np.argsort(-self._inputs.on_host["positions"][:size], kind="stable"), size)
        fill_sampling(self._inputs, states, size)
        fill("advance", [1] * len(states), size)
        pending = [at for at, token_id in enumerate(batch.token_ids) if token_id == PENDING]
        if not pending:
            self._inputs.upload()
            return
        # Read the drawn tokens before the upload: they may be in the inputs that the upload overwrites.
        places = before.places_of(batch.rows[at] for at in pending)
        sources, targets = upload(before.tokens.device, places, np.array(pending, dtype=np.int64))
        known = before.tokens[sources]
        self._inputs.upload()
        self.newest.index_copy_(0, targets, known)
