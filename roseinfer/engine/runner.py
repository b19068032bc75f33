"""Carrying out a step plan: inputs, forward, sampling."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from msgspec import structs
from torch import Tensor

from roseinfer.attention.backend import AttentionBackend, AttentionMetadata
from roseinfer.attention.step_layouts import StepLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.engine.graphs.graph_key import GraphKey
from roseinfer.engine.graphs.step_graphs import StepGraphs
from roseinfer.engine.launch import Drawn, Launch
from roseinfer.engine.planner import BlockCopy, Chunk, StepPlan
from roseinfer.engine.request import TokenLogprobs
from roseinfer.engine.step_inputs import StepInputs
from roseinfer.errors import RoseinferError
from roseinfer.models.causal_lm import CausalLM
from roseinfer.sampling.logprobs import logprobs
from roseinfer.sampling.penalties import History
from roseinfer.sampling.sampler import SamplingBatch, sample
from roseinfer.spans import span
from roseinfer.upload import upload

_LOG = logging.getLogger("roseinfer")


class Runner:
    """Owns the model, the KV tensors and the attention backend."""

    def __init__(
        self,
        model: CausalLM,
        cache: KVCache,
        attention: AttentionBackend,
        device: torch.device,
        graphs: StepGraphs | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        self.attention = attention
        self.device = device
        self.graphs = graphs
        self._drawn = Drawn(torch.empty(0, dtype=torch.int64, device=device), {})

    @torch.inference_mode()
    def launch(self, plan: StepPlan, copies: Sequence[BlockCopy] = ()) -> Launch:
        """Make the copies and run the step, which draws a token for each chunk that samples, in the plan's order.

        Tokens that the launch before is drawing need not have been read. Raises RoseinferError when the device has no
        memory for the step.
        """
        try:
            return self._launch(plan, copies)
        except torch.OutOfMemoryError:
            raise RoseinferError(
                f"{self.device} has no memory for a step of {plan.num_tokens} tokens: lower max_batch_tokens, "
                "max_batch_size or kv_cache_memory"
            ) from None

    def _launch(self, plan: StepPlan, copies: Sequence[BlockCopy]) -> Launch:
        key = self._graph_of(plan)
        if key is not None and self.graphs is not None:
            graphs = self.graphs
            with span("roseinfer.prepare_inputs"):
                self.cache.copy_blocks(copies)
                graphs.prepare(plan, key, self._drawn)
            with span("roseinfer.model.forward"):
                tokens = graphs.launch()
            return self._launched(plan, tokens, graphs.newest)
        if plan.decode_steps == 1:
            return self._launch_step(plan, copies)
        # Several decode steps, one by one: what a CUDA graph does without the host.
        drawn = []
        for step in range(plan.decode_steps):
            chunks = tuple(structs.replace(chunk, start=chunk.start + step, num_tokens=1) for chunk in plan.chunks)
            self._launch_step(replace(plan, chunks=chunks, decode_steps=1), copies if step == 0 else ())
            drawn.append(self._drawn.tokens)
        return Launch(torch.stack(drawn), len(plan.chunks))

    def _graph_of(self, plan: StepPlan) -> GraphKey | None:
        """The graph that runs the plan in one launch; None where it goes operator by operator."""
        if self.graphs is None:
            return None
        key = self.graphs.key_of(plan)
        if key is None or not self.graphs.wants(key):
            return None
        return key if self.graphs.is_captured(key) or self._capture(key) else None

    @torch.inference_mode()
    def capture_missing(self) -> None:
        """Make the graphs that a load has asked for and not got: when it comes again, it finds them all."""
        for key in [] if self.graphs is None else self.graphs.missing:
            if not self._capture(key):
                return

    def _capture(self, key: GraphKey) -> bool:
        """Make a graph; without memory for it, have none any more."""
        assert self.graphs is not None
        self._drawn = Drawn(self._drawn.tokens.clone(), self._drawn.rows)  # a capture overwrites the buffers
        try:
            self.graphs.capture(key)
        except torch.OutOfMemoryError:
            _LOG.warning("%s has no memory for CUDA graphs: going on without, more slowly", self.device)
            self.graphs = None
        return self.graphs is not None

    def _launch_step(self, plan: StepPlan, copies: Sequence[BlockCopy]) -> Launch:
        with span("roseinfer.prepare_inputs"):
            self.cache.copy_blocks(copies)
            token_ids, positions, last_rows, metadata = self._inputs(plan)
        with span("roseinfer.model.forward"):
            hidden = self.model(token_ids, positions, self.attention, metadata)
            logits = self.model.logits(hidden[last_rows]) if len(last_rows) else None
        if logits is None:
            return self._launched(plan, token_ids.new_empty(1, 0), token_ids)
        with span("roseinfer.sample"):
            drawn, rows = self._sample(logits, [chunk for chunk in plan.chunks if chunk.samples])
            return self._launched(plan, drawn.unsqueeze(0), drawn, rows)

    def _launched(
        self, plan: StepPlan, tokens: Tensor, newest: Tensor, logprobs: list[TokenLogprobs | None] | None = None
    ) -> Launch:
        requests = [chunk.request for chunk in plan.chunks if chunk.samples]
        self._drawn = Drawn(newest, {request: row for row, request in enumerate(requests)})
        return Launch(tokens, len(requests), logprobs)

    def _inputs(self, plan: StepPlan) -> tuple[Tensor, Tensor, Tensor, AttentionMetadata]:
        inputs = StepInputs.of(plan, self.cache.block_size)
        sources = np.array([self._drawn.rows[plan.chunks[at].request] for at in inputs.pending_chunks], dtype=np.int64)
        token_ids, positions, slots, last_rows, pending, rows = upload(
            self.device, inputs.token_ids, inputs.positions, inputs.slots, inputs.last_rows, inputs.pending, sources
        )
        if len(sources):
            token_ids.index_copy_(0, pending, self._drawn.tokens[rows])
        layout = StepLayout(
            query_lens=[chunk.num_tokens for chunk in plan.chunks],
            context_lens=[chunk.start for chunk in plan.chunks],
            block_tables=[chunk.request.block_table for chunk in plan.chunks],
            slots=slots,
        )
        return token_ids, positions, last_rows, self.attention.prepare(layout, self.cache)

    def _sample(self, logits: Tensor, chunks: list[Chunk]) -> tuple[Tensor, list[TokenLogprobs | None] | None]:
        requests = [chunk.request for chunk in chunks]
        batch = SamplingBatch.build(
            [request.params for request in requests],
            [request.seed for request in requests],
            [chunk.stop for chunk in chunks],
            self.device,
            [History(request.prompt_set, request.counts, request.banned_token_ids) for request in requests],
        )
        drawn = sample(logits, batch)
        wanted = [request.params.logprobs for request in requests]
        if all(count is None for count in wanted):
            return drawn, None
        return drawn, [None if row is None else TokenLogprobs(*row) for row in logprobs(logits, drawn, wanted)]
