"""A call of `bench` from its options to its exit code.

Imports torch: only the command imports this module, when it runs.
"""

import sys
from collections.abc import Callable
from typing import get_args

import msgspec
from msgspec.structs import replace

from roseinfer.bench.baseline_comparison import check_names, comparison, read_baseline
from roseinfer.bench.grid import Axes, cells
from roseinfer.bench.request_figures import save_requests
from roseinfer.bench.results import BenchResults
from roseinfer.bench.slo import parse_slo
from roseinfer.cli import console, exit_codes
from roseinfer.cli.bench.bench_call import BenchCall
from roseinfer.cli.bench.measuring import Measurement, measure
from roseinfer.cli.bench.result_output import print_comparison, print_results
from roseinfer.cli.bench.result_plot import draw_plot
from roseinfer.cli.bench.value_lists import listed, positive_int, rate, whole_number
from roseinfer.cli.comparison_limit import parse_percent
from roseinfer.cli.exit_codes import comparison_exit_code
from roseinfer.cli.ray_options import check_offline
from roseinfer.cli.signals import interrupted_code, interrupted_word
from roseinfer.config import Mode, RunConfig
from roseinfer.engine.device import resolve_device
from roseinfer.engine.limits import CPU_BATCH_SIZE
from roseinfer.errors import RoseinferError, UsageError


def run_benchmark(call: BenchCall) -> int:
    """Measure every configuration that `call` names, print the results, and return the exit code."""
    limit_percent = None if call.fail_above is None else parse_percent(call.fail_above)
    baseline = None if call.baseline is None else read_baseline(call.baseline)
    axes = _axes(call)
    slo = None if call.slo is None else parse_slo(call.slo)
    to_measure = cells(_with_batch_limit(call.config), axes)
    call.check_ray(len(to_measure))
    if call.ray is not None:
        from roseinfer.cli.bench.ray_benchmarking import run_ray_benchmark

        [cell] = to_measure
        engine = replace(call.config.engine, max_batch_size=cell.max_batch_size)
        config = replace(call.config, engine=engine, workload=cell.workload, sampling=cell.sampling)
        check_offline(config, "bench")
        run_ray_benchmark(replace(call, config=config), call.ray)
        return 0
    if call.searched is not None and len(to_measure) > 1:
        raise UsageError("a search starts from one configuration: give one value of each option")
    if baseline is not None:
        check_names(baseline, to_measure)
    measurement = measure(call, to_measure, slo, judged_by=None if limit_percent is None else baseline)
    results, measured = measurement.results, measurement.measured
    if call.baseline is not None and baseline is not None and not measurement.is_interrupted:
        compared = comparison(call.baseline, baseline, results, limit_percent)
        results = msgspec.structs.replace(results, comparison=compared)
    try:
        print_results(results, measured, call.result_format, grid=axes.is_grid)
        if results.comparison is not None and call.result_format != "md":  # whose document holds the comparison
            print_comparison(results.comparison, to_stderr=call.result_format != "table")
        sys.stdout.flush()
    finally:  # a reader of stdout that has left, or a full disk, costs no file
        are_written = _write_files(call, measurement, results)
    if measurement.is_interrupted:
        console.print_error(f"{interrupted_word()} after {len(measured)} of {len(to_measure)} configurations")
        return interrupted_code()
    if not are_written:
        return exit_codes.RUN_FAILED
    return 0 if results.comparison is None else comparison_exit_code(results.comparison.regressed)


def _write_files(call: BenchCall, measurement: Measurement, results: BenchResults) -> bool:
    """Write the files that the call asks for. Prints an error for each that cannot be written, and returns False."""
    writers: list[Callable[[], None]] = []
    if (requests := call.save_requests) is not None:
        figures = [(each.name, each.figures) for each in measurement.measured]
        writers.append(lambda: save_requests(requests, figures))
    if (plot := call.plot) is not None:
        writers.append(lambda: draw_plot(plot, results))
    are_written = True
    for write in writers:
        try:
            write()
        except RoseinferError as error:
            console.print_error(str(error))
            are_written = False
    return are_written


def _with_batch_limit(config: RunConfig) -> RunConfig:
    """Return the config with the batch limit that a CPU has if none is set; a GPU's is known once a model is loaded."""
    if config.engine.max_batch_size is not None or resolve_device(config.engine.device).type != "cpu":
        return config
    return replace(config, engine=replace(config.engine, max_batch_size=CPU_BATCH_SIZE))


def _axes(call: BenchCall) -> Axes:
    modes: tuple[Mode, ...] = get_args(Mode)
    return Axes(
        modes=modes if call.mode == "all" else [mode for mode in modes if mode == call.mode],
        max_batch_sizes=listed("--max-batch-size", call.max_batch_size, positive_int, "whole numbers"),
        prompt_lengths=listed("--prompt-length", call.prompt_length, str, "lengths"),
        max_new_tokens=listed("--max-new-tokens", call.max_new_tokens, whole_number, "whole numbers"),
        request_rates=listed("--request-rate", call.request_rate, rate, "numbers"),
    )
