"""The document that `bench --json` prints, and its computation from measured passes."""

from collections.abc import Sequence
from statistics import median

import msgspec

from roseinfer.bench.cell_measurement import Measured
from roseinfer.bench.metrics import (
    DecodeSpeed,
    Latency,
    PrefillSpeed,
    Spread,
    decode_speed,
    e2e,
    itl,
    outliers,
    prefill_speed,
    spread,
    steps_of,
    tokens_per_s,
    tpot,
    ttft,
)
from roseinfer.bench.protocol import WARM_UP_PASSES
from roseinfer.bench.request_figures import request_figures
from roseinfer.bench.slo import Goodput, Slo, goodput
from roseinfer.config import EngineConfig, Mode, SamplingParams, WorkloadConfig
from roseinfer.costs.ceilings import Ceilings
from roseinfer.engine.limits import StepLimits
from roseinfer.models.expert_use import ExpertBalance
from roseinfer.notebook import notebook_html, short_repr
from roseinfer.workload.host_use import HostUse
from roseinfer.workload.load_runner import WorkloadResult
from roseinfer.workload.pass_report import Report
from roseinfer.workload.provenance import ModelInfo, Versions

SCHEMA_VERSION = 1


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Software and device of a measurement."""

    versions: Versions
    device: str
    threads: int
    """Number of CPU threads that torch uses."""
    ceilings: Ceilings
    """Measured peak rates of the device."""
    measured_at: str | None = None
    """Time at which the measurement ended, in UTC and ISO 8601; None in a result older than this field."""


class Elapsed(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds inside `submit` calls (add), outside them (run), and in total."""

    add: float
    run: float
    total: float


class RepeatFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one timed pass. Latencies are medians over its requests. A figure without data is None."""

    elapsed_s: float
    completion_tokens_per_s: float
    ttft_ms: float | None
    tpot_ms: float | None
    decode_step_ms: float | None
    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """Value that a search tried, with its outcome."""

    value: float
    met_percent: float
    requests_per_s: float | None = None
    """Requests served per second in the last pass at this value; None in a result older than this field."""


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """Search that found the run's batch limit or request rate."""

    parameter: str
    """Searched parameter: max_batch_size or request_rate."""
    found: float
    trials: list[Trial]
    load_too_short: bool = False
    """True if a rate search ended because most of a pass ran after the last arrival.

    Larger rates may then meet the objective too; a load with more requests gives a tighter answer.
    """


class DataParallel(msgspec.Struct, frozen=True, kw_only=True):
    """Several engines that shared the load of a run, compared with one of them."""

    engines: int
    alone: Spread
    """Completion tokens per second of one engine with the whole load."""
    speedup: float
    """Completion tokens per second of all engines, divided by those of one. Means over the repeats."""


class BenchRun(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one measured configuration.

    Counts and `elapsed_s` are from the repeat with the median time. Latencies are over the requests of all repeats.
    """

    name: str
    mode: Mode
    max_batch_size: int
    workload: WorkloadConfig
    sampling: SamplingParams
    seed: int
    warmup: int
    repeats: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    elapsed_s: Elapsed
    completion_tokens_per_s: Spread
    total_tokens_per_s: Spread
    requests_per_s: Spread | None = None
    """Requests served per second; None in a result older than this field."""
    ttft_ms: Latency | None
    itl_ms: Latency | None
    tpot_ms: Latency | None
    e2e_ms: Latency | None
    decode: DecodeSpeed | None
    prefill: PrefillSpeed | None
    goodput: Goodput | None
    prefix_cache_hit_percent: float
    preemptions: int
    """Preemptions, summed over all repeats."""
    peak_memory_bytes: int
    startup_s: float
    """Time from the start of the command to a loaded engine."""
    per_repeat: list[RepeatFigures]
    outliers: list[int]
    """Indexes of repeats, counted from 0, whose time is an outlier among the repeats."""
    search: Search | None = None
    host: HostUse | None = None
    """Cores used, and disturbance by other programs, over warm-up and repeats; None in an older result."""
    data_parallel: DataParallel | None = None
    """Comparison with one engine, of a run with --data-parallel. Rates of decode and prefill are per engine."""
    experts: ExpertBalance | None = None
    """How evenly tokens used the experts, by which MBU counts the experts of a step; None: unknown, or no experts."""

    @property
    def num_engines(self) -> int:
        """Engines that shared the load."""
        return 1 if self.data_parallel is None else self.data_parallel.engines

    @property
    def is_beyond_ceilings(self) -> bool:
        """True if the steps were faster than the device's measured rates allow."""
        mbu = self.decode.mbu_percent if self.decode is not None else 0.0
        mfu = self.prefill.mfu_percent if self.prefill is not None else 0.0
        return max(mbu, mfu) > 100


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Change of one figure of one run. `before` and `after` are means over the repeats."""

    run: str
    metric: str
    before: float
    after: float
    change_percent: float
    """Change in percent of the older value."""
    worse_percent: float
    """Change for the worse, in percent of the older value; negative for an improvement."""
    noise_percent: float | None
    """Twice the standard error of the difference; a smaller change may be chance. None if a side has one repeat."""

    def is_regression(self, limit_percent: float) -> bool:
        """True if the figure is worse by more than the limit and, if the noise is known, by more than the noise."""
        return self.worse_percent > max(limit_percent, self.noise_percent or 0.0)


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison of these results with an older document."""

    baseline: str
    """Path of the older document."""
    differences: list[str]
    """Differences in device, versions, model, engine settings or workload, one line each."""
    changes: list[Change]
    limit_percent: float | None
    """Limit given by `--fail-above`."""
    regressed: bool
    """True if a figure is worse by more than the limit and the noise."""

    def __repr__(self) -> str:
        """Return one line with the baseline."""
        counts = f"{len(self.changes)} figures, {'regressed' if self.regressed else 'no regression'}"
        return short_repr("Comparison", counts, self.baseline)

    def _repr_html_(self) -> str:
        return notebook_html(self)


class BenchResults(msgspec.Struct, frozen=True, kw_only=True):
    """The document that `bench --json` prints."""

    schema_version: int = SCHEMA_VERSION
    environment: Environment
    model: ModelInfo
    engine: EngineConfig
    """Settings of the built engine. A run's own `max_batch_size` may be smaller."""
    limits: StepLimits | None = None
    """Limits of a step of the built engine, set or following the device. None in a result older than this field."""
    runs: list[BenchRun]
    comparison: Comparison | None = None
    """Comparison with `--baseline`, if that is given."""

    def __repr__(self) -> str:
        """Return one line with model, device and number of runs."""
        runs = f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}"
        return short_repr("BenchResults", runs, f"{self.model.name} on {self.environment.device}")

    def _repr_html_(self) -> str:
        return notebook_html(self)


def median_report(results: Sequence[WorkloadResult]) -> Report:
    """Return the report of the repeat with the median total time; of two middle ones, the faster."""
    reports = sorted((Report.of(result) for result in results), key=lambda report: report.elapsed_total_s)
    return reports[(len(reports) - 1) // 2]


def bench_run(
    measured: Measured, ceilings: Ceilings, *, startup_s: float, slo: Slo | None = None, search: Search | None = None
) -> BenchRun:
    """Compute the figures of one configuration from its measured repeats."""
    results, figures = measured.results, measured.figures
    report = median_report(results)
    reports = [Report.of(result) for result in results]
    total_s = [each.elapsed_total_s for each in reports]
    queried = sum(result.queried_tokens for result in results)
    return BenchRun(
        name=measured.name,
        mode=report.mode,
        max_batch_size=measured.max_batch_size,
        workload=msgspec.structs.replace(measured.workload, mode=report.mode),
        sampling=measured.sampling,
        seed=measured.seed,
        warmup=WARM_UP_PASSES,
        repeats=len(results),
        requests=report.requests,
        prompt_tokens=report.prompt_tokens,
        completion_tokens=report.completion_tokens,
        total_tokens=report.total_tokens,
        elapsed_s=Elapsed(add=report.elapsed_add_s, run=report.elapsed_run_s, total=report.elapsed_total_s),
        completion_tokens_per_s=spread([each.completion_tokens_per_s for each in reports]),
        total_tokens_per_s=spread([each.total_tokens_per_s for each in reports]),
        requests_per_s=spread([each.requests_per_s for each in reports]),
        ttft_ms=ttft(figures),
        itl_ms=itl(figures),
        tpot_ms=tpot(figures),
        e2e_ms=e2e(figures),
        decode=decode_speed(results, ceilings),
        prefill=prefill_speed(results, ceilings),
        goodput=None if slo is None else goodput(slo, figures, sum(total_s)),
        prefix_cache_hit_percent=100 * sum(result.cached_tokens for result in results) / max(queried, 1),
        preemptions=sum(result.preemptions for result in results),
        peak_memory_bytes=measured.peak_memory_bytes,
        startup_s=startup_s,
        per_repeat=[_repeat(result, repeat) for repeat, result in enumerate(results)],
        outliers=outliers(total_s),
        search=search,
        host=measured.host,
        data_parallel=_data_parallel(measured, reports),
        experts=measured.experts,
    )


def _data_parallel(measured: Measured, reports: Sequence[Report]) -> DataParallel | None:
    if not measured.alone:
        return None
    alone = spread([Report.of(result).completion_tokens_per_s for result in measured.alone])
    together = spread([report.completion_tokens_per_s for report in reports])
    return DataParallel(engines=measured.num_engines, alone=alone, speedup=together.mean / alone.mean)


def _repeat(result: WorkloadResult, repeat: int) -> RepeatFigures:
    report, figures = Report.of(result), request_figures(result, repeat)
    first, gap = ttft(figures), tpot(figures)
    prefill, decode = steps_of([result], "prefill"), steps_of([result], "decode")
    return RepeatFigures(
        elapsed_s=report.elapsed_total_s,
        completion_tokens_per_s=report.completion_tokens_per_s,
        ttft_ms=None if first is None else first.p50,
        tpot_ms=None if gap is None else gap.p50,
        decode_step_ms=median(step.wall_ms * step.batch / step.tokens for step in decode) if decode else None,
        prefill_tokens_per_s=tokens_per_s(prefill) if prefill else None,
        decode_tokens_per_s=tokens_per_s(decode) if decode else None,
    )
