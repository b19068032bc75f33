"""What `bench --json` prints."""

from collections.abc import Callable, Sequence

import msgspec

from roseinfer.bench.metrics import (
    DecodeSpeed,
    Latency,
    PrefillSpeed,
    Spread,
    decode_speed,
    e2e_s,
    itl_s,
    latency,
    prefill_speed,
    spread,
    tpot_s,
    ttft_s,
)
from roseinfer.config import EngineConfig, Mode, SamplingParams, WorkloadConfig
from roseinfer.engine.request import RequestOutput
from roseinfer.workload.provenance import ModelInfo, Versions
from roseinfer.workload.report import Report
from roseinfer.workload.run import WorkloadResult

SCHEMA_VERSION = 1


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured."""

    versions: Versions
    device: str
    threads: int
    """CPU threads that torch computes with."""


class Elapsed(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds inside `submit`, outside it, and together."""

    add: float
    run: float
    total: float


class BenchRun(msgspec.Struct, frozen=True, kw_only=True):
    """One mode's figures. Counts and `elapsed_s` are of the repeat with the median time; latencies are over all."""

    name: str
    mode: Mode
    workload: WorkloadConfig
    sampling: SamplingParams
    seed: int
    repeats: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    elapsed_s: Elapsed
    completion_tokens_per_s: Spread
    total_tokens_per_s: Spread
    ttft_ms: Latency | None
    itl_ms: Latency | None
    tpot_ms: Latency | None
    e2e_ms: Latency | None
    decode: DecodeSpeed | None
    prefill: PrefillSpeed | None
    preemptions: int


class BenchResults(msgspec.Struct, frozen=True, kw_only=True):
    """The document."""

    schema_version: int = SCHEMA_VERSION
    environment: Environment
    model: ModelInfo
    engine: EngineConfig
    runs: list[BenchRun]


def median_report(results: Sequence[WorkloadResult]) -> Report:
    """The report of the repeat with the median total time, the faster of the two middle ones."""
    reports = sorted((Report.of(result) for result in results), key=lambda report: report.elapsed_total_s)
    return reports[(len(reports) - 1) // 2]


def bench_run(
    name: str, workload: WorkloadConfig, sampling: SamplingParams, seed: int, results: Sequence[WorkloadResult]
) -> BenchRun:
    """One mode's figures out of its repeats."""
    report = median_report(results)
    reports = [Report.of(result) for result in results]
    outputs = [output for result in results for output in result.outputs]

    def over_requests(durations_s: Callable[[RequestOutput], list[float]]) -> Latency | None:
        return latency([value for output in outputs for value in durations_s(output)])

    return BenchRun(
        name=name,
        mode=report.mode,
        workload=msgspec.structs.replace(workload, mode=report.mode),
        sampling=sampling,
        seed=seed,
        repeats=len(results),
        requests=report.requests,
        prompt_tokens=report.prompt_tokens,
        completion_tokens=report.completion_tokens,
        total_tokens=report.total_tokens,
        elapsed_s=Elapsed(add=report.elapsed_add_s, run=report.elapsed_run_s, total=report.elapsed_total_s),
        completion_tokens_per_s=spread([each.completion_tokens_per_s for each in reports]),
        total_tokens_per_s=spread([each.total_tokens_per_s for each in reports]),
        ttft_ms=over_requests(ttft_s),
        itl_ms=over_requests(itl_s),
        tpot_ms=over_requests(tpot_s),
        e2e_ms=over_requests(e2e_s),
        decode=decode_speed(results),
        prefill=prefill_speed(results),
        preemptions=sum(result.preemptions for result in results),
    )
