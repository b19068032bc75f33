"""Comparisons name the category, operator and kernel whose GPU time changed, with the noise of the steps."""

from pathlib import Path
from typing import Any

import pytest
from traces import event, kernel, launch, write

from roseinfer.trace import Summary, compare, summarize_trace
from roseinfer.trace.summary.comparison_structs import TraceComparison

Kernels = dict[str, float]


def program(
    folder: Path,
    name: str,
    steps: list[Kernels],
    step_us: float = 2000,
    tokens: int | None = None,
    spread_us: float = 0.0,
) -> Summary:
    """Summarize steps whose operators launch kernels of the given durations in us.

    Every second step is `spread_us` shorter than `step_us`.
    """
    events: list[Any] = []
    number = 0
    label = "ProfilerStep#{}" if tokens is None else f"roseinfer.step[decode bs=4 tokens={tokens}]"
    for index, kernels in enumerate(steps):
        at = index * (step_us + 10)
        events.append(event("user_annotation", label.format(index), at, step_us - spread_us * (index % 2)))
        for place, (kernel_name, us) in enumerate(kernels.items()):
            number += 1
            begin = at + 10 + 20 * place
            events += [event("cpu_op", f"aten::op{place}", begin, 15), launch(begin + 1, 2, number)]
            events.append(kernel(at + 100 + sum(list(kernels.values())[:place]), us, number, kernel_name))
    return summarize_trace(write(folder / name, events))


def compared(folder: Path, old: list[Kernels], new: list[Kernels], **options: Any) -> TraceComparison:
    found = compare(program(folder, "new", new, **options), program(folder, "old", old, **options)).comparison
    assert found is not None
    return found


def test_the_category_operator_and_kernel_that_changed_are_named(tmp_path: Path) -> None:
    old = [{"nvjet_gemm": 500.0 + index, "layer_norm_kernel": 100.0} for index in range(3)]
    new = [{"nvjet_gemm": 800.0 + index, "layer_norm_kernel": 100.0} for index in range(3)]
    found = compared(tmp_path, old, new)
    first = {row.kind: row for row in reversed(found.work)}
    assert {kind: row.name for kind, row in first.items()} == {
        "category": "matmul",
        "operator": "aten::op0",
        "kernel": "nvjet_gemm",
    }
    row = first["category"]
    assert (row.baseline_ms, row.new_ms, row.verdict) == (0.501, 0.801, "slower")
    assert row.change_percent == pytest.approx(59.88)
    assert row.noise_ms == pytest.approx(2 * (2 * 0.001**2 / 3) ** 0.5, abs=1e-6)
    norm = next(row for row in found.work if row.name == "norm")
    assert (norm.verdict, norm.noise_ms) == ("no clear change", 0.0)


def test_steps_of_the_same_time_whose_work_moved_are_not_called_unchanged(tmp_path: Path) -> None:
    old = [{"nvjet_gemm": 500.0, "layer_norm_kernel": 300.0}] * 3
    new = [{"nvjet_gemm": 300.0, "layer_norm_kernel": 500.0}] * 3
    found = compared(tmp_path, old, new)
    assert found.phases[0].verdict == "moved"
    assert "no clear change" not in found.headline
    assert {row.name: row.verdict for row in found.work if row.kind == "category"} == {
        "matmul": "faster",
        "norm": "slower",
    }
    assert found.causes
    same = compared(tmp_path, old, old)
    assert same.phases[0].verdict == "no clear change"
    assert all(row.verdict == "no clear change" for row in same.work)
    assert same.causes == []


@pytest.mark.parametrize(("spread_us", "verdict"), [(20, "moved"), (200, "no clear change")])
def test_steps_whose_time_is_lost_in_noise_are_not_called_as_fast_as_before(
    tmp_path: Path, spread_us: float, verdict: str
) -> None:
    """Only steps that are known to take as long are said to: noise is no evidence."""
    old = [{"nvjet_gemm": 500.0, "layer_norm_kernel": 300.0}] * 4
    new = [{"nvjet_gemm": 300.0, "layer_norm_kernel": 500.0}] * 4
    found = compared(tmp_path, old, new, spread_us=spread_us)
    assert found.phases[0].verdict == verdict
    assert ("as fast as before" in found.headline) == (verdict == "moved")


def test_changes_within_the_noise_are_not_clear(tmp_path: Path) -> None:
    old = [{"nvjet_gemm": us} for us in (400.0, 600.0, 500.0)]
    new = [{"nvjet_gemm": us} for us in (450.0, 650.0, 520.0)]
    assert {row.verdict for row in compared(tmp_path, old, new).work} == {"no clear change"}


def test_kernels_that_are_new_or_gone_are_told(tmp_path: Path) -> None:
    found = compared(tmp_path, [{"nvjet_gemm": 500.0}] * 2, [{"fused_attention": 300.0}] * 2)
    assert {row.name: row.verdict for row in found.work if row.kind == "kernel"} == {
        "nvjet_gemm": "gone",
        "fused_attention": "new",
    }


def test_the_largest_cause_of_a_change_is_named(tmp_path: Path) -> None:
    work = [{"nvjet_gemm": 500.0, "layer_norm_kernel": 100.0}] * 3
    slower = program(tmp_path, "new", [{"nvjet_gemm": 1500.0, "layer_norm_kernel": 100.0}] * 3, step_us=3000)
    found = compare(slower, program(tmp_path, "old", work)).comparison
    assert found is not None
    assert found.causes == ["step: the largest cause is matmul on the GPU, 1.00 ms longer per step"]
    back = compare(program(tmp_path, "old", work), slower).comparison
    assert back is not None
    assert back.causes == ["step: the largest cause is matmul on the GPU, 1.00 ms less per step"]


def test_work_is_compared_per_token_where_steps_have_different_numbers(tmp_path: Path) -> None:
    old = program(tmp_path, "old", [{"nvjet_gemm": 400.0}] * 3, tokens=4)
    new = program(tmp_path, "new", [{"nvjet_gemm": 800.0}] * 3, step_us=3000, tokens=16)
    found = compare(new, old).comparison
    assert found is not None
    row = next(row for row in found.work if row.kind == "category")
    assert (row.per, row.baseline_ms, row.new_ms, row.verdict) == ("token", 0.1, 0.05, "faster")
