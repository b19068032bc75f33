"""Small traces whose right verdict is known, by the kind of verdict.

Run as a program to write those that docs/verdicts.md shows: `python tests/trace/case_traces.py`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rank_traces import Job, job
from traces import DATA, event, kernel, launch

SHOWN = DATA / "verdicts"
"""Traces that docs/verdicts.md shows."""
Events = list[dict[str, Any]]


class Timeline:
    """Events of one process, with a correlation id for each launch."""

    def __init__(self) -> None:
        self.events: Events = []
        self.correlation = 0

    def span(self, name: str, at: float, us: float, cat: str = "user_annotation") -> None:
        self.events.append(event(cat, name, at, us))

    def op(self, name: str, at: float, us: float) -> None:
        self.events.append(event("cpu_op", name, at, us))

    def call(self, name: str, at: float, us: float) -> int:
        """Add a runtime call; return its correlation id."""
        self.correlation += 1
        self.events.append(launch(at, us, self.correlation, name))
        return self.correlation

    def run(
        self, at: float, start: float, us: float, name: str = "gemm", *, stream: int = 7, call_us: float = 4
    ) -> None:
        """Launch a kernel at `at` that runs from `start`."""
        self.events.append(kernel(start, us, self.call("cudaLaunchKernel", at, call_us), name, stream=stream))

    def copy(self, at: float, start: float, us: float, name: str) -> None:
        """Launch a copy at `at` that runs from `start`."""
        correlation = self.call("cudaMemcpyAsync", at, 4)
        self.events.append(kernel(start, us, correlation, name, cat="gpu_memcpy"))


def slow_operator(queue_us: float = 96) -> Events:
    """One step of 40 ms: an operator on the host for 23 ms, then 16 ms of kernels, the first after `queue_us`."""
    trace = Timeline()
    trace.span("ProfilerStep#3", 0, 40_000)
    trace.op("aten::upsample", 500, 23_000)
    for index in range(16):
        trace.run(23_900 + 10 * index, 23_904 + queue_us + 1000 * index, 1000)
    return trace.events


def launch_bound(steps: int = 3, launches: int = 60) -> Events:
    """Decode steps that launch small kernels one by one, 10 us apart, in a span that repeats two launches."""
    trace = Timeline()
    for step in range(steps):
        begin = step * (10 * launches + 40)
        trace.span("roseinfer.step[decode bs=4 tokens=4]", begin, 10 * launches + 30)
        trace.span("gather_blocks", begin + 5, 10 * launches)
        for index in range(launches):
            at = begin + 10 + 10 * index
            trace.op("aten::copy_", at - 3, 8)
            trace.run(at, at + 5, 2, ("copy_kernel", "fill_kernel")[index % 2])
    return trace.events


def data_loader(loader: str = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__") -> Events:
    """Steps of 20 ms that wait 12 ms for a data loader, and then 0.1 ms for a value."""
    trace = Timeline()
    for step in range(4):
        begin = 20_000 * step
        trace.span(f"ProfilerStep#{step + 2}", begin, 20_000)
        trace.span(loader, begin + 100, 12_000)
        for index in range(7):
            trace.op("aten::mm", begin + 12_200 + 30 * index, 20)
            trace.run(begin + 12_205 + 30 * index, begin + 12_220 + 1000 * index, 1000)
        trace.op("aten::item", begin + 12_500, 6_800)
        trace.call("cudaStreamSynchronize", begin + 12_510, 6_780)
    return trace.events


def data_function() -> Events:
    """Steps of 10 ms in which a Python function loads data for 6 ms."""
    trace = Timeline()
    for step in range(4):
        begin = 10_000 * step
        trace.span(f"ProfilerStep#{step}", begin, 9_990)
        trace.span("train.py(12): load_and_resize", begin + 50, 6_000, "python_function")
        trace.span("<built-in function zoom>", begin + 100, 5_000, "python_function")
        for index in range(8):
            trace.run(begin + 6_100 + 10 * index, begin + 6_120 + 450 * index, 450)
    return trace.events


def exposed_all_reduce() -> Events:
    """Training steps of 30 ms, 18 ms of it in an all-reduce that nothing overlaps."""
    trace = Timeline()
    for step in range(3):
        begin = 30_000 * step
        trace.span(f"ProfilerStep#{step}", begin, 30_000)
        for index in range(11):
            trace.run(begin + 10 * index, begin + 20 + 1000 * index, 1000)
        trace.op("autograd::engine::evaluate_function: torch::autograd::AccumulateGrad", begin + 190, 20)
        trace.run(begin + 200, begin + 11_030, 18_000, "ncclDevKernel_AllReduce_Sum_f32_RING_LL", stream=20)
    return trace.events


def many_collectives() -> Events:
    """Decode steps with 40 all-reduces of 12 us each, as many as kernels."""
    trace = Timeline()
    for step in range(3):
        begin = 2_000 * step
        trace.span("roseinfer.step[decode bs=4 tokens=4]", begin, 300)
        for index in range(40):
            at = begin + 20 + 40 * index
            trace.run(begin + 5 * index, at, 26, call_us=2)
            trace.run(begin + 2 + 5 * index, at + 27, 12, "void vllm::cross_device_reduce_1stage<half, 4>", call_us=2)
    return trace.events


def exposed_copies() -> Events:
    """Steps of 20 ms, 9 ms of it in a copy from the host that nothing overlaps."""
    trace = Timeline()
    for step in range(4):
        begin = 20_000 * step
        trace.span(f"ProfilerStep#{step}", begin, 20_000)
        trace.op("aten::copy_", begin, 20)
        trace.copy(begin + 5, begin + 15, 9_000, "Memcpy HtoD (Pinned -> Device)")
        for index in range(10):
            trace.run(begin + 40 + 10 * index, begin + 9_100 + 1050 * index, 1050)
    return trace.events


def busy() -> Events:
    """A GPU that is always busy, while the host waits for a value 8.9 ms per step: that costs nothing."""
    trace = Timeline()
    for step in range(4):
        begin = 10_000 * step
        trace.span(f"ProfilerStep#{step}", begin, 10_000)
        for index in range(20):
            trace.run(begin + 10 * index, begin + 20 + 500 * index, 500)
        trace.op("aten::item", begin + 300, 8_900)
        trace.call("cudaStreamSynchronize", begin + 310, 8_880)
    return trace.events


def late_in_queue() -> Events:
    """A kernel that was launched in time and started 40 ms later; then a graph replay."""
    trace = Timeline()
    trace.span("step[DECODE bs=32]", 0, 41_000)
    trace.run(10, 20, 10, "copy_in")
    trace.run(30, 40_040, 10, "resolve_future")
    replay = trace.call("cudaGraphLaunch", 50, 20)
    trace.events += [kernel(40_060 + 20 * index, 19.9, replay, "decode_kernel") for index in range(100)]
    return trace.events


def blind_wait() -> Events:
    """Steps in which the host waits 9 ms for a copy while the trace shows no GPU event."""
    trace = Timeline()
    for step in range(5):
        begin = 10_000 * step
        for index in range(20):
            trace.run(begin + 10 * index, begin + 20 + 30 * index, 30)
        trace.op("aten::copy_", begin + 700, 9_000)
        trace.copy(begin + 710, begin + 9_690, 5, "Memcpy DtoH (Device -> Pageable)")
        trace.events[-2]["dur"] = 8_980
    return trace.events


def capture() -> Events:
    """The capture of a CUDA graph: 200 launches that run nothing, beside two kernels."""
    trace = Timeline()
    trace.span("capture_decode", 0, 4_000)
    trace.run(10, 20, 5, "fill")
    trace.run(20, 30, 5, "fill")
    trace.call("cudaStreamBeginCapture_v10000", 100, 5)
    for index in range(200):
        trace.op("aten::mm", 198 + 15 * index, 14)
        trace.call("cudaLaunchKernel", 200 + 15 * index, 4)
    trace.call("cudaStreamEndCapture", 3_300, 20)
    trace.call("cudaGraphInstantiate", 3_400, 300)
    return trace.events


def cpu_loop() -> Events:
    """A loop on a CPU that is 58 % outside operators."""
    trace = Timeline()
    for step in range(3):
        begin = 10_000 * step
        trace.span(f"ProfilerStep#{step}", begin, 9_990)
        trace.span("plan_batch", begin + 10, 5_600)
        trace.op("aten::mm", begin + 5_700, 3_600)
        trace.op("aten::add", begin + 9_400, 600)
    return trace.events


def gloo() -> Events:
    """A step of 100 ms on a CPU, 95 ms of it in five all-reduces."""
    trace = Timeline()
    trace.span("ProfilerStep#5", 0, 100_000)
    for index in range(5):
        trace.span("gloo:all_reduce", 100 + 20_000 * index, 19_000)
    trace.op("aten::empty", 50, 4)
    return trace.events


def own_cpu_run() -> Events:
    """Decode steps of this program on a CPU: 9 of 10 ms in matrix products."""
    trace = Timeline()
    for step in range(3):
        begin = 10_000 * step
        trace.span("roseinfer.step[decode bs=8 tokens=8]", begin, 9_990)
        trace.span("roseinfer.model.forward", begin + 100, 9_800)
        for layer in range(30):
            trace.op("roseinfer::gate_up_linear", begin + 120 + 320 * layer, 200)
            trace.op("roseinfer::down_linear", begin + 325 + 320 * layer, 100)
    return trace.events


def manifest(
    *,
    floor_ms: float,
    bound: str = "memory",
    threads: int = 2,
    cores: int = 2,
    used: float = 1.9,
    idle: float | None = 0.1,
    **engine: str,
) -> dict[str, Any]:
    """Return a manifest of decode steps of 10 ms, with the given floor and cores."""
    work = {"bytes": 1e8 * floor_ms, "flops": 1e6} if bound == "memory" else {"bytes": 1e3, "flops": 1e9 * floor_ms}
    return {
        "schema_version": 1,
        "device": "CPU",
        "model": {"name": "tiny", "dtype": "bfloat16"},
        "config": {"engine": {"quantize": "none", **engine}},
        "ceilings": {"copy_bytes_per_s": 1e11, "flops_per_s": 1e12},
        "baseline_step_ms": {"decode": 10.0},
        "host": {"threads": threads, "cores": cores, "logical_cores": cores, "cores_used": used, "cores_idle": idle},
        "steps": [{"index": one, "phase": "decode", "batch": 8, "tokens": 8, **work} for one in range(3)],
    }


def slow_rank() -> Events:
    """Steps of four ranks in one file, of which one computes 9 ms and the others 5 ms before an all-reduce."""
    return job([[9000 if rank == 2 else 5000 for rank in range(4)]] * 4).labelled()


def ranks_in_turns() -> Events:
    """Steps of four ranks in one file, each of which computes longest in one step."""
    return job([[9000 if rank == step else 5000 for rank in range(4)] for step in range(4)]).labelled()


def eight_ranks() -> Job:
    """Steps of eight ranks, of which the host of one loads data for 4 ms before it launches anything."""
    sent = {"Collective name": "allreduce", "dtype": "BFloat16", "In msg nelems": 25_000_000, "Group size": 8}
    compute = [[8000 + 10 * ((3 * rank + step) % 8) for rank in range(8)] for step in range(4)]
    return job(compute, transfer_us=900, late_us={5: 4000}, **sent)


EXAMPLES: dict[str, Callable[[], Events]] = {
    "host_bound": launch_bound,
    "data_bound": data_loader,
    "communication_bound": exposed_all_reduce,
    "straggler": slow_rank,
    "imbalanced": ranks_in_turns,
    "copy_bound": exposed_copies,
    "gpu_bound": busy,
    "balanced": late_in_queue,
    "cpu_only": cpu_loop,
    "incomplete": blind_wait,
    "capture": capture,
    "empty": list,
}
"""The examples of docs/verdicts.md, by kind of verdict; `own_cpu_run` and `eight_ranks` are two folders more."""


def file_of(events: Events) -> str:
    """Return the trace as its file in SHOWN has it: one event per line."""
    lines = ",\n".join(json.dumps(one) for one in events)
    properties = json.dumps([{"id": 0, "name": "NVIDIA H100"}])
    return f'{{"schemaVersion": 1, "deviceProperties": {properties}, "traceEvents": [\n{lines}\n]}}\n'


def write_examples(folder: Path) -> None:
    """Write all examples into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, make in EXAMPLES.items():
        (folder / f"{kind}.json").write_text(file_of(make()))
    own = folder / "own_cpu_run"
    own.mkdir(exist_ok=True)
    (own / "trace.json").write_text(file_of(own_cpu_run()))
    eight_ranks().write(folder / "eight_ranks")
    (own / "manifest.json").write_text(json.dumps(manifest(floor_ms=6.5), indent=2) + "\n")


if __name__ == "__main__":
    write_examples(SHOWN)
