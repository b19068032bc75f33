"""Carrying out a step plan: inputs, forward, sampling."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from roseinfer.attention.base import AttentionBackend, AttentionMetadata, StepLayout
from roseinfer.cache.kv_cache import KVCache
from roseinfer.engine.decode_graphs import DecodeGraphs
from roseinfer.engine.request import Request, TokenLogprobs
from roseinfer.engine.scheduler import BlockCopy, StepPlan
from roseinfer.engine.step_inputs import StepInputs
from roseinfer.models.base import CausalLM
from roseinfer.sampling.logits import History
from roseinfer.sampling.logprobs import logprobs
from roseinfer.sampling.sampler import SamplingBatch, sample
from roseinfer.spans import span
from roseinfer.upload import upload


class SampledToken(NamedTuple):
    """What one row of a step drew."""

    token_id: int
    logprobs: TokenLogprobs | None


class Runner:
    """Owns the model, the KV tensors and the attention backend."""

    def __init__(
        self,
        model: CausalLM,
        cache: KVCache,
        attention: AttentionBackend,
        device: torch.device,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        self.attention = attention
        self.device = device
        self.graphs = graphs

    @torch.inference_mode()
    def execute(self, plan: StepPlan, copies: Sequence[BlockCopy] = ()) -> list[SampledToken]:
        """Make the copies, run the step; a token for each chunk that samples, in the plan's order."""
        if self.graphs is not None and self.graphs.runs(plan):
            with span("roseinfer.prepare_inputs"):
                self.cache.copy_blocks(copies)
                self.graphs.prepare(plan)
            with span("roseinfer.model.forward"):
                self.graphs.launch()
            with span("roseinfer.sample"):
                return [SampledToken(token_id, None) for token_id in self.graphs.drawn()]
        if plan.decode_steps > 1:
            return self._run_ahead(plan, copies)
        with span("roseinfer.prepare_inputs"):
            self.cache.copy_blocks(copies)
            token_ids, positions, last_rows, metadata = self._inputs(plan)
        with span("roseinfer.model.forward"):
            hidden = self.model(token_ids, positions, self.attention, metadata)
            logits = self.model.logits(hidden[last_rows]) if len(last_rows) else None
        if logits is None:
            return []
        with span("roseinfer.sample"):
            return self._sample(logits, [chunk.request for chunk in plan.chunks if chunk.samples])

    def _run_ahead(self, plan: StepPlan, copies: Sequence[BlockCopy]) -> list[SampledToken]:
        """Several decode steps, one by one: what a CUDA graph does without the host."""
        requests = [chunk.request for chunk in plan.chunks]
        sampled: list[SampledToken] = []
        for step in range(plan.decode_steps):
            chunks = [replace(chunk, start=chunk.start + step, num_tokens=1) for chunk in plan.chunks]
            drawn = self.execute(replace(plan, chunks=tuple(chunks), decode_steps=1), copies if step == 0 else ())
            sampled += drawn
            for request, token in zip(requests, drawn, strict=True):
                request.token_ids.append(token.token_id)
        for request in requests:  # the scheduler commits them
            del request.token_ids[-plan.decode_steps :]
        return sampled

    def _inputs(self, plan: StepPlan) -> tuple[Tensor, Tensor, Tensor, AttentionMetadata]:
        inputs = StepInputs.of(plan, self.cache.block_size)
        token_ids, positions, slots, last_rows = upload(
            self.device, inputs.token_ids, inputs.positions, inputs.slots, inputs.last_rows
        )
        layout = StepLayout(
            query_lens=[chunk.num_tokens for chunk in plan.chunks],
            context_lens=[chunk.start for chunk in plan.chunks],
            block_tables=[chunk.request.block_table for chunk in plan.chunks],
            slots=slots,
        )
        return token_ids, positions, last_rows, self.attention.prepare(layout, self.cache)

    def _sample(self, logits: Tensor, requests: list[Request]) -> list[SampledToken]:
        batch = SamplingBatch.build(
            [request.params for request in requests],
            [request.seed for request in requests],
            [len(request.token_ids) for request in requests],
            self.device,
            [History(request.prompt_set, request.counts, request.banned_token_ids) for request in requests],
        )
        drawn = sample(logits, batch)
        rows = logprobs(logits, drawn, [request.params.logprobs for request in requests])
        return [
            SampledToken(token_id, None if row is None else TokenLogprobs(*row))
            for token_id, row in zip(drawn.tolist(), rows, strict=True)
        ]
