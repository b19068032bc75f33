"""Grids: the configurations that a call measures, and their names."""

from roseinfer.bench.grid import Axes, cells
from roseinfer.config import EngineConfig, RunConfig, SamplingParams, WorkloadConfig

CONFIG = RunConfig(
    engine=EngineConfig(max_batch_size=4),
    sampling=SamplingParams(max_new_tokens=16),
    workload=WorkloadConfig(mode="offline", prompts=("Hello",)),
)


def test_without_axes_the_configuration_itself_is_measured_under_its_modes_name() -> None:
    (cell,) = cells(CONFIG, Axes())
    assert (cell.name, cell.mode, cell.max_batch_size) == ("offline", "offline", 4)
    assert (cell.workload, cell.sampling) == (CONFIG.workload, CONFIG.sampling)


def test_modes_alone_are_no_grid() -> None:
    axes = Axes(modes=("naive", "online"), max_new_tokens=(8,))
    assert [cell.name for cell in cells(CONFIG, axes)] == ["naive", "online"]
    assert not axes.is_grid


def test_every_combination_is_measured_and_the_batch_limit_changes_fastest() -> None:
    axes = Axes(max_batch_sizes=(1, 4), prompt_lengths=("128", "1..9"), max_new_tokens=(8,))
    assert [cell.name for cell in cells(CONFIG, axes)] == [
        "offline pp128+tg8 bs=1",
        "offline pp128+tg8 bs=4",
        "offline pp1..9+tg8 bs=1",
        "offline pp1..9+tg8 bs=4",
    ]
    assert axes.is_grid


def test_drawn_prompts_replace_those_of_the_configuration() -> None:
    (cell,) = cells(CONFIG, Axes(prompt_lengths=("128",)))
    assert (cell.workload.prompts, cell.workload.prompt_length) == ((), "128")


def test_rates_are_an_axis_too() -> None:
    found = cells(CONFIG, Axes(modes=("online",), request_rates=(0.5, 2.0, 1234567.0, None)))
    names = ["rate=0.5", "rate=2", "rate=1234567", "rate=inf"]
    assert [cell.name for cell in found] == [f"online tg16 bs=4 {name}" for name in names]
    assert [cell.workload.request_rate for cell in found] == [0.5, 2.0, 1234567.0, None]
    assert [cell.name for cell in cells(CONFIG, Axes(request_rates=(2.0, None)))] == [
        "offline tg16 bs=4 rate=2",
        "offline tg16 bs=4 rate=inf",
    ]
