"""The runner executes steps on one device. It knows requests only by their rows."""

import logging
from collections.abc import Sequence

import torch
from msgspec import structs
from torch import Tensor

from roseinfer.attention.backend import AttentionBackend, AttentionMetadata
from roseinfer.attention.step_layouts import StepLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.engine.graph_sizes import GraphKey
from roseinfer.engine.graphs.step_graphs import StepGraphs
from roseinfer.engine.launch import DrawnTokens, Launch
from roseinfer.engine.memory import is_out_of_memory
from roseinfer.engine.outputs import TokenLogprobs
from roseinfer.engine.rank_sampling import draw
from roseinfer.engine.row_state import RowState
from roseinfer.engine.step_batch import PENDING, StepBatch
from roseinfer.engine.step_inputs import StepInputs
from roseinfer.errors import RoseinferError
from roseinfer.models.causal_lm import CausalLM
from roseinfer.sampling.logprobs import logprobs
from roseinfer.sampling.sampler import SamplingBatch
from roseinfer.spans import span
from roseinfer.upload import upload

_LOG = logging.getLogger("roseinfer")


class Runner:
    """Owns the model, the KV tensors, the attention backend, and the state of every row."""

    def __init__(
        self,
        model: CausalLM,
        cache: KVCache,
        attention: AttentionBackend,
        device: torch.device,
        graphs: StepGraphs | None = None,
        *,
        must_capture: bool = False,
    ) -> None:
        """With `must_capture`, a graph for which there is no memory is an error: all ranks must replay the same."""
        self.model = model
        self.cache = cache
        self.attention = attention
        self.device = device
        self.graphs = graphs
        self._must_capture = must_capture
        self._rows: dict[int, RowState] = {}
        self._drawn = DrawnTokens(torch.empty(0, dtype=torch.int64, device=device), ())

    @torch.inference_mode()
    def launch(self, batch: StepBatch) -> Launch:
        """Launch a step, which draws one token per chunk that samples, in the batch's order.

        The host need not have read the tokens of the previous launch. Raises RoseinferError if the device has no
        memory for the step.
        """
        try:
            return self._launch(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise RoseinferError(
                f"{self.device} has no memory for a step of {batch.num_tokens} tokens: lower --max-batch-tokens, "
                "--max-batch-size or --kv-cache-memory"
            ) from None

    def close(self) -> None:
        """Release what other processes hold for this runner: nothing, unless it leads other ranks."""

    def _launch(self, batch: StepBatch) -> Launch:
        states = self._update_rows(batch)
        key = self._graph_of(batch)
        if key is not None and self.graphs is not None:
            graphs = self.graphs
            with span("roseinfer.prepare_inputs"):
                self.cache.copy_blocks(batch.block_copies)
                graphs.prepare(batch, states, key, self._drawn)
            with span("roseinfer.model.forward"):
                tokens = graphs.launch()
            return self._launched(batch, tokens, graphs.newest)
        if batch.decode_steps == 1:
            return self._launch_step(batch, states)
        # Without a graph, the host launches the decode steps one by one.
        drawn = []
        for step in range(batch.decode_steps):
            self._launch_step(_decode_step(batch, step), states)
            drawn.append(self._drawn.tokens)
        return Launch(torch.stack(drawn), len(batch.rows))

    def _update_rows(self, batch: StepBatch) -> list[RowState]:
        """Assign rows to new requests and append to block tables. Returns the state of each chunk's row."""
        rows = self._rows
        for start in batch.row_starts:
            rows[start.row] = RowState(start)
        for change in batch.block_table_changes:
            rows[change.row].block_table += change.blocks
        return [rows[row] for row in batch.rows]

    def _graph_of(self, batch: StepBatch) -> GraphKey | None:
        """Return the key of the graph that runs the batch; None if the batch runs operator by operator."""
        key = batch.graph
        if self.graphs is None or key is None or not self.graphs.wants(key):
            return None
        key = self.graphs.substitute(key)
        return key if self.graphs.is_captured(key) or self._capture(key) else None

    @torch.inference_mode()
    def capture_missing(self) -> None:
        """Capture the graphs that batches needed and that do not exist yet, so that the same load finds all of them."""
        for key in [] if self.graphs is None else self.graphs.missing:
            if not self._capture(key):
                return

    def _capture(self, key: GraphKey) -> bool:
        """Capture a graph. If memory runs out, stop using graphs. Returns True if the graph was captured."""
        assert self.graphs is not None
        # A capture overwrites the buffers that hold the newest tokens.
        self._drawn = DrawnTokens(self._drawn.tokens.clone(), self._drawn.rows)
        try:
            self.graphs.capture(key)
        except torch.OutOfMemoryError:
            if self._must_capture:
                raise RoseinferError(
                    f"{self.device} has no memory for CUDA graphs: lower --kv-cache-memory, or give --no-cuda-graphs"
                ) from None
            _LOG.warning("%s has no memory for CUDA graphs: continuing without them, more slowly", self.device)
            self.graphs = None
        return self.graphs is not None

    def _launch_step(self, batch: StepBatch, states: Sequence[RowState]) -> Launch:
        _count_tokens(batch, states)
        with span("roseinfer.prepare_inputs"):
            self.cache.copy_blocks(batch.block_copies)
            token_ids, positions, last_rows, metadata = self._inputs(batch, states)
        with span("roseinfer.model.forward"):
            rows = None if len(last_rows) == len(token_ids) else last_rows
            hidden = self.model(token_ids, positions, self.attention, metadata, rows)
            logits = self.model.rank_logits(hidden) if len(last_rows) else None
        if logits is None:
            return self._launched(batch, token_ids.new_empty(1, 0), token_ids)
        with span("roseinfer.sample"):
            drawn, found = self._sample(logits, batch, states)
            return self._launched(batch, drawn.unsqueeze(0), drawn, found)

    def _launched(
        self, batch: StepBatch, tokens: Tensor, newest: Tensor, logprobs: list[TokenLogprobs | None] | None = None
    ) -> Launch:
        rows: Sequence[int] = batch.rows
        if False in batch.samples:
            rows = [row for row, samples in zip(batch.rows, batch.samples, strict=True) if samples]
        self._drawn = DrawnTokens(newest, rows)
        return Launch(tokens, len(rows), logprobs)

    def _inputs(
        self, batch: StepBatch, states: Sequence[RowState]
    ) -> tuple[Tensor, Tensor, Tensor, tuple[AttentionMetadata, ...]]:
        """Return inputs on the device: token ids, positions, indexes of the tokens to sample after, and the attention
        metadata of each group of layers.
        """
        block_tables, num_groups = [state.block_table for state in states], self.cache.num_groups
        inputs = StepInputs.of(batch, block_tables, self.cache.block_size, num_groups=num_groups)
        sources = self._drawn.places_of(batch.rows[at] for at in inputs.pending_chunks)
        token_ids, positions, last_rows, pending, places, *slots = upload(
            self.device, inputs.token_ids, inputs.positions, inputs.last_rows, inputs.pending, sources, *inputs.slots
        )
        if len(sources):
            token_ids.index_copy_(0, pending, self._drawn.tokens[places])
        last = [at for at, samples in enumerate(batch.samples) if samples]
        metadata = []
        for group in range(num_groups):
            tables = block_tables if num_groups == 1 else [table[group::num_groups] for table in block_tables]
            layout = StepLayout(batch.lengths, batch.starts, tables, slots[group], last)
            metadata.append(self.attention.prepare(layout, self.cache))
        return token_ids, positions, last_rows, tuple(metadata)

    def _sample(
        self, logits: Tensor, batch: StepBatch, states: Sequence[RowState]
    ) -> tuple[Tensor, list[TokenLogprobs | None] | None]:
        """Draw a token per row of `logits`, and look up its log-probabilities where they are asked for."""
        sampling = [at for at, samples in enumerate(batch.samples) if samples]
        stops = [batch.starts[at] + batch.lengths[at] for at in sampling]
        drawing = [states[at] for at in sampling]
        sampling_batch = SamplingBatch.build(
            [state.params for state in drawing],
            [state.seed for state in drawing],
            stops,
            self.device,
            [state.history(stop) for state, stop in zip(drawing, stops, strict=True)],
        )
        drawn = draw(self.model, logits, sampling_batch)
        wanted = [state.params.logprobs for state in drawing]
        if all(count is None for count in wanted):
            return drawn, None
        found = logprobs(self.model.gathered(logits), drawn, wanted)
        return drawn, [None if row is None else TokenLogprobs(*row) for row in found]


def _count_tokens(batch: StepBatch, states: Sequence[RowState]) -> None:
    """Add the step's tokens to the histories that penalties read."""
    if not any(state.counts_tokens for state in states):
        return
    first = 0
    for state, start, length in zip(states, batch.starts, batch.lengths, strict=True):
        if state.counts_tokens:
            state.count_tokens(start, batch.token_ids[first : first + length])
        first += length


def _decode_step(batch: StepBatch, step: int) -> StepBatch:
    """Return one decode step of a batch of several. The batch's changes to rows must be applied already."""
    return structs.replace(
        batch,
        starts=[start + step for start in batch.starts],
        lengths=[1] * len(batch.rows),
        token_ids=batch.token_ids if step == 0 else [PENDING] * len(batch.rows),
        decode_steps=1,
        block_copies=batch.block_copies if step == 0 else [],
    )
