"""Measure one configuration of a benchmark: its warm-up and its timed repeats."""

from collections.abc import Sequence

import msgspec

from roseinfer.bench.engine_team import EngineTeam
from roseinfer.bench.grid import Cell, with_batch_limit
from roseinfer.bench.peak_memory import peak_memory_bytes
from roseinfer.bench.protocol import measure
from roseinfer.bench.request_figures import RequestFigures, request_figures
from roseinfer.config import Mode, SamplingParams, WorkloadConfig
from roseinfer.engine.engine import Engine
from roseinfer.models.expert_use import ExpertBalance
from roseinfer.progress import StageCallback
from roseinfer.workload.clock import WALL_CLOCK, Clock
from roseinfer.workload.dealing import encoded_load
from roseinfer.workload.host_use import HostUse, measured_host
from roseinfer.workload.load_plan import PlannedRequest, plan_load
from roseinfer.workload.load_runner import WorkloadResult


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Raw results of one configuration's measurement."""

    name: str
    mode: Mode
    max_batch_size: int
    workload: WorkloadConfig
    sampling: SamplingParams
    seed: int
    results: Sequence[WorkloadResult]
    peak_memory_bytes: int
    experts: ExpertBalance | None = None
    """How evenly tokens of the warm-up used the experts; None for a model without experts."""
    host: HostUse | None = None
    """Cores used, and disturbance by other programs, over warm-up and repeats."""
    num_engines: int = 1
    """Engines that shared the load."""
    alone: Sequence[WorkloadResult] = ()
    """Results of one of several engines with the whole load."""

    @property
    def figures(self) -> list[RequestFigures]:
        """Request figures of all repeats."""
        return [each for repeat, result in enumerate(self.results) for each in request_figures(result, repeat)]


def measure_cell(
    engine: Engine,
    cell: Cell,
    *,
    repeats: int,
    on_stage: StageCallback | None = None,
    clock: Clock = WALL_CLOCK,
    team: EngineTeam | None = None,
) -> Measured:
    """Measure one configuration. `on_stage` is called before the warm-up and before each repeat.

    With a `team`, whose first engine is `engine`, the load runs on `engine` alone first, then on all engines.
    """
    limited = with_batch_limit(engine, cell.max_batch_size)
    load: Sequence[PlannedRequest] = plan_load(cell.workload, cell.sampling, limited)
    alone: list[WorkloadResult] = []
    if team is not None:
        load = encoded_load(load, limited)
        alone = measure(limited, cell.mode, load, repeats=repeats, on_stage=on_stage, clock=clock)
    with measured_host() as host:
        results = measure(limited, cell.mode, load, repeats=repeats, on_stage=on_stage, clock=clock, team=team)
    return Measured(
        name=cell.name,
        mode=cell.mode,
        max_batch_size=limited.limits.max_batch_size,
        workload=cell.workload,
        sampling=cell.sampling,
        seed=engine.config.seed,
        results=results,
        peak_memory_bytes=peak_memory_bytes(engine.runner.device),
        experts=limited.expert_use.balance,
        host=host.use(),
        num_engines=1 if team is None else team.size,
        alone=alone,
    )
