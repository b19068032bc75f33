"""Single cases of the time budget: one cause each, with times that can be checked by hand."""

from pathlib import Path
from typing import Any

import pytest
from traces import event, kernel, launch, write

from roseinfer.trace import summarize_trace
from roseinfer.trace.facts.budget_parts import ALLOCATION, CALLS, SYNC, part_of_call
from roseinfer.trace.summary.budget_structs import BudgetSummary, IdlePlace


def budget_of(path: Path, *events: dict[str, Any]) -> BudgetSummary:
    found = summarize_trace(write(path / "trace.json", list(events))).budget
    assert found is not None
    return found


def longest_place(budget: BudgetSummary) -> IdlePlace:
    return budget.idle[0]


def step(ts: float, dur: float, number: int = 1) -> dict[str, Any]:
    return event("user_annotation", f"ProfilerStep#{number}", ts, dur)


def python(name: str, ts: float, dur: float) -> dict[str, Any]:
    return event("python_function", name, ts, dur)


def test_idle_time_before_the_first_and_after_the_last_gpu_event_counts(tmp_path: Path) -> None:
    events = [step(0, 10_000), event("cpu_op", "aten::upsample", 0, 4000), launch(4500, 10, 1), kernel(4600, 1000, 1)]
    found = budget_of(tmp_path, *events)
    assert (found.total.wall_ms, found.total.compute_ms, found.total.queue_ms) == (10.0, 1.0, 0.09)
    host = found.total.host_ms
    assert (host.operators, host.python, host.launch_calls) == (4.0, 4.9, 0.01)
    assert longest_place(found).cause == "python"
    assert found.idle[1].name == "aten::upsample"
    assert (found.idle[1].longest_before, found.idle[1].longest_ms) == ("k", 4.0)


def test_a_step_lasts_until_the_next_one_begins(tmp_path: Path) -> None:
    events = [step(0, 100, 1), step(500, 100, 2), launch(510, 5, 1), kernel(520, 400, 1)]
    found = budget_of(tmp_path, *events)
    assert [row.wall_ms for row in found.steps] == [0.5, 0.42]
    assert found.phases["step"].steps == 2
    assert found.phases["step"].wall_ms == found.total.wall_ms == 0.92


def test_a_wait_counts_only_by_the_idle_time_it_causes(tmp_path: Path) -> None:
    events = [
        *(step(0, 1000), launch(0, 5, 1), kernel(10, 790, 1)),
        event("cpu_op", "aten::item", 20, 830),
        launch(30, 810, 99, "cudaStreamSynchronize"),
        *(launch(900, 5, 2), kernel(910, 90, 2)),
    ]
    found = budget_of(tmp_path, *events)
    assert found.total.host_ms.synchronizing_calls == 0.04
    place = next(place for place in found.idle if place.cause == "synchronizing_calls")
    assert (place.name, place.operator, place.ms) == ("cudaStreamSynchronize", "aten::item", 0.04)


def test_waits_in_which_no_device_shows_work_are_not_recorded(tmp_path: Path) -> None:
    events = [
        *(step(0, 100_000), launch(0, 5, 1), kernel(10, 500, 1)),
        launch(600, 90_000, 99, "cudaStreamSynchronize"),
        *(launch(99_000, 5, 2), kernel(99_010, 90, 2)),
    ]
    found = budget_of(tmp_path, *events)
    assert found.total.not_recorded_ms == 90.0
    assert found.total.host_ms.synchronizing_calls == 0


def test_idle_time_after_the_launch_of_a_missing_kernel_is_not_recorded(tmp_path: Path) -> None:
    events = [step(0, 1000), launch(0, 5, 1), kernel(10, 90, 1), launch(300, 5, 2), launch(700, 5, 3)]
    found = budget_of(tmp_path, *events, kernel(710, 290, 3))
    assert (found.total.not_recorded_ms, found.total.host_ms.python) == (0.41, 0.2)
    memset = launch(300, 5, 2, "cudaMemsetAsync")
    found = budget_of(tmp_path, *events[:3], memset, launch(700, 5, 3), kernel(710, 290, 3))
    assert (found.total.not_recorded_ms, found.total.host_ms.launch_calls) == (0, 0.015)


def test_idle_time_that_ends_as_the_first_step_begins_has_no_place(tmp_path: Path) -> None:
    events = [launch(0, 5, 1), kernel(10, 90, 1), event("cpu_op", "aten::warm_up", 100, 400), step(500, 500)]
    found = budget_of(tmp_path, *events, launch(600, 5, 2), kernel(610, 390, 2))
    assert found.total.wall_ms == 0.5
    assert found.total.host_ms.operators == 0
    assert "aten::warm_up" not in [place.name for place in found.idle]


def test_a_first_event_that_waited_in_the_queue_waited_for_unrecorded_work(tmp_path: Path) -> None:
    found = budget_of(tmp_path, launch(0, 5, 1), kernel(205, 100, 1))
    assert (found.total.not_recorded_ms, found.total.queue_ms) == (0.205, 0)
    found = budget_of(tmp_path, launch(0, 5, 1), kernel(204, 100, 1))
    assert (found.total.not_recorded_ms, found.total.queue_ms) == (0, 0.199)


def test_python_functions_name_idle_time_by_the_innermost_place_that_is_no_wrapper(tmp_path: Path) -> None:
    frames = [
        python("serve.py(10): loop", 0, 900),
        python("torch/nn/modules/module.py(1743): _call_impl", 10, 880),
        python("serve.py(50): schedule", 20, 600),
        python("<built-in function sorted>", 30, 500),
        python("serve.py(70): tick", 700, 49),
    ]
    found = budget_of(tmp_path, step(0, 1000), *frames, launch(900, 5, 1), kernel(910, 90, 1))
    places = {place.file: place.ms for place in found.idle if place.cause == "python"}
    assert places == {"serve.py(50): schedule": 0.6, "serve.py(10): loop": 0.3}
    assert longest_place(found).name == "schedule"


def test_the_outermost_function_that_loads_data_names_it_but_no_library_loop(tmp_path: Path) -> None:
    frames = [
        python("torch/utils/data/dataloader.py(701): __next__", 0, 800),
        python("my_data.py(5): read_image", 100, 600),
        python("PIL/Image.py(2210): resize", 200, 400),
    ]
    found = budget_of(tmp_path, step(0, 1000), *frames, launch(900, 5, 1), kernel(910, 90, 1))
    places = {place.file: place.ms for place in found.idle if place.cause == "data_loading"}
    assert places == {"my_data.py(5): read_image": 0.6, "torch/utils/data/dataloader.py(701): __next__": 0.2}


def test_exposed_work_is_what_nothing_hides(tmp_path: Path) -> None:
    events = [
        *(step(0, 1000), launch(0, 5, 1), kernel(10, 300, 1)),
        *(launch(6, 2, 2), kernel(200, 400, 2, "ncclDevKernel_AllReduce", stream=20)),
        *(launch(9, 1, 3), kernel(500, 300, 3, "Memcpy HtoD", stream=9, cat="gpu_memcpy")),
    ]
    found = budget_of(tmp_path, *events)
    total = found.total
    assert (total.compute_ms, total.exposed_communication_ms, total.exposed_copy_ms) == (0.3, 0.29, 0.2)
    rows = [(row.kind, row.name, row.total_ms, row.exposed_ms) for row in found.exposed]
    assert rows == [("communication", "ncclDevKernel_AllReduce", 0.4, 0.29), ("copy", "Memcpy HtoD", 0.3, 0.2)]


def test_a_cpu_run_splits_operators_collectives_data_and_python(tmp_path: Path) -> None:
    other = {"tid": 5}
    events = [
        step(0, 1000),
        event("cpu_op", "aten::mm", 0, 200),
        event("user_annotation", "gloo:all_reduce", 150, 300) | other,
        event("user_annotation", "load_batch", 500, 100),
        event("cpu_op", "aten::stack", 510, 20),
    ]
    found = budget_of(tmp_path, *events)
    host = found.total.host_ms
    assert (found.total.compute_ms, found.total.exposed_communication_ms) == (0.2, 0.25)
    assert (host.data_loading, host.operators, host.python) == (0.1, 0, 0.45)
    assert [row.id for row in found.devices] == [0]


def test_launches_without_any_gpu_event_leave_the_whole_time_unexplained(tmp_path: Path) -> None:
    found = budget_of(tmp_path, step(0, 1000), event("cpu_op", "aten::mm", 10, 200), launch(20, 5, 1))
    assert found.total.not_recorded_ms == found.total.wall_ms == 1.0


def test_cycles_of_one_device_add_up_without_the_time_between_files(tmp_path: Path) -> None:
    events = [step(0, 1000), launch(0, 5, 1), kernel(10, 490, 1)]
    for name in ("cycle0.json", "cycle1.json"):
        write(tmp_path / name, events)
    found = summarize_trace(tmp_path).budget
    assert found is not None
    assert [(row.id, row.wall_ms, row.compute_ms) for row in found.devices] == [(0, 2.0, 0.98)]
    assert [row.wall_ms for row in found.steps] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("cudaMalloc", ALLOCATION),
        ("cudaFree", ALLOCATION),
        ("cudaHostAlloc", ALLOCATION),
        ("cudaMallocAsync", ALLOCATION),
        ("cuMemCreate", ALLOCATION),
        ("cuMemUnmap", ALLOCATION),
        ("hipMalloc", ALLOCATION),
        ("hipExtMallocWithFlags", ALLOCATION),
        ("cudaHostRegister", ALLOCATION),
        ("cudaStreamSynchronize", SYNC),
        ("cudaMemcpy", SYNC),
        ("hipDeviceSynchronize", SYNC),
        ("cudaLaunchKernel", CALLS),
        ("cudaMemcpyAsync", CALLS),
        ("cudaEventCreateWithFlags", CALLS),
        ("cudaStreamCreateWithPriority", CALLS),
        ("cuModuleUnload", CALLS),
        ("cudaGraphLaunch", CALLS),
    ],
)
def test_runtime_calls_by_name(name: str, part: int) -> None:
    assert part_of_call(name) == part
