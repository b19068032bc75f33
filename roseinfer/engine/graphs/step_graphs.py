"""Steps as CUDA graphs: model and sampling in one replay.

Graphs are captured for a few sizes and kinds of sampling. A smaller step runs in the next larger graph, whose padding
rows write to a scrap block that no request has. Replays of one launch follow each other without the host.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from roseinfer.attention.backend import AttentionBackend
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.engine.graph_sizes import MAX_PROMPTS, MIXED_TOKENS, GraphKey, GraphSizes
from roseinfer.engine.graphs.decode_steps import DecodeSteps
from roseinfer.engine.graphs.mixed_steps import MixedSteps
from roseinfer.engine.graphs.static_inputs import StaticBlockTables
from roseinfer.engine.launch import DrawnTokens
from roseinfer.engine.row_state import RowState
from roseinfer.engine.step_batch import StepBatch
from roseinfer.kernels.sampling.draw_top_k import MAX_TOP_K
from roseinfer.models.causal_lm import CausalLM

_BATCHES_BETWEEN_PROMPTS = 8
"""Minimum batches from one capture of a long step with prompts to the next: each is a stall."""

_BATCHES_BETWEEN_DECODES = 64
"""Minimum batches from the capture of one decode to that of the next, while a larger graph can run the batch."""

_SMALL_BATCH = 8
"""Requests up to which every decode size is captured at once: there are few such sizes."""


class _CapturedSteps(Protocol):
    """Steps of one kind, decode or mixed, with inputs and results at fixed addresses."""

    @property
    def newest(self) -> Tensor: ...

    def drawn(self, steps: int) -> Tensor: ...

    def prepare(self, batch: StepBatch, states: Sequence[RowState], key: GraphKey, before: DrawnTokens) -> None: ...

    def pad(self, key: GraphKey) -> None: ...

    def step(self, key: GraphKey) -> None: ...


class StepGraphs:
    """Captures graphs when batches need them, and replays them from then on."""

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
        """`max_blocks` is the number of blocks of the longest request in one group of layers; `scrap_block` is a block
        that no request has.
        """
        self.max_steps = max_steps
        self.sizes = GraphSizes(
            max_batch_size,
            MAX_TOP_K,
            num_parameters=sum(weight.numel() for name, weight in model.named_parameters() if "layers." in name)
            - model.config.idle_parameters,
            max_context=max_blocks * cache.block_size,
        )
        """Sizes of steps that can be captured."""
        device = cache.data.device
        tables, prompt_tables = (
            StaticBlockTables(rows, max_blocks, scrap_block, device, cache.num_groups)
            for rows in (max_batch_size, MAX_PROMPTS)
        )
        shared = (model, cache, attention, tables)
        self._decode = DecodeSteps(*shared, max_batch_size=max_batch_size, max_steps=max_steps)
        self._mixed = MixedSteps(*shared, prompt_tables, sizes=self.sizes, padding_slot=scrap_block * cache.block_size)
        self._graphs: dict[GraphKey, torch.cuda.CUDAGraph] = {}
        self._wanted: dict[GraphKey, None] = {}  # in order
        self._until_next_prompt = 0  # batches until a graph of a long step with prompts may be captured
        self._until_next_decode = 0  # batches until a graph of a decode may be captured that a larger one can replace
        self._pool: Any = None  # torch's type for it has no public name
        self._prepared: tuple[GraphKey, int] | None = None
        self._error_mode = "global" if model.ranks is None else "thread_local"

    @property
    def captured(self) -> list[GraphKey]:
        """Keys of all captured graphs."""
        return list(self._graphs)

    @property
    def num_captured(self) -> int:
        """Number of captured graphs."""
        return len(self._graphs)

    def wants(self, key: GraphKey) -> bool:
        """Decide whether a batch should run by its graph. Call exactly once per batch: the calls are counted.

        A capture costs several times as much as the step launched operator by operator. A decode of the same size
        usually follows at once, so decodes are captured immediately; other steps only when their key occurs again.
        Long steps of many sizes may follow one another: their captures are spread over batches.
        """
        is_first = key not in self._wanted
        self._wanted[key] = None
        self._until_next_prompt -= 1
        self._until_next_decode -= 1
        if key in self._graphs or key.tokens == 0:
            return True
        if is_first:
            return False
        if key.tokens > MIXED_TOKENS:
            if self._until_next_prompt > 0:
                return False
            self._until_next_prompt = _BATCHES_BETWEEN_PROMPTS
        return True

    def substitute(self, key: GraphKey) -> GraphKey:
        """Return the key of the graph to run a batch with: `key`, or that of a larger decode while `key` has no graph.

        While a server fills up, every few requests need another size, and each capture is a stall. So a size that is
        new is captured for the next power of two first, and for itself some batches later.
        """
        if key.tokens or key.rows <= _SMALL_BATCH or key in self._graphs:
            return key
        power = 1 << (key.rows - 1).bit_length()
        sizes = [key._replace(rows=rows) for rows in self.sizes.batch_sizes if rows >= key.rows]
        larger = next((each for each in sizes if each.rows <= power and each in self._graphs), None)
        if larger is None:
            return next((each for each in sizes if each.rows >= power), sizes[-1])
        return larger if self._until_next_decode > 0 else key

    @property
    def missing(self) -> list[GraphKey]:
        """Keys of graphs that batches needed and that are not captured yet."""
        return [key for key in self._wanted if key not in self._graphs]

    def is_captured(self, key: GraphKey) -> bool:
        """True if the graph exists."""
        return key in self._graphs

    @torch.inference_mode()
    def capture(self, key: GraphKey) -> None:
        """Capture a graph. This overwrites `newest`."""
        self._graphs[key] = self._capture(key)
        if not key.tokens:
            self._until_next_decode = _BATCHES_BETWEEN_DECODES

    @torch.inference_mode()
    def capture_again(self) -> None:
        """Replace every graph: a profiler may not see into graphs captured before its first session."""
        keys = self.captured
        self._graphs.clear()
        self._pool = None  # the memory pool ended with its last graph
        for key in keys:
            self._graphs[key] = self._capture(key)

    @torch.inference_mode()
    def rehearse(self, key: GraphKey, *, replay: bool) -> None:
        """Run one step of padding rows only, as a graph replay or operator by operator. Call it between requests.

        The step touches no request's blocks, and later steps upload their own rows.
        """
        steps = self._steps(key)
        steps.pad(key)
        if replay:
            self._graphs[key].replay()
        else:
            steps.step(key)

    @property
    def newest(self) -> Tensor:
        """Last tokens that the newest launch draws, in batch order: [rows or more].

        The tensor is a view, which the next preparation, launch or capture may overwrite.
        """
        assert self._prepared is not None
        return self._steps(self._prepared[0]).newest

    def prepare(self, batch: StepBatch, states: Sequence[RowState], key: GraphKey, before: DrawnTokens) -> None:
        """Upload the inputs of a batch whose graph is captured. `before` has the tokens the previous step draws."""
        self._steps(key).prepare(batch, states, key, before)
        self._prepared = key, batch.decode_steps

    def launch(self) -> Tensor:
        """Replay the prepared batch's decode steps. Returns the tokens that they draw: [decode steps, rows or more]."""
        assert self._prepared is not None
        key, count = self._prepared
        for _ in range(count):
            self._graphs[key].replay()
        return self._steps(key).drawn(count)

    def _steps(self, key: GraphKey) -> _CapturedSteps:
        return self._decode if key.tokens == 0 else self._mixed

    def _capture(self, key: GraphKey) -> torch.cuda.CUDAGraph:
        """Capture a step while it runs on padding rows."""
        steps = self._steps(key)
        steps.pad(key)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # the first runs compile kernels and allocate memory, which a capture must not
                steps.step(key)
                steps.pad(key)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # With "global", calls of NCCL's thread, which watches the collectives before, would end the capture.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode=self._error_mode):
            steps.step(key)
        self._pool = self._pool or graph.pool()
        return graph
