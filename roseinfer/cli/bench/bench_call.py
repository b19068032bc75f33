"""The options of one call of `bench`, checked before anything is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from roseinfer.cli.bench.result_plot import check_plot
from roseinfer.cli.ray_options import check_actors
from roseinfer.config import RunConfig
from roseinfer.errors import UsageError
from roseinfer.whole_file import check_target

if TYPE_CHECKING:
    from roseinfer.bench.slo_search import Parameter

FORMATS = ("table", "md", "csv", "json", "jsonl")


class BenchCall(msgspec.Struct, frozen=True, kw_only=True):
    """Options of `bench` as typed: lists such as `1,4,16` and limits such as `5%` are still text."""

    config: RunConfig
    mode: str | None
    max_batch_size: str | None
    prompt_length: str | None
    max_new_tokens: str | None
    request_rate: str | None
    repeats: int
    data_parallel: int
    slo: str | None
    find_max_batch: bool
    find_max_rate: bool
    baseline: Path | None
    fail_above: str | None
    format: str | None
    json: bool
    plot: Path | None
    save_requests: Path | None
    ray: str | None
    """Address of the Ray cluster to measure, `local` for one on this machine; None without Ray."""
    actors: int | None
    """Engines on the Ray cluster; None for as many as it has GPUs for."""
    started_s: float
    """Time at which the command started, by `time.perf_counter`."""

    @property
    def result_format(self) -> str:
        """The format of the printed results, one of FORMATS."""
        return "json" if self.json else self.format or "table"

    @property
    def searched(self) -> "Parameter | None":
        """The parameter whose largest value is searched for; None without a search."""
        return "max_batch_size" if self.find_max_batch else "request_rate" if self.find_max_rate else None

    def check(self) -> None:
        """Raise UsageError for options that are invalid together."""
        if self.format is not None and self.format not in FORMATS:
            raise UsageError(
                f"invalid --format {self.format!r}: give one of {', '.join(FORMATS)}; "
                "results go to stdout: write them to a file with > FILE"
            )
        if self.json and self.format not in (None, "json"):
            raise UsageError(f"--json and --format {self.format} are two formats: choose one")
        if self.searched is not None:
            self._check_search()
        if self.fail_above is not None and self.baseline is None:
            raise UsageError("--fail-above needs a --baseline to compare with")
        if self.plot is not None:
            check_plot(self.plot)
        if self.save_requests is not None:
            check_target(self.save_requests, "--save-requests")

    def check_ray(self, num_cells: int) -> None:
        """Raise UsageError for what a measurement on Ray does not do. `num_cells` is the number of configurations."""
        check_actors(self.ray, self.actors)
        if self.ray is None:
            return
        given = {
            "--slo": self.slo,
            "--baseline": self.baseline,
            "--plot": self.plot,
            "--save-requests": self.save_requests,
        }
        if refused := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{refused[0]} is for one engine, and --ray measures a job of several: drop one")
        if self.result_format not in ("table", "json"):
            raise UsageError(f"--format {self.result_format} is not for --ray: give table or json")
        if num_cells > 1:
            raise UsageError("--ray measures one configuration: give one value of each option")

    def _check_search(self) -> None:
        if self.data_parallel > 1:
            raise UsageError("a search runs on one engine: leave --data-parallel out")
        if self.find_max_batch and self.find_max_rate:
            raise UsageError("--find-max-batch and --find-max-rate are two searches: choose one")
        if self.slo is None:
            raise UsageError("a search needs an objective to meet: give --slo ttft=200ms,tpot=20ms")
        if self.mode == "all":
            raise UsageError("a search runs in one mode: give --mode online or --mode offline")
        if self.find_max_rate and self.request_rate is not None:
            raise UsageError("--find-max-rate tries request rates itself: leave --request-rate out")
        if self.fail_above is not None:
            raise UsageError(
                "--fail-above compares runs of one load, and a search changes the load: leave --fail-above out"
            )
