"""Measure several configurations on one engine, with their progress. After Ctrl-C, report those finished.

Imports torch: only the command imports this module, when it runs.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from roseinfer.bench import cell_measurement
from roseinfer.bench.baseline_comparison import check_comparable
from roseinfer.bench.engine_team import EngineTeam, engine_config
from roseinfer.bench.grid import Cell
from roseinfer.bench.numbers import plain
from roseinfer.bench.results import BenchResults, BenchRun, Environment, Search, Trial, bench_run
from roseinfer.bench.slo import Slo, goodput
from roseinfer.bench.slo_search import find_largest, next_lower
from roseinfer.cli import console
from roseinfer.cli.bench.bench_call import BenchCall
from roseinfer.cli.loading import find_model, load_engine
from roseinfer.costs.ceilings import Ceilings, ceilings
from roseinfer.engine.device import device_name, num_threads
from roseinfer.weights.resolve import ModelSource
from roseinfer.workload.provenance import ModelInfo, current_versions


@dataclass(frozen=True)
class Measurement:
    """The measured configurations and their results."""

    measured: list[cell_measurement.Measured]
    results: BenchResults
    is_interrupted: bool
    """True if Ctrl-C ended the measurement after at least one configuration."""


def measure(call: BenchCall, cells: Sequence[Cell], slo: Slo | None, *, judged_by: BenchResults | None) -> Measurement:
    """Load one engine that is large enough for all `cells`, and measure each of them on it.

    Raises UsageError before the first pass if the baseline `judged_by` measured another model size or load.
    """
    limited = [cell.max_batch_size for cell in cells if cell.max_batch_size is not None]
    largest = max(limited, default=None)
    config, team = msgspec.structs.replace(call.config.engine, max_batch_size=largest), None
    source: ModelSource | None = None
    if call.data_parallel > 1:
        config, source = engine_config(config, call.data_parallel), find_model(config)
        team = EngineTeam(config, source, call.data_parallel)
    engine = load_engine(config, source)
    if team is not None:
        team.wait_until_ready()
    startup_s = time.perf_counter() - call.started_s
    if judged_by is not None:
        check_comparable(judged_by, ModelInfo.of(engine), cells)
    limits = ceilings(engine.runner.device, engine.runner.cache.data.dtype)
    measured: list[cell_measurement.Measured] = []
    searches: list[Search | None] = []
    is_interrupted = False
    for cell in cells:
        try:
            search = None
            if call.searched is not None and slo is not None:
                with console.progress(f"Searching from {cell.name}"):
                    cell, search = find_largest(engine, cell, call.searched, slo, on_trial=_note_trial)
            with console.stages() as stage:
                on_stage = stage and stage.named(f"Measuring {cell.name}{_place(len(measured), len(cells))}")
                while True:
                    result = cell_measurement.measure_cell(
                        engine, cell, repeats=call.repeats, on_stage=on_stage, team=team
                    )
                    if search is None or slo is None:
                        break
                    met_percent = goodput(slo, result.figures, 1.0).met_percent
                    if met_percent >= slo.share_percent:
                        break
                    console.note(f"[bench] {plain(search.found, 4)} met it for {met_percent:.0f} % in the final run")
                    cell, search = next_lower(cell, search, slo, met_percent)
                measured.append(result)
        except KeyboardInterrupt:
            if not measured:
                raise
            is_interrupted = True
            break
        searches.append(search)
    if team is not None:
        team.close()

    def runs_against(limits: Ceilings) -> list[BenchRun]:
        return [
            bench_run(each, limits, startup_s=startup_s, slo=slo, search=search)
            for each, search in zip(measured, searches, strict=True)
        ]

    runs = runs_against(limits)
    if any(run.is_beyond_ceilings for run in runs):
        # The cached ceilings are too low: other work ran on the device when they were measured.
        limits = ceilings(engine.runner.device, engine.runner.cache.data.dtype, fresh=True)
        runs = runs_against(limits)
    environment = Environment(
        versions=current_versions(),
        device=device_name(engine.runner.device),
        threads=num_threads(),
        ceilings=limits,
        measured_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    results = BenchResults(
        environment=environment, model=ModelInfo.of(engine), engine=engine.config, limits=engine.limits, runs=runs
    )
    return Measurement(measured=measured, results=results, is_interrupted=is_interrupted)


def _place(done: int, total: int) -> str:
    return "" if total == 1 else f" ({done + 1} of {total})"


def _note_trial(trial: Trial) -> None:
    served = "" if trial.requests_per_s is None else f", {plain(trial.requests_per_s, 3)} requests/s were served"
    met = f"{trial.met_percent:.0f} % of the requests met the objective"
    console.note(f"[bench] tried {plain(trial.value, 4)}: {met}{served}")
