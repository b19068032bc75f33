"""Benchmark results of the scripted engine, whose decode steps take given times."""

from typing import Any

import msgspec
from scripted import ScriptedEngine

from roseinfer.bench.cell_measurement import measure_cell
from roseinfer.bench.grid import Cell
from roseinfer.bench.results import BenchResults, BenchRun, Environment, bench_run
from roseinfer.config import EngineConfig, SamplingParams, WorkloadConfig
from roseinfer.costs.ceilings import Ceilings
from roseinfer.workload.provenance import ModelInfo, current_versions


def drawn(**workload: Any) -> WorkloadConfig:
    return WorkloadConfig(**{"prompt_length": 4, "num_requests": 1, **workload})


CELL = Cell(
    name="online", mode="online", max_batch_size=1, workload=drawn(), sampling=SamplingParams(max_new_tokens=11)
)
"""Configuration that `results` measures."""


def results(decode_s: list[float], name: str = "online", new_tokens: int = 11, **workload: Any) -> BenchResults:
    """Return the results of an engine whose decode step takes another time in each repeat."""
    times = iter([decode_s[0], *decode_s])

    class Drifting(ScriptedEngine):
        def scheduler(self, mode: Any) -> Any:
            self.decode_s = next(times)
            return super().scheduler(mode)

    engine = Drifting(token_s=1e-9)
    cell = msgspec.structs.replace(
        CELL, name=name, workload=drawn(**workload), sampling=SamplingParams(max_new_tokens=new_tokens)
    )
    measured = measure_cell(engine.as_engine, cell, repeats=len(decode_s), clock=engine.clock)
    run: BenchRun = bench_run(measured, Ceilings(1e9, 1e9), startup_s=0.0)
    return BenchResults(
        environment=Environment(versions=current_versions(), device="d", threads=1, ceilings=Ceilings(1e9, 1e9)),
        model=ModelInfo("m", "gpt2", 1, "float32"),
        engine=EngineConfig(),
        runs=[run],
    )
