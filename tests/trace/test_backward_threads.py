"""Work of autograd's threads belongs to the span that waits for the backward pass, and to the forward operator."""

from pathlib import Path
from typing import Any

from traces import event, kernel, launch, write

from roseinfer.trace import Summary, summarize_trace

AUTOGRAD = 777


def on_autograd(event: dict[str, Any]) -> dict[str, Any]:
    return event | {"tid": AUTOGRAD}


def training_step(start: float, first: int) -> list[dict[str, Any]]:
    """Return a step of 10 ms with its backward pass on autograd's thread."""
    numbered = {"args": {"Sequence number": first, "Fwd thread id": 0}}
    backward = {"args": {"Sequence number": first, "Fwd thread id": 1}}
    return [
        event("user_annotation", f"ProfilerStep#{first}", start, 9900),
        event("user_annotation", "## forward ##", start + 10, 900),
        event("cpu_op", "aten::linear", start + 20, 500, **numbered),
        event("cpu_op", "aten::addmm", start + 30, 400, **numbered),
        launch(start + 100, 10, first),
        kernel(start + 120, 1000, first, "forward_kernel"),
        event("user_annotation", "## backward ##", start + 1000, 5000),
        on_autograd(
            event("cpu_op", "autograd::engine::evaluate_function: AddmmBackward0", start + 1500, 3000, **backward)
        ),
        on_autograd(event("user_annotation", "hook", start + 1600, 2000)),
        on_autograd(event("cpu_op", "aten::mm", start + 1700, 1500)),
        on_autograd(launch(start + 2500, 10, first + 1)),
        kernel(start + 2600, 2000, first + 1, "backward_kernel"),
        on_autograd(launch(start + 4000, 10, first + 2)),
        kernel(start + 4600, 500, first + 2, "backward_kernel"),
        event("user_annotation", "optimizer", start + 7000, 1000),
        event("cpu_op", "aten::add_", start + 7100, 200),
        launch(start + 7200, 10, first + 3),
        kernel(start + 7300, 100, first + 3, "optimizer_kernel"),
    ]


def summary_of(path: Path) -> Summary:
    steps = [one for index in range(3) for one in training_step(10_000 * index, 10 * index + 1)]
    return summarize_trace(write(path / "trace.json", steps))


def test_gpu_time_of_the_backward_pass_belongs_to_the_span_that_waits(tmp_path: Path) -> None:
    spans = {span.name: span for span in summary_of(tmp_path).spans}
    assert (spans["## backward ##"].gpu_ms, spans["## backward ##"].gpu_events) == (7.5, 6)
    assert (spans["## backward ##"].self_gpu_ms, spans["hook"].self_gpu_ms) == (1.5, 6.0)
    assert spans["hook"].parent == "## backward ##"
    assert (spans["ProfilerStep"].gpu_events, spans["(no span)"].gpu_events) == (12, 0)
    assert spans["## forward ##"].gpu_ms == 3.0


def test_idle_time_in_the_backward_pass_is_that_of_autograds_thread(tmp_path: Path) -> None:
    budget = summary_of(tmp_path).budget
    assert budget is not None
    waits = {(place.cause, place.name, place.span): round(1000 * place.ms) for place in budget.idle}
    # Before the first backward kernel: the main thread's Python until 1,500 us, then autograd's operators.
    assert waits["operators", "aten::mm", "hook"] == 3 * 800
    assert waits["operators", "autograd::engine::evaluate_function: AddmmBackward0", "## backward ##"] == 3 * 100
    assert waits["python", "", "## backward ##"] == 3 * (380 + 900)
    assert waits["operators", "aten::add_", "optimizer"] == 3 * 100


def test_gpu_time_of_the_backward_pass_is_linked_to_the_forward_operator(tmp_path: Path) -> None:
    rows = {row.name: row.backward_gpu_ms for row in summary_of(tmp_path).top_ops if row.device == "cpu"}
    assert rows["aten::addmm"] == 7.5
    assert rows["aten::linear"] == 0
    assert rows["aten::add_"] == 0


def test_a_data_loader_that_holds_up_autograd_is_still_the_main_threads(tmp_path: Path) -> None:
    events = training_step(0, 1)
    events[0] = event("user_annotation", "ProfilerStep#1", -50_000, 60_000)
    events.append(event("user_annotation", "enumerate(DataLoader)#_Iter.__next__", -49_000, 48_000))
    budget = summarize_trace(write(tmp_path / "trace.json", events)).budget
    assert budget is not None
    assert budget.total.host_ms.data_loading == 48.0


def test_a_thread_that_only_has_spans_waits_too(tmp_path: Path) -> None:
    events = [
        event("user_annotation", "## backward ##", 0, 5000),
        on_autograd(event("cpu_op", "autograd::engine::evaluate_function: MulBackward0", 500, 3000)),
        on_autograd(launch(1000, 10, 1)),
        kernel(1100, 900, 1),
    ]
    summary = summarize_trace(write(tmp_path / "trace.json", events))
    spans = {span.name: span.gpu_ms for span in summary.spans}
    assert spans == {"## backward ##": 0.9, "(no span)": 0.0}
    assert summary.budget is not None
    assert (summary.budget.total.host_ms.operators, summary.budget.total.host_ms.python) == (2.0, 2.0)
