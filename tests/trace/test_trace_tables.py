"""Tables fit the terminal, and names keep what tells kernels apart."""

import io

import pytest
from rich.console import Console
from traces import ORIGIN

from roseinfer.cli.trace_tables import ops_table, spans_table, steps_table
from roseinfer.trace import Summary, summarize_trace
from roseinfer.trace.naming import short_name


@pytest.fixture(scope="module")
def origin() -> Summary:
    return summarize_trace(ORIGIN)


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_tables_fit_the_terminal(origin: Summary, width: int) -> None:
    console = Console(width=width, file=io.StringIO())
    for table in (ops_table(origin, 10, width=width), spans_table(origin, width=width), steps_table(origin)):
        assert console.measure(table).maximum <= width


def test_top_and_sort_choose_the_rows(origin: Summary) -> None:
    table = ops_table(origin, 2, "calls")
    shown = [str(cell) for cell in table.columns[0].cells]
    assert len(shown) == 6  # two of each device, and one line for the rest of each
    calls = [int(str(cell).replace(",", "")) for cell in table.columns[2].cells]
    assert calls[0] >= calls[1]
    assert sum(calls[:3]) == 4953


def test_short_names_keep_the_function_and_what_it_was_made_for() -> None:
    name = (
        "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<"
        "at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)::{lambda(float)#1}> >(int, float)"
    )
    assert short_name(name, 60) == "elementwise_kernel<…direct_copy_kernel_cuda…>"
    assert short_name("aten::mm", 20) == "aten::mm"


@pytest.mark.parametrize("width", [10, 24, 40, 77])
def test_short_names_are_short(origin: Summary, width: int) -> None:
    for op in origin.top_ops:
        assert 0 < len(short_name(op.name, width)) <= width
