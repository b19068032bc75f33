"""Recording every rank of an engine: rank 0 tells the others where steps begin and end.

All ranks record by the same schedule into one run directory. `RankProfiles` runs on rank 0; the functions run on the
other ranks, which import them by name.
"""

from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from roseinfer.config import ProfileConfig
from roseinfer.engine.device import device_name
from roseinfer.engine.leading_runner import LeadingRunner
from roseinfer.engine.rank_worker import RankWorker
from roseinfer.engine.runner import Runner
from roseinfer.profiling.graph_maps import GraphMaps
from roseinfer.profiling.recorder import Recorder
from roseinfer.profiling.run_dir import SCHEMA_VERSION, RunManifest, compress, write_json
from roseinfer.profiling.schedule import SCHEDULE_KEYS
from roseinfer.workload.provenance import current_versions

_MAPS, _RECORDER = "graph maps", "recorder"


class RankProfiles:
    """The other ranks of a profiled engine, as rank 0 sees them. For an engine without other ranks, does nothing."""

    def __init__(self, runner: Runner) -> None:
        self._team = runner.team if isinstance(runner, LeadingRunner) else None
        self.world_size = 1 if self._team is None else self._team.size

    def make_graph_maps(self, maps: GraphMaps) -> None:
        """Map the graphs of all ranks, which run the same steps meanwhile."""
        self._call(make_graph_maps)
        maps.make()
        self._wait()

    def open(self, config: ProfileConfig, run_dir: Path) -> None:
        """Let the other ranks record into the run directory of rank 0."""
        self._call(open_recorder, config, str(run_dir.absolute()))
        self._wait()

    def begin_step(self, matches: bool, label: str) -> None:
        """Begin a step on the other ranks as on rank 0. They need not have finished the one before."""
        self._call(begin_step, matches, label, is_answered=False)

    def end_step(self) -> None:
        """End a step on the other ranks."""
        self._call(end_step, is_answered=False)

    def close(self, error: str | None) -> list[str]:
        """End the recording on the other ranks. Returns the names of their traces."""
        self._call(close_recorder, error)
        return [name for names in self._wait() for name in names]

    def _call(self, function: Any, *arguments: Any, is_answered: bool = True) -> None:
        if self._team is not None:
            name = f"{function.__module__}:{function.__name__}"
            self._team.call(name, *arguments, is_answered=is_answered)

    def _wait(self) -> list[Any]:
        return [] if self._team is None else self._team.answers()


def make_graph_maps(worker: RankWorker) -> None:
    """Map the graphs of this rank."""
    graphs = worker.runner.graphs
    if graphs is not None:
        maps = worker.state.setdefault(_MAPS, GraphMaps(graphs, worker.runner.device))
        maps.make()


def open_recorder(worker: RankWorker, fields: dict[str, Any], run_dir: str) -> None:
    """Begin to record this rank by the schedule of a `ProfileConfig` with these fields."""
    config = msgspec.convert(fields, ProfileConfig)
    recorder = Recorder(config, worker.runner.device, Path(run_dir), rank=worker.rank)
    worker.state[_RECORDER] = recorder.__enter__(), config


def begin_step(worker: RankWorker, matches: bool, label: str) -> None:
    """Begin a step of the schedule, whose launch gets a span with this label.

    The step before may still run on the device, as on rank 0: waiting for it would make a GPU idle between the steps.
    """
    recorder, _ = worker.state[_RECORDER]
    recorder.begin_step(matches)
    worker.step_label = label


def end_step(worker: RankWorker) -> None:
    """End a step of the schedule."""
    recorder, _ = worker.state[_RECORDER]
    recorder.end_step()


def close_recorder(worker: RankWorker, error: str | None) -> list[str]:
    """Write this rank's traces and its manifest. Returns the names of the traces."""
    recorder, config = worker.state.pop(_RECORDER)
    worker.read()
    failure = None if error is None else RuntimeError(error)
    recorder.__exit__(None if failure is None else RuntimeError, failure, None)
    folder: Path = recorder.folder
    traces = [compress(folder / cycle.trace, lambda _: None) for cycle in recorder.cycles]
    maps: GraphMaps | None = worker.state.get(_MAPS)
    graphs, warnings = ([], []) if maps is None else maps.all_maps()
    manifest = RunManifest(
        schema_version=SCHEMA_VERSION,
        versions=current_versions(),
        device=device_name(worker.runner.device),
        rank=worker.rank,
        world_size=worker.size,
        config={},
        schedule={key: getattr(config, key) for key in SCHEDULE_KEYS},
        cycles=[replace(cycle, trace=trace.name) for cycle, trace in zip(recorder.cycles, traces, strict=True)],
        traces=[trace.name for trace in traces],
        warnings=warnings,
        graphs=graphs or None,
    )
    write_json(folder / f"rank{worker.rank}-manifest.json", manifest)
    return [trace.name for trace in traces]
