"""The fast search for missing records agrees with a slow one, on random traces."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from traces import event, kernel, launch, write

from roseinfer.trace import summarize_trace
from roseinfer.trace.facts.blind_waits import find_blind_waits
from roseinfer.trace.facts.stream_overlap import find_overlaps
from roseinfer.trace.facts.trace_facts import Facts, gather_facts
from roseinfer.trace.reading.trace_reader import read_trace

Events = list[dict[str, Any]]
MS = 1_000_000
"""Length of a slot of the slow search in ns: all times of the random traces are whole milliseconds."""


def random_events(seed: int) -> Events:
    """Return launches and waits on two threads, GPU events on two streams of two devices, and captures."""
    draw = random.Random(seed)
    made: Events = []
    for correlation in range(1, draw.randint(5, 60)):
        at = draw.randint(0, 120)
        thread = {"tid": draw.choice([1, 2])}
        name = draw.choice(["cudaLaunchKernel", "cudaMemcpyAsync", "cudaLaunchKernelExC", "cudaGraphLaunch"])
        wait_ms = draw.choice([0, 0, 3, 20])
        made.append({**launch(1000 * at, 1000 * wait_ms, correlation, name), **thread})
        if draw.random() < 0.8:
            copy = draw.choice(["Memcpy DtoH (Device -> Pageable)", "Memcpy HtoD (Pageable -> Device)"])
            work = kernel(
                1000 * (at + draw.randint(0, 15)),
                1000 * draw.randint(0, 4),
                correlation,
                copy if name == "cudaMemcpyAsync" else draw.choice(["gemm", "norm"]),
                stream=draw.choice([7, 13]),
                device=draw.choice([0, 1]),
                cat="gpu_memcpy" if name == "cudaMemcpyAsync" else "kernel",
            )
            made.append(work)
    for _ in range(draw.randint(0, 8)):
        name = draw.choice(["cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaMalloc", "cudaStreamWaitEvent"])
        made.append(event("cuda_runtime", name, 1000 * draw.randint(0, 120), 1000 * draw.randint(0, 40)))
    for _ in range(draw.randint(0, 3)):
        at = draw.randint(0, 100)
        made.append({**event("cuda_runtime", "cudaStreamBeginCapture", 1000 * at, 0), "tid": 1})
        made.append({**event("cuda_runtime", "cudaStreamEndCapture", 1000 * (at + draw.randint(1, 9)), 1000), "tid": 1})
    return made


def facts_of(tmp_path: Path, seed: int) -> Facts:
    return gather_facts(read_trace(write(tmp_path / "t.json", random_events(seed))))


@pytest.mark.parametrize("seed", range(60))
def test_blind_waits_are_those_of_a_search_through_every_millisecond(tmp_path: Path, seed: int) -> None:
    facts = facts_of(tmp_path, seed)
    trace, attribution = facts.trace, facts.attribution
    if len(trace.gpu) == 0:
        return
    waiting: set[int] = set()
    for call in range(len(trace.calls)):
        name = trace.names[trace.calls.name[call]]
        copies = [trace.names[trace.gpu.name[at]] for at in np.flatnonzero(attribution.launch == call)]
        is_wait = "Synchronize" in name or any("DtoH" in copy for copy in copies)
        if is_wait and not any("HtoD" in copy for copy in copies):
            waiting.update(range(trace.calls.start_ns[call] // MS, trace.calls.end_ns[call] // MS))
    busy: set[int] = set()
    for at in range(len(trace.gpu)):
        busy.update(range(trace.gpu.start_ns[at] // MS, trace.gpu.end_ns[at] // MS))
    found = find_blind_waits(trace, attribution)
    blind = [slot for one in range(len(found)) for slot in range(found.start_ns[one] // MS, found.end_ns[one] // MS)]
    assert len(blind) == len(set(blind))
    assert set(blind) <= waiting - busy
    assert found.total_ns == len(blind) * MS
    for slot in waiting - busy - set(blind):  # left out: no launched work was pending, and the stretch is short
        nothing = {one for one in range(slot - 10, slot + 10) if one in waiting - busy}
        assert not set(range(slot - 9, slot + 1)) <= nothing or not set(range(slot, slot + 10)) <= nothing


@pytest.mark.parametrize("seed", range(60))
def test_overlaps_are_those_of_comparing_every_pair(tmp_path: Path, seed: int) -> None:
    facts = facts_of(tmp_path, seed)
    trace, attribution, gpu = facts.trace, facts.attribution, facts.trace.gpu
    plain = [
        at
        for at in range(len(gpu))
        if attribution.linked[at] and trace.names[trace.calls.name[attribution.launch[at]]] == "cudaLaunchKernel"
    ]
    expected: dict[int, int] = {}
    for place, one in enumerate(plain):
        ends = [
            int(gpu.end_ns[other])
            for other in plain[:place]  # sorted by (device, start, end)
            if (gpu.device[other], gpu.stream[other]) == (gpu.device[one], gpu.stream[one])
        ]
        shared = min(max(ends, default=0), int(gpu.end_ns[one])) - int(gpu.start_ns[one])
        if shared > 1000:
            expected[one] = shared
    found = find_overlaps(trace, attribution)
    assert dict(zip(found.event.tolist(), found.overlap_ns.tolist(), strict=True)) == expected
    assert found.checked_ns == sum(int(gpu.end_ns[at] - gpu.start_ns[at]) for at in plain)


@pytest.mark.parametrize("seed", range(60))
def test_launches_are_answered_or_captured_as_looking_each_up_says(tmp_path: Path, seed: int) -> None:
    facts = facts_of(tmp_path, seed)
    trace, launches = facts.trace, facts.launches
    ids = set(trace.gpu.correlation.tolist())
    calls = trace.calls
    windows = list(zip(facts.captures.start_ns.tolist(), facts.captures.end_ns.tolist(), strict=True))
    known = [
        at for at in range(len(calls)) if trace.names[calls.name[at]].startswith(("cudaLaunch", "cudaMem", "cudaG"))
    ]
    assert set(launches.call.tolist()) == {at for at in known if trace.names[calls.name[at]] != "cudaMalloc"}
    for at, call in enumerate(launches.call.tolist()):
        answered = int(calls.correlation[call]) in ids
        inside = any(low <= calls.start_ns[call] < high for low, high in windows)
        assert launches.is_answered[at] == answered
        assert launches.is_captured[at] == (inside and not answered)
        assert launches.is_graph[at] == (trace.names[calls.name[call]] == "cudaGraphLaunch")
    assert np.all(np.diff(calls.start_ns[launches.call]) >= 0)


@pytest.mark.parametrize("seed", range(40))
def test_shifted_reordered_and_renamed_events_miss_the_same_records(tmp_path: Path, seed: int) -> None:
    events = random_events(seed)
    changed = [{**one, "ts": one["ts"] + 7_654_321_000} for one in events]
    random.Random(seed).shuffle(changed)
    for one in changed:
        one["name"] = {"gemm": "other_gemm", "norm": "other_norm"}.get(one["name"], one["name"])
    before, after = (
        summarize_trace(write(tmp_path / f"{name}.json", made)) for name, made in (("a", events), ("b", changed))
    )
    assert after.completeness == before.completeness
