"""Try the advice on runs of known kinds, and compare what it reaches with an exhaustive grid of settings.

    python -m benchmarks.closed_loop --device cpu --only tutorial --grid     # 97 % of the grid's best?
    python -m benchmarks.closed_loop --device cuda > gpu.txt                 # predictions on a GPU
    python -m benchmarks.closed_loop --from cpu.txt gpu.txt --record         # benchmarks/results/predictions.md

Each run is recorded by `roseinfer profile`, and its advice tried by `roseinfer summarize --try`. Results are printed as
lines of JSON as they come. Grid points run in processes of their own, interleaved with the settings that --try found,
at most 3 s each; the best of them are then measured again.
"""

import argparse
import itertools
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import msgspec

from benchmarks.record_option import add_record_options, check_record_options, write_record
from roseinfer.advice.levers import Settings, as_options, changed
from roseinfer.advice.prediction_scores import score_card
from roseinfer.advice.predictions import Prediction
from roseinfer.advice.recorded_run import read_run
from roseinfer.advice.trial_process import TrialProcess, TrialStarter
from roseinfer.cli.rendering.advice_sheets import fault_line, score_sheets, verdict_on

NAME = "predictions.md"
_PREFIX = "RESULT "
_POINT_S = 3.0
_ROUNDS = 4
_FINAL_ROUNDS = 8
_BEST = 3
_AT_ONCE = 6
"""Grid points whose processes exist at the same time."""


class Scenario(NamedTuple):
    """A run whose cause of slowness is known."""

    name: str
    what: str
    devices: tuple[str, ...]
    options: tuple[str, ...]
    is_busy: bool = False
    """True if another program uses a core meanwhile."""


_TUTORIAL = ("--config", "tutorial-gpt2", "--attention", "gather")
_SHORT = ("--max-new-tokens", "6")
"""A pass of the tutorial run with all of its 16 tokens per request takes 4 s on two cores."""
_GPT2 = ("--model", "gpt2", "--load-format", "dummy", "--no-stop-on-eos")
_QWEN = ("--model", "qwen3-0.6b", "--load-format", "dummy", "--no-stop-on-eos")
_SLOW_GPU = ("--no-cuda-graphs", "--max-decode-steps", "1", "--no-overlap")


def _drawn(prompt: int, new: int, requests: int) -> tuple[str, ...]:
    lengths = ("--prompt-length", str(prompt), "--max-new-tokens", str(new))
    return (*lengths, "--num-requests", str(requests), "--mode", "offline")


SCENARIOS = (
    Scenario("tutorial", "tutorial run, gathered KV cache", ("cpu",), (*_TUTORIAL, *_SHORT, "--no-compile")),
    Scenario("tutorial", "tutorial run, gathered KV cache, no graphs", ("cuda",), (*_TUTORIAL, *_SLOW_GPU)),
    Scenario(
        "memory-bound",
        "decodes that read all weights for 4 requests",
        ("cpu",),
        (*_GPT2, *_drawn(16, 16, 8), "--max-batch-size", "4", "--compile", "--dtype", "float32"),
    ),
    Scenario(
        "long prompts",
        "prompts of 400 tokens, few new tokens",
        ("cpu",),
        (
            *_GPT2,
            *_drawn(400, 4, 8),
            "--max-batch-size",
            "4",
            "--no-compile",
            "--dtype",
            "float32",
            "--phase",
            "prefill",
        ),
    ),
    Scenario("few threads", "one thread", ("cpu",), (*_GPT2, *_drawn(16, 8, 8), "--no-compile", "--threads", "1")),
    Scenario(
        "busy machine",
        "tutorial run beside a program that uses a core",
        ("cpu",),
        (*_TUTORIAL, *_SHORT, "--no-compile"),
        is_busy=True,
    ),
    Scenario(
        "launch-bound",
        "kernels launched one by one",
        ("cuda",),
        (*_QWEN, *_drawn(64, 64, 32), "--max-batch-size", "8", *_SLOW_GPU),
    ),
    Scenario(
        "host-bound",
        "graphs of one decode step, without overlap",
        ("cuda",),
        (*_QWEN, *_drawn(64, 64, 32), "--max-batch-size", "8", "--max-decode-steps", "1", "--no-overlap"),
    ),
    Scenario(
        "memory-bound",
        "decodes that read all weights for 4 requests",
        ("cuda",),
        (
            "--model",
            "llama-3.2-3b",
            "--load-format",
            "dummy",
            "--no-stop-on-eos",
            *_drawn(64, 64, 16),
            "--max-batch-size",
            "4",
        ),
    ),
    Scenario(
        "long prompts",
        "prompts of 2,048 tokens in steps of 512",
        ("cuda",),
        (*_QWEN, *_drawn(2048, 16, 8), "--max-batch-tokens", "512", "--phase", "prefill"),
    ),
    Scenario("float32", "products in float32", ("cuda",), (*_QWEN, *_drawn(512, 32, 16), "--dtype", "float32")),
)


def main() -> None:
    """Parse the command line, run scenarios or read results, and print or record them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="*", default=[], help="names of scenarios [default: all of the device]")
    parser.add_argument("--grid", action="store_true", help="compare the tutorial run with an exhaustive grid")
    parser.add_argument("--budget", default="120s", help="budget of --try [default: 120s]")
    parser.add_argument("--from", dest="earlier", nargs="*", type=Path, default=[], help="what earlier calls printed")
    add_record_options(parser, NAME)
    arguments = parser.parse_args()
    check_record_options(parser, arguments)
    results = [each for path in arguments.earlier for each in _read(path)]
    if not arguments.earlier:
        results = [_measured(each, arguments) for each in _chosen(arguments)]
    write_record(arguments, NAME, as_markdown(results))


def _chosen(arguments: argparse.Namespace) -> list[Scenario]:
    chosen = [each for each in SCENARIOS if arguments.device in each.devices]
    return [each for each in chosen if not arguments.only or each.name in arguments.only]


def _measured(scenario: Scenario, arguments: argparse.Namespace) -> dict[str, Any]:
    """Record a run, try its advice, and print the result."""
    with tempfile.TemporaryDirectory() as folder, _busy(scenario.is_busy):
        device = ("--device", arguments.device)
        _roseinfer("profile", *scenario.options, *device, "--profile-dir", folder, "--json", "--quiet")
        run_dir = Path(folder, "latest").resolve()
        tried = _roseinfer("summarize", str(run_dir), "--try", "--budget", arguments.budget, "--json")
        summary = json.loads(_roseinfer("summarize", str(run_dir), "--json"))
        result = {
            "scenario": scenario.name,
            "what": scenario.what,
            "options": " ".join(scenario.options),
            "verdict": summary["verdict"]["headline"],
            "report": json.loads(tried),
        }
        print(_PREFIX + json.dumps(result), flush=True)
        if arguments.grid and scenario.name == "tutorial":
            result["grid"] = _grid(run_dir, result["report"])
            print(_PREFIX + json.dumps(result), flush=True)
    return result


def _roseinfer(*arguments: str) -> str:
    called = [sys.executable, "-m", "roseinfer", *arguments]
    print("$ roseinfer", *arguments, flush=True)
    return subprocess.run(called, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


@contextmanager
def _busy(is_busy: bool) -> Iterator[None]:
    """Use a core inside the context, if asked to."""
    if not is_busy:
        yield
        return
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


# The exhaustive grid.


def _grid(run_dir: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Measure all settings beside those that --try found; return the best, and how close --try came."""
    run = read_run(run_dir, "--try")
    found: Settings = report["combined"]["settings"] if report["combined"] else {}
    points = [changed(run.config.engine, point) for point in _points(run.is_gpu)]
    starter = TrialStarter(run, residents=6, deadline_s=lambda: time.monotonic() + 300)
    measured = _compared(starter, found, points, _ROUNDS)
    best = sorted(measured, key=lambda each: each[1], reverse=True)[:_BEST]
    print("the best again:", flush=True)
    again = _compared(starter, found, [point for point, _ in best], _FINAL_ROUNDS)
    point, saves = max(again, key=lambda each: each[1])
    return {
        "points": len(points),
        "tried": as_options(found),
        "best": as_options(point),
        "reached_percent": round(100 - saves, 1),  # the speed of --try relative to the best point's
        "all": [[as_options(each), round(saves, 1)] for each, saves in measured],
    }


def _points(is_gpu: bool) -> list[Settings]:
    """Return the settings of the grid, without those that are equivalent to others."""
    overlap, batch = (False, True), (8, 16)
    points: list[Settings] = []
    for attention, is_fast in itertools.product(("gather", "paged"), (False, True)):
        fast: Settings = {"cuda_graphs": is_fast} if is_gpu else {"compile": is_fast}
        if is_gpu and is_fast and attention == "gather":
            continue  # gathered attention is not captured
        steps = (1, 4, 16) if is_gpu and is_fast else (1,)
        for pairs in itertools.product(overlap, batch, steps):
            limits = {"max_decode_steps": pairs[2]} if is_gpu else {}
            points.append({"attention": attention, **fast, "overlap": pairs[0], "max_batch_size": pairs[1], **limits})
    return points


def _compared(
    starter: TrialStarter, found: Settings, points: list[Settings], rounds: int
) -> list[tuple[Settings, float]]:
    """Return what each point saves in percent against the settings found, measured in the same rounds."""
    measured = []
    for start in range(0, len(points), _AT_ONCE):
        wave = points[start : start + _AT_ONCE]
        processes = starter([found, *wave])
        try:
            for process in processes:
                process.warm_up()
            costs = _interleaved(processes, rounds)
        finally:
            for process in processes:
                process.close()
        for point, mine in zip(wave, costs[1:], strict=True):
            logs = [math.log(before / after) for before, after in zip(costs[0], mine, strict=False)]
            measured.append((point, 100 * (1 - math.exp(-fmean(logs)))))
            print(f"grid: {as_options(point) or 'the run itself'}: {measured[-1][1]:+.1f} % against --try", flush=True)
    return measured


def _interleaved(processes: list[TrialProcess], rounds: int) -> list[list[float]]:
    """Return the costs of each process by round; one that has run for 3 s is left out of later rounds."""
    costs: list[list[float]] = [[] for _ in processes]
    spent_s = [0.0] * len(processes)
    for _ in range(rounds):
        order = [at for at in range(len(processes)) if at == 0 or spent_s[at] < _POINT_S]
        random.shuffle(order)
        for at in order:
            began_s = time.monotonic()
            costs[at].append(processes[at].sample())
            spent_s[at] += time.monotonic() - began_s
    return costs


# The record.


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the results in what an earlier call printed: of each run the last one, which has the grid."""
    lines = path.read_text(encoding="utf-8").splitlines()
    results = [json.loads(line.removeprefix(_PREFIX)) for line in lines if line.startswith(_PREFIX)]
    if not results:
        raise SystemExit(f"{path} has no results: give what an earlier call printed")
    return list({(each["scenario"], each["report"]["device"]): each for each in results}.values())


def as_markdown(results: list[dict[str, Any]]) -> str:
    """Return the record: predicted against measured for each run, the scores, and the comparison with grids."""
    lines = [
        "# Advice, predicted and measured",
        "",
        "Each run was recorded by `roseinfer profile`, and its advice tried by `roseinfer summarize --try`. *Bound* is",
        "the upper bound of the advice, *Saves* what the change alone saved, both as shares of the time per token. The",
        "column +- is half of a 99.8 % confidence interval.",
        "",
        "Written by `python -m benchmarks.closed_loop --record`, from results of `--device cpu` and `--device cuda`.",
    ]
    predictions: list[Prediction] = []
    for result in results:
        report = result["report"]
        mine = msgspec.convert(report["predictions"], list[Prediction])
        predictions += mine
        lines += ["", f"## {result['scenario']}, {report['device']}", "", f"{result['what'].capitalize()}.", ""]
        lines += [f"`roseinfer profile {result['options']}`: {result['verdict']}", ""]
        lines += ["| finding | change | bound % | saves % | +- | outcome |", "|---|---|---:|---:|---:|---|"]
        for each in mine:
            bound = "" if each.bound_percent is None else f"{each.bound_percent:.1f}"
            cells = [
                f"`{each.rule}`",
                f"`{each.change}`",
                bound,
                f"{each.saves_percent:.1f}",
                f"{each.noise_percent:.1f}",
            ]
            lines.append(f"| {' | '.join(cells)} | {verdict_on(each)} |")
        lines += ["", *_combined_lines(report)]
        lines += [f"- {fault_line(each)}" for each in mine if each.above_bound]
        if "grid" in result:
            lines += ["", *_grid_lines(result["grid"])]
    for sheet in score_sheets(score_card(predictions)):
        lines += ["", f"## {sheet.title}", "", f"| {' | '.join(title for title, _ in sheet.columns)} |"]
        lines.append("|" + "|".join("---" if kind in ("name", "text") else "---:" for _, kind in sheet.columns) + "|")
        lines += [f"| {' | '.join(row)} |" for row in sheet.rows]
    return "\n".join(lines) + "\n"


def _combined_lines(report: dict[str, Any]) -> list[str]:
    lines = [f"- Two processes with the run's own settings differ by {report['control_percent']:.1f} %."]
    for name, what in (("combined", "Fastest"), ("reduced", "With reduced precision")):
        if (one := report[name]) is not None:
            lines.append(f"- {what}: `{one['options']}`, {one['speedup']:.2f}x (+- {one['noise_percent']:.1f} %).")
    lines += [f"- Not measured: `{each['change']}`: {each['reason']}." for each in report["untried"]]
    lines.append(f"- {report['took_s']:.0f} s of a budget of {report['budget_s']:.0f} s.")
    return lines


def _grid_lines(grid: dict[str, Any]) -> list[str]:
    return [
        f"- Best of a grid of {grid['points']} settings: `{grid['best']}`. What `--try` found reaches "
        f"{grid['reached_percent']:.1f} % of its speed."
    ]


if __name__ == "__main__":
    main()
