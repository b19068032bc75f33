"""Grid of configurations for one call of `bench`: every combination of the listed values."""

from collections.abc import Sequence
from dataclasses import replace as replace_field
from itertools import product

import msgspec
from msgspec.structs import replace

from roseinfer.bench.numbers import plain
from roseinfer.config import Mode, RunConfig, SamplingParams, WorkloadConfig
from roseinfer.engine.engine import Engine
from roseinfer.workload.load_plan import drawn_requests


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration to measure."""

    name: str
    mode: Mode
    max_batch_size: int | None
    """Maximum requests per step; None for the limit that the engine chose for its device."""
    workload: WorkloadConfig
    sampling: SamplingParams


class Axes(msgspec.Struct, frozen=True, kw_only=True):
    """Values along each axis of the grid. An empty axis uses the configuration's own value."""

    modes: Sequence[Mode] = ()
    max_batch_sizes: Sequence[int] = ()
    prompt_lengths: Sequence[int | str] = ()
    max_new_tokens: Sequence[int] = ()
    request_rates: Sequence[float | None] = ()
    """Request rates in requests per second. None sends all requests at once."""

    @property
    def is_grid(self) -> bool:
        """True if an axis other than the modes has several values."""
        axes = (self.max_batch_sizes, self.prompt_lengths, self.max_new_tokens, self.request_rates)
        return any(len(axis) > 1 for axis in axes)


def cells(config: RunConfig, axes: Axes) -> list[Cell]:
    """Return a cell per combination of the axes' values; the mode changes slowest, the batch limit fastest.

    A cell is named by its mode. In a grid, llama-bench's name for the lengths follows: pp512+tg128 is a prompt of 512
    tokens and a completion of 128.
    """
    combinations = product(
        axes.modes or (config.workload.mode,),
        axes.prompt_lengths or (None,),
        axes.max_new_tokens or (config.sampling.max_new_tokens,),
        axes.request_rates or (config.workload.request_rate,),
        axes.max_batch_sizes or (config.engine.max_batch_size,),
    )
    found = []
    for mode, prompt_length, max_new_tokens, rate, batch in combinations:
        workload = replace(config.workload, mode=mode, request_rate=rate)
        if prompt_length is not None:
            workload = replace(workload, prompts=(), prompts_file=None, prompt_length=prompt_length)
        if batch is None and workload.prompt_length is not None and workload.num_requests is None:
            workload = replace(workload, num_requests=drawn_requests(None))  # recorded, since no limit says it
        sampling = replace(config.sampling, max_new_tokens=max_new_tokens)
        found.append(
            Cell(
                name=_name(mode, batch, workload, sampling, len(axes.request_rates) > 1) if axes.is_grid else mode,
                mode=mode,
                max_batch_size=batch,
                workload=workload,
                sampling=sampling,
            )
        )
    return found


def with_batch_limit(engine: Engine, max_batch_size: int | None) -> Engine:
    """Return the engine with a smaller batch limit; with its own if None.

    Model, cache and graphs are shared, so the call is cheap.
    """
    if max_batch_size is None:
        return engine
    config = replace(engine.config, max_batch_size=max_batch_size)
    return replace_field(engine, config=config, limits=replace(engine.limits, max_batch_size=max_batch_size))


def _name(mode: Mode, batch: int | None, workload: WorkloadConfig, sampling: SamplingParams, by_rate: bool) -> str:
    prompt = "" if workload.prompt_length is None else f"pp{workload.prompt_length}+"
    completion = sampling.max_new_tokens if workload.completion_length is None else workload.completion_length
    all_at_once = " rate=inf" if by_rate else ""
    rate = all_at_once if workload.request_rate is None else f" rate={plain(workload.request_rate)}"
    limit = "" if batch is None else f" bs={batch}"
    return f"{mode} {prompt}tg{completion}{limit}{rate}"
