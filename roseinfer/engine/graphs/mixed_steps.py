"""Steps that compute prompts, or chunks of them, beside requests that decode; every one is brought from the host."""

from bisect import bisect_left
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from roseinfer.attention.backend import AttentionBackend
from roseinfer.attention.step_layouts import DecodeLayout, MixedLayout, PromptLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.engine.graphs.graph_key import GraphKey, kind_of
from roseinfer.engine.graphs.static_inputs import StaticBlockTables, StaticInputs
from roseinfer.engine.graphs.static_sampling import fill_sampling, sampling_batch, sampling_fields
from roseinfer.engine.launch import Drawn
from roseinfer.engine.planner import LEAST_PROMPT_TOKENS, Chunk, StepPlan
from roseinfer.engine.step_inputs import StepInputs
from roseinfer.models.causal_lm import CausalLM
from roseinfer.sampling.sampler import sample
from roseinfer.spans import span

MIXED_TOKENS = 512
"""Tokens of a step that are worth a graph: with many more, a device takes longer than the host with the launches. What
a product of 16-bit numbers takes on an H200 rises in steps of 128 rows, and per row 512 are among the best."""

MAX_PROMPTS = 32
"""Requests that prompt tokens of one step may belong to."""


def decode_rows(largest: int) -> list[int]:
    """The numbers of decoding requests to capture; those between cost attention almost nothing."""
    return [0, *(size for size in (8, 16, 32) if size < largest), *range(64, largest, 64), largest]


def token_counts(largest_batch: int) -> list[int]:
    """The numbers of tokens to capture."""
    return [64, *range(128, max(MIXED_TOKENS, largest_batch + LEAST_PROMPT_TOKENS + 127) + 1, 128)]


class MixedSteps:
    """One token for each of some requests, and prompt tokens of others."""

    def __init__(
        self,
        model: CausalLM,
        cache: KVCache,
        attention: AttentionBackend,
        tables: StaticBlockTables,
        prompt_tables: StaticBlockTables,
        *,
        max_batch_size: int,
        padding_slot: int,
    ) -> None:
        """`prompt_tables` has `MAX_PROMPTS` rows; `padding_slot` is where keys and values of nobody's go."""
        self._model, self._cache, self._attention = model, cache, attention
        self._tables, self._prompt_tables = tables, prompt_tables
        self._sizes, self._counts = decode_rows(max_batch_size), token_counts(max_batch_size)
        self._padding_slot = padding_slot
        tokens, samples = self._counts[-1], max_batch_size + MAX_PROMPTS
        device = cache.data.device
        self._inputs = StaticInputs(
            device,
            {
                # Of decoding requests, then of prompts.
                "token_ids": (tokens, np.int64),
                "positions": (tokens, np.int64),
                "slots": (tokens, np.int64),
                "context_lens": (max_batch_size, np.int32),
                "order": (max_batch_size, np.int32),
                "prompt_context_lens": (MAX_PROMPTS, np.int32),
                "query_starts": (MAX_PROMPTS + 1, np.int32),
                # What is drawn, in the plan's order.
                "last_rows": (samples, np.int64),
                "stops": (samples, np.int64),
                **sampling_fields(samples),
                # Tokens that the step before draws: where they go, which they are.
                "pending": (max_batch_size, np.int64),
                "sources": (max_batch_size, np.int64),
            },
        )
        self._drawn = torch.zeros((1, samples), dtype=torch.int64, device=device)

    def key_of(self, plan: StepPlan) -> GraphKey | None:
        """What the plan's step is captured for; None for one of decodes alone, too large, or not drawing plainly."""
        decodes = sum(_decodes(chunk) for chunk in plan.chunks)
        prompts = len(plan.chunks) - decodes
        if plan.decode_steps > 1 or not 0 < prompts <= MAX_PROMPTS or decodes > self._sizes[-1]:
            return None
        rows = self._sizes[bisect_left(self._sizes, decodes)]
        tokens = max(plan.num_tokens, rows)
        if tokens > self._counts[-1] or not all(chunk.request.draws_plainly for chunk in plan.chunks):
            return None
        kind = kind_of(chunk.request for chunk in plan.chunks if chunk.samples)
        return GraphKey(rows, kind, self._counts[bisect_left(self._counts, tokens)])

    @property
    def newest(self) -> Tensor:
        """The tokens that the step draws, [rows or more], in the order of its plan."""
        return self._drawn[0]

    def drawn(self, steps: int) -> Tensor:
        """The same as [1, rows or more]."""
        return self._drawn[:steps]

    def prepare(self, plan: StepPlan, key: GraphKey, before: Drawn) -> None:
        """Bring all inputs of a plan's step; `before` is what the step before it draws."""
        decodes = [chunk for chunk in plan.chunks if _decodes(chunk)]
        prompts = [chunk for chunk in plan.chunks if not _decodes(chunk)]
        packed = replace(plan, chunks=(*decodes, *prompts))
        inputs = StepInputs.of(packed, self._cache.block_size)
        self._tables.bring([chunk.request.block_table for chunk in decodes], key.rows)
        self._prompt_tables.bring([chunk.request.block_table for chunk in prompts], MAX_PROMPTS)
        fill = self._inputs.fill
        fill("token_ids", inputs.token_ids, key.tokens)
        fill("positions", inputs.positions, key.tokens)
        fill("slots", inputs.slots, key.tokens, padding=self._padding_slot)
        fill("context_lens", [chunk.stop for chunk in decodes], key.rows)
        fill("order", np.argsort(-self._inputs.here["context_lens"][: key.rows], kind="stable"), key.rows)
        fill("prompt_context_lens", [chunk.stop for chunk in prompts], MAX_PROMPTS)
        starts = len(decodes) + np.cumsum([0, *(chunk.num_tokens for chunk in prompts)])
        fill("query_starts", starts, MAX_PROMPTS + 1, padding=starts[-1])
        last_row = dict(zip([c.request for c in _sampling(packed)], inputs.last_rows.tolist(), strict=True))
        sampling, size = _sampling(plan), key.rows + MAX_PROMPTS
        fill("last_rows", [last_row[chunk.request] for chunk in sampling], size)
        fill("stops", [chunk.stop for chunk in sampling], size)
        fill_sampling(self._inputs, sampling, size)
        pending = len(inputs.pending)
        fill("pending", inputs.pending, pending)
        fill("sources", [before.rows[packed.chunks[at].request] for at in inputs.pending_chunks], pending)
        self._inputs.bring()
        if pending:
            there = self._inputs.there
            known = before.tokens[there["sources"][:pending]]
            there["token_ids"].index_copy_(0, there["pending"][:pending], known)

    def pad(self, key: GraphKey) -> None:
        """Rows of nobody's, which write to the padding slot."""
        self.prepare(StepPlan((), (), ()), key, Drawn(self.newest, {}))

    def step(self, key: GraphKey) -> None:
        """The step of the inputs."""
        there, size = self._inputs.there, key.rows
        tokens, samples = key.tokens, size + MAX_PROMPTS
        decodes = DecodeLayout(
            self._cache, self._tables.there[:size], there["context_lens"][:size], there["order"][:size]
        )
        prompts = PromptLayout(
            self._prompt_tables.there, there["prompt_context_lens"], there["query_starts"], key.tokens
        )
        layout = MixedLayout(self._cache, there["slots"][:tokens], decodes if size else None, prompts)
        with span("roseinfer.model.forward"):
            hidden = self._model(there["token_ids"][:tokens], there["positions"][:tokens], self._attention, layout)
            logits = self._model.logits(hidden[there["last_rows"][:samples]])
        with span("roseinfer.sample"):
            batch = sampling_batch(self._inputs, samples, there["stops"][:samples], key.kind)
            self._drawn[0, :samples].copy_(sample(logits, batch))


def _decodes(chunk: Chunk) -> bool:
    """Whether a chunk is like a decode: one token, the last that the request has."""
    return chunk.samples and chunk.num_tokens == 1


def _sampling(plan: StepPlan) -> list[Chunk]:
    return [chunk for chunk in plan.chunks if chunk.samples]
