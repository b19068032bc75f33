"""Measure the cost of spans while no profiler runs: per span, and per decode step with spans against one without.

    python benchmarks/spans.py [--repeats 10]

For the step without spans, the import removes all `with span(...)` statements from the code. The two kinds of step take
turns, each in its own process, and the ratio is computed for each pair.
"""

import argparse
import ast
import importlib.abc
import importlib.machinery
import importlib.util
import json
import subprocess
import sys
import timeit
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from types import ModuleType

_REPOSITORY = Path(__file__).resolve().parents[1]
_STEPS = 120


class _SpanRemover(ast.NodeTransformer):
    """Replaces `with span(...): body` by the body."""

    def visit_With(self, node: ast.With) -> ast.AST:
        self.generic_visit(node)
        kept = [item for item in node.items if not _is_span(item.context_expr)]
        if len(kept) == len(node.items):
            return node
        if kept:
            node.items = kept
            return node
        return ast.If(test=ast.Constant(value=True), body=node.body, orelse=[])


def _is_span(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name) and expression.func.id == "span"


class _WithoutSpans(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import hook that removes the spans from roseinfer's modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("roseinfer."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            return None
        return importlib.util.spec_from_file_location(
            fullname, spec.origin, loader=self, submodule_search_locations=spec.submodule_search_locations
        )

    def exec_module(self, module: ModuleType) -> None:
        assert module.__file__ is not None
        tree = _SpanRemover().visit(ast.parse(Path(module.__file__).read_text(encoding="utf-8")))
        exec(compile(ast.fix_missing_locations(tree), module.__file__, "exec"), module.__dict__)


def measure_step_ms() -> float:
    """Return the median wall time in ms of the demo model's decode step at batch 1."""
    import time

    from roseinfer.config import EngineConfig, SamplingParams
    from roseinfer.engine.factory import build_engine

    engine = build_engine(EngineConfig())
    scheduler = engine.scheduler("online")
    scheduler.submit("Once upon a time", SamplingParams(max_new_tokens=_STEPS, stop_on_eos=False))
    times = []
    while scheduler.has_unfinished:
        begun_s = time.perf_counter()
        scheduler.step()
        times.append((time.perf_counter() - begun_s) * 1e3)
    return median(times[_STEPS // 4 :])


def span_us() -> float:
    """Return the time in us of one span around an empty body."""
    from roseinfer.spans import span

    def one() -> None:
        with span("roseinfer.benchmark"):
            pass

    calls = 200_000
    return min(timeit.repeat(one, number=calls, repeat=5)) / calls * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10, help="pairs of processes [default: %(default)s]")
    parser.add_argument("--step", choices=("with", "without"), help="internal: measure one kind, print its median")
    arguments = parser.parse_args()
    if arguments.step:
        if arguments.step == "without":
            sys.meta_path.insert(0, _WithoutSpans())
        print(measure_step_ms())
        return
    ratios, medians = [], {"with": [], "without": []}
    for _ in range(arguments.repeats):
        for kind in medians:
            command = [sys.executable, __file__, "--step", kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=_REPOSITORY)
            medians[kind].append(float(done.stdout))
        ratios.append(medians["with"][-1] / medians["without"][-1])
    print(
        json.dumps(
            {
                "span_us": round(span_us(), 3),
                "step_ms_with_spans": round(median(medians["with"]), 3),
                "step_ms_without_spans": round(median(medians["without"]), 3),
                "ratio_median": round(median(ratios), 4),
                "ratio_min": round(min(ratios), 4),
                "ratio_max": round(max(ratios), 4),
                "repeats": arguments.repeats,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
