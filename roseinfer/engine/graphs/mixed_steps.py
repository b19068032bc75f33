"""Captured steps that compute prompts, or chunks of prompts, together with decodes. All inputs come from the host."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from roseinfer.attention.backend import AttentionBackend
from roseinfer.attention.step_layouts import DecodeLayout, DensePrompts, DenseRun, MixedLayout, PromptLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.engine.graph_sizes import MAX_PROMPTS, GraphKey, GraphSizes
from roseinfer.engine.graphs.static_inputs import StaticBlockTables, StaticInputs
from roseinfer.engine.graphs.static_sampling import fill_sampling, sampling_batch, sampling_fields
from roseinfer.engine.launch import DrawnTokens
from roseinfer.engine.rank_sampling import draw
from roseinfer.engine.row_state import RowState
from roseinfer.engine.step_batch import StepBatch
from roseinfer.engine.step_inputs import StepInputs
from roseinfer.models.causal_lm import CausalLM
from roseinfer.spans import span


class MixedSteps:
    """Captured steps that decode some requests, one token each, and compute prompt tokens of others."""

    def __init__(
        self,
        model: CausalLM,
        cache: KVCache,
        attention: AttentionBackend,
        tables: StaticBlockTables,
        prompt_tables: StaticBlockTables,
        *,
        sizes: GraphSizes,
        padding_slot: int,
    ) -> None:
        """`prompt_tables` has `MAX_PROMPTS` rows. Keys and values of padding tokens go to `padding_slot`."""
        self._model, self._cache, self._attention = model, cache, attention
        self._tables, self._prompt_tables = tables, prompt_tables
        self._padding_slot = padding_slot
        self._slot_fields = [f"slots_{group}" for group in range(cache.num_groups)]
        tokens, max_batch_size = max(sizes.token_counts + sizes.whole_counts), sizes.decode_rows[-1]
        samples = max_batch_size + MAX_PROMPTS
        device = cache.data.device
        self._inputs = StaticInputs(
            device,
            {
                # Decoding requests first, then prompts.
                "token_ids": (tokens, np.int64),
                "positions": (tokens, np.int64),
                **dict.fromkeys(self._slot_fields, (tokens, np.int64)),
                "context_lens": (max_batch_size, np.int32),
                "order": (max_batch_size, np.int32),
                "prompt_context_lens": (MAX_PROMPTS, np.int32),
                "query_starts": (MAX_PROMPTS + 1, np.int32),
                # Rows to draw from, in batch order.
                "last_rows": (samples, np.int64),
                "last_tables": (samples, np.int64),  # among the block tables of decodes, then of prompts
                "stops": (samples, np.int64),
                **sampling_fields(samples),
                # Tokens that the previous step draws: target index in token_ids, source index among the drawn.
                "pending": (max_batch_size, np.int64),
                "sources": (max_batch_size, np.int64),
            },
        )
        self._drawn = torch.zeros((1, samples), dtype=torch.int64, device=device)

    @property
    def newest(self) -> Tensor:
        """Tokens that the step draws, in batch order: [rows or more]."""
        return self._drawn[0]

    def drawn(self, steps: int) -> Tensor:
        """Return the tokens that the step draws, [1, rows or more]. `steps` must be 1."""
        return self._drawn[:steps]

    def prepare(self, batch: StepBatch, states: Sequence[RowState], key: GraphKey, before: DrawnTokens) -> None:
        """Upload all inputs of a step. `before` has the tokens that the previous step draws."""
        decodes, prompts, sampling = _sorted_chunks(batch)
        order = decodes + prompts
        tables = [state.block_table for state in states]
        inputs = StepInputs.of(batch, tables, self._cache.block_size, order, num_groups=self._cache.num_groups)
        stops = [start + length for start, length in zip(batch.starts, batch.lengths, strict=True)]
        self._tables.update([tables[at] for at in decodes], key.rows)
        self._prompt_tables.update([tables[at] for at in prompts], MAX_PROMPTS)
        fill = self._inputs.fill
        fill("token_ids", inputs.token_ids, key.tokens)
        fill("positions", inputs.positions, key.tokens)
        for name, slots in zip(self._slot_fields, inputs.slots, strict=True):
            fill(name, slots, key.tokens, padding=self._padding_slot)
        fill("context_lens", [stops[at] for at in decodes], key.rows)
        fill("order", np.argsort(-self._inputs.on_host["context_lens"][: key.rows], kind="stable"), key.rows)
        fill("prompt_context_lens", [stops[at] for at in prompts], MAX_PROMPTS)
        query_starts = len(decodes) + np.cumsum([0, *[batch.lengths[at] for at in prompts]])
        fill("query_starts", query_starts, MAX_PROMPTS + 1, padding=query_starts[-1])
        sampled = [at for at in order if batch.samples[at]]
        last_rows = dict(zip(sampled, inputs.last_rows.tolist(), strict=True))
        size = key.rows + MAX_PROMPTS
        place = {at: number for number, at in enumerate(decodes)}
        place |= {at: key.rows + number for number, at in enumerate(prompts)}
        fill("last_rows", [last_rows[at] for at in sampling], size)
        fill("last_tables", [place[at] for at in sampling], size)
        fill("stops", [stops[at] for at in sampling], size)
        fill_sampling(self._inputs, [states[at] for at in sampling], size)
        pending = len(inputs.pending)
        fill("pending", inputs.pending, pending)
        fill("sources", before.places_of(batch.rows[at] for at in inputs.pending_chunks), pending)
        self._inputs.upload()
        if pending:
            fields = self._inputs.on_device
            known = before.tokens[fields["sources"][:pending]]
            fields["token_ids"].index_copy_(0, fields["pending"][:pending], known)

    def pad(self, key: GraphKey) -> None:
        """Prepare padding rows only, which write to the padding slot."""
        self.prepare(StepBatch([], [], [], [], []), [], key, DrawnTokens(self.newest, ()))

    def step(self, key: GraphKey) -> None:
        """Run the step on the prepared inputs."""
        fields, size = self._inputs.on_device, key.rows
        tokens, num_prompts = key.tokens, 1 if key.whole else MAX_PROMPTS
        samples = size + num_prompts
        layouts = [self._layout(key, group, num_prompts) for group in range(self._cache.num_groups)]
        rows = fields["last_rows"][:samples]
        with span("roseinfer.model.forward"):
            hidden = self._model(
                fields["token_ids"][:tokens],
                fields["positions"][:tokens],
                self._attention,
                layouts,
                rows if samples < tokens else None,
            )
            logits = self._model.rank_logits(hidden if samples < tokens else hidden[rows])
        with span("roseinfer.sample"):
            batch = sampling_batch(self._inputs, samples, fields["stops"][:samples], key.kind)
            self._drawn[0, :samples].copy_(draw(self._model, logits, batch))

    def _layout(self, key: GraphKey, group: int, num_prompts: int) -> MixedLayout:
        """Return the layout of the step for the layers of one group."""
        fields, size = self._inputs.on_device, key.rows
        tables, prompt_tables = self._tables.on_device[group, :size], self._prompt_tables.on_device[group, :num_prompts]
        decodes = DecodeLayout(self._cache, tables, fields["context_lens"][:size], fields["order"][:size])
        prompts = PromptLayout(
            prompt_tables,
            fields["prompt_context_lens"][:num_prompts],
            fields["query_starts"][: num_prompts + 1],
            key.tokens,
            # Padding follows the prompt, so that no token of the prompt attends to it.
            DensePrompts((DenseRun(0, 1, key.tokens),), None) if key.whole else None,
        )
        slots, last = fields[self._slot_fields[group]][: key.tokens], self._last(torch.cat((tables, prompt_tables)))
        return MixedLayout(self._cache, slots, decodes if size else None, prompts, last)

    def _last(self, tables: Tensor) -> DecodeLayout:
        """Return the layout of the tokens to sample after. Padding rows have a context of 0 tokens."""
        fields, samples = self._inputs.on_device, len(tables)
        chosen = tables.index_select(0, fields["last_tables"][:samples])
        return DecodeLayout(self._cache, chosen, fields["stops"][:samples])


def _sorted_chunks(batch: StepBatch) -> tuple[list[int], list[int], list[int]]:
    """Return the indexes of chunks that run like decodes, of other chunks, and of all chunks that sample."""
    decodes: list[int] = []
    prompts: list[int] = []
    sampling: list[int] = []
    for at, (samples, length) in enumerate(zip(batch.samples, batch.lengths, strict=True)):
        (decodes if samples and length == 1 else prompts).append(at)
        if samples:
            sampling.append(at)
    return decodes, prompts, sampling
