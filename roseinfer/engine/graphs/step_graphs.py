"""Steps as CUDA graphs: model and sampling in one replay.

A graph is captured for each of a few sizes and ways to sample; a smaller step runs in the next larger graph, its
padding rows writing to a block that no request has. Replays of one launch follow each other without the host.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from roseinfer.attention.backend import AttentionBackend
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.engine.graphs.decode_steps import DecodeSteps
from roseinfer.engine.graphs.graph_key import GraphKey
from roseinfer.engine.graphs.mixed_steps import MAX_PROMPTS, MixedSteps
from roseinfer.engine.graphs.static_inputs import StaticBlockTables
from roseinfer.engine.launch import Drawn
from roseinfer.engine.planner import StepPlan
from roseinfer.models.causal_lm import CausalLM


class _Steps(Protocol):
    """Steps of one form, whose inputs and results lie at fixed addresses."""

    @property
    def newest(self) -> Tensor: ...

    def drawn(self, steps: int) -> Tensor: ...

    def key_of(self, plan: StepPlan) -> GraphKey | None: ...

    def prepare(self, plan: StepPlan, key: GraphKey, before: Drawn) -> None: ...

    def pad(self, key: GraphKey) -> None: ...

    def step(self, key: GraphKey) -> None: ...


class StepGraphs:
    """Captures graphs when plans need them, and replays them from then on."""

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
        """`max_blocks` is the length of the longest block table, `scrap_block` a block that no request has."""
        self.max_steps = max_steps
        device = cache.data.device
        tables, prompt_tables = (
            StaticBlockTables(rows, max_blocks, scrap_block, device) for rows in (max_batch_size, MAX_PROMPTS)
        )
        shared = (model, cache, attention, tables)
        self._decode = DecodeSteps(*shared, max_batch_size=max_batch_size, max_steps=max_steps)
        self._mixed = MixedSteps(
            *shared, prompt_tables, max_batch_size=max_batch_size, padding_slot=scrap_block * cache.block_size
        )
        self._graphs: dict[GraphKey, torch.cuda.CUDAGraph] = {}
        self._wanted: dict[GraphKey, None] = {}  # in order
        self._pool: Any = None  # torch's type for it has no public name
        self._prepared: tuple[GraphKey, int] | None = None

    @property
    def captured(self) -> list[GraphKey]:
        """What there are graphs for so far."""
        return list(self._graphs)

    def key_of(self, plan: StepPlan) -> GraphKey | None:
        """The graph for a plan, captured or not; None where none can be."""
        return self._decode.key_of(plan) or self._mixed.key_of(plan)

    def wants(self, key: GraphKey) -> bool:
        """Whether to run a plan by its graph now; to be asked once a plan.

        A capture costs several times what the step costs launch by launch. Decodes of a size come again at once;
        other steps get a graph when they have come before.
        """
        is_first = key not in self._wanted
        self._wanted[key] = None
        return key.tokens == 0 or not is_first

    @property
    def missing(self) -> list[GraphKey]:
        """What was asked for and has no graph yet."""
        return [key for key in self._wanted if key not in self._graphs]

    def is_captured(self, key: GraphKey) -> bool:
        """Whether there is a graph."""
        return key in self._graphs

    @torch.inference_mode()
    def capture(self, key: GraphKey) -> None:
        """Make a graph. `newest` is lost."""
        self._graphs[key] = self._capture(key)

    @torch.inference_mode()
    def capture_again(self) -> None:
        """Replace every graph: a profiler may not see into those captured before its first session."""
        keys = self.captured
        self._graphs.clear()
        self._pool = None  # it ended with its last graph
        for key in keys:
            self._graphs[key] = self._capture(key)

    @torch.inference_mode()
    def rehearse(self, key: GraphKey, *, replay: bool) -> None:
        """One step of padding rows alone, by the graph or launch by launch; to be called between requests.

        It touches no request's blocks, and what runs afterwards brings its own rows.
        """
        steps = self._steps(key)
        steps.pad(key)
        if replay:
            self._graphs[key].replay()
        else:
            steps.step(key)

    @property
    def newest(self) -> Tensor:
        """The tokens that the last launch leaves for the next one, [rows or more], in the order of its plan.

        A view: what is next prepared, launched or captured may overwrite them.
        """
        assert self._prepared is not None
        return self._steps(self._prepared[0]).newest

    def prepare(self, plan: StepPlan, key: GraphKey, before: Drawn) -> None:
        """Bring the inputs of a plan, whose graph is captured; `before` is what the step before the plan draws."""
        self._steps(key).prepare(plan, key, before)
        self._prepared = key, plan.decode_steps

    def launch(self) -> Tensor:
        """Replay as often as the prepared plan says; what that draws: [decode steps, rows or more]."""
        assert self._prepared is not None
        key, count = self._prepared
        for _ in range(count):
            self._graphs[key].replay()
        return self._steps(key).drawn(count)

    def _steps(self, key: GraphKey) -> _Steps:
        return self._decode if key.tokens == 0 else self._mixed

    def _capture(self, key: GraphKey) -> torch.cuda.CUDAGraph:
        """The graph of a step, which runs on padding rows meanwhile."""
        steps = self._steps(key)
        steps.pad(key)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # what runs for the first time compiles and allocates, which a capture must not
                steps.step(key)
                steps.pad(key)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            steps.step(key)
        self._pool = self._pool or graph.pool()
        return graph
