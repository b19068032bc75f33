"""Benchmark results as CSV."""

import csv
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roseinfer.bench.results import BenchResults, BenchRun

_LATENCY_PARTS = ("mean", "p50", "p90", "p99")


def csv_text(results: "BenchResults") -> str:
    """Return CSV with a line per run and a column per figure."""
    lines = [_flat(results, run) for run in results.runs]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _flat(results: "BenchResults", run: "BenchRun") -> dict[str, object]:
    fields: dict[str, object] = {
        "name": run.name,
        "model": results.model.name,
        "dtype": results.model.dtype,
        "device": results.environment.device,
        "mode": run.mode,
        "max_batch_size": run.max_batch_size,
        "prompt_length": run.workload.prompt_length,
        "completion_length": run.workload.completion_length or run.sampling.max_new_tokens,
        "request_rate": run.workload.request_rate,
        "engines": run.num_engines,
        "repeats": run.repeats,
        "requests": run.requests,
        "prompt_tokens": run.prompt_tokens,
        "completion_tokens": run.completion_tokens,
        "elapsed_add_s": run.elapsed_s.add,
        "elapsed_run_s": run.elapsed_s.run,
        "elapsed_total_s": run.elapsed_s.total,
    }
    for name in ("requests_per_s", "completion_tokens_per_s", "total_tokens_per_s"):
        rate = getattr(run, name)
        fields |= {name: rate.mean, f"{name}_median": rate.median, f"{name}_std": rate.std}
    for name in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"):
        latency = getattr(run, name)
        for part in _LATENCY_PARTS:
            fields[f"{name}_{part}"] = None if latency is None else getattr(latency, part)
    decode, prefill, goodput = run.decode, run.prefill, run.goodput
    return fields | {
        "speedup_over_one_engine": run.data_parallel and run.data_parallel.speedup,
        "decode_step_ms": decode and decode.median_step_ms,
        "decode_tokens_per_s": decode and decode.tokens_per_s,
        "mbu_percent": decode and decode.mbu_percent,
        "prefill_tokens_per_s": prefill and prefill.tokens_per_s,
        "mfu_percent": prefill and prefill.mfu_percent,
        "goodput_requests_per_s": goodput and goodput.requests_per_s,
        "goodput_met_percent": goodput and goodput.met_percent,
        "prefix_cache_hit_percent": run.prefix_cache_hit_percent,
        "preemptions": run.preemptions,
        "peak_memory_bytes": run.peak_memory_bytes,
        "startup_s": run.startup_s,
    }
