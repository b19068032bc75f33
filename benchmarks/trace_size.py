"""Measure the size of traces: bytes per operator call and per GPU event, with and without CUDA graphs.

    python -m benchmarks.trace_size [--model qwen3-0.6b] [--batch 8]

`roseinfer profile` uses the bytes per operator to warn of a large trace (profiling/estimate.py). This script counts
operators in the same way, over the first steps of a fresh engine. On a CPU the table has one row.
"""

import argparse
import gzip
import tempfile
from pathlib import Path

import msgspec

from roseinfer.config import EngineConfig, ProfileConfig, RunConfig, SamplingParams, WorkloadConfig
from roseinfer.engine.factory import build_engine
from roseinfer.profiling.estimate import OpCounter
from roseinfer.profiling.profile_run import profile_run
from roseinfer.workload.load_plan import at_once
from roseinfer.workload.load_runner import run_load

_COUNTED_STEPS = 3
_ACTIVE = 8


class Row(msgspec.Struct):
    """Figures of one engine's trace of decode steps."""

    name: str
    device: str
    ops_per_step: float
    gpu_events: int
    size_bytes: int

    def line(self) -> str:
        """Return the Markdown row of the table."""
        per_op = self.size_bytes / (self.ops_per_step * _ACTIVE)
        per_event = f"{self.size_bytes / self.gpu_events:,.0f}" if self.gpu_events else ""
        figures = f"{self.ops_per_step:,.0f} | {self.size_bytes / _ACTIVE / 2**20:.2f} | {per_op:,.0f}"
        return f"| {self.name} | {self.device} | {figures} | {self.gpu_events / _ACTIVE:,.0f} | {per_event} |"


def measure(name: str, engine_config: EngineConfig) -> Row:
    """Count the operators per step, profile a few steps, and return the trace's figures."""
    engine = build_engine(engine_config)
    prompts = [list(range(1, 65))] * engine_config.max_batch_size
    params = SamplingParams(max_new_tokens=128, stop_on_eos=False)
    load = at_once(prompts, params)
    steps = 0

    def after_step(_: object) -> bool:
        nonlocal steps
        steps += 1
        return steps < _COUNTED_STEPS

    counter = OpCounter()
    with counter:
        run_load(engine, "online", load, on_step=after_step)
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            engine=engine_config,
            sampling=params,
            workload=WorkloadConfig(mode="online"),
            profile=ProfileConfig(profile_dir=folder, phase="decode", wait=0, active=_ACTIVE),
        )
        session = profile_run(engine, load, config).session
        size = sum(len(gzip.decompress(Path(trace).read_bytes())) for trace in session.traces)
    gpu = session.summary.gpu
    return Row(name, engine.runner.device.type, counter.count / steps, gpu.gpu_events if gpu else 0, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen3-0.6b", help="built-in shape [default: %(default)s]")
    parser.add_argument("--batch", type=int, default=8, help="requests per step [default: %(default)s]")
    arguments = parser.parse_args()
    base = EngineConfig(model=arguments.model, load_format="dummy", max_batch_size=arguments.batch, max_model_len=512)
    rows = [measure("eager", msgspec.structs.replace(base, cuda_graphs=False))]
    if rows[0].device == "cuda":
        one = msgspec.structs.replace(base, max_decode_steps=1)
        rows += [measure("graphs, 1 token per launch", one), measure("graphs", base)]
    print(
        "| decode | device | operators per step | MiB per step | bytes per operator | GPU events per step "
        "| bytes per event |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(row.line())


if __name__ == "__main__":
    main()
