"""Change the package in one small place at a time, and see whether the tests notice.

    python tests/mutate.py                                   # 200 mutants over the package
    python tests/mutate.py --only roseinfer/sampling -n 20   # of one part
    python tests/mutate.py --results build/mutants.jsonl     # keep results; the next call goes on after them

A seed draws the mutants, the same ones in each call. First each test file runs once, and notes which of the places its
tests reach (tests/mutation_reach.py). Then, per mutant, the tests that reach its place run, until one fails. Kernels
that Triton compiles cannot be followed: for all of `roseinfer/kernels`, the nearest test files in terms of imports run,
and tests/kernels runs for nothing else. Each run is a fork of a process that has imported the large libraries, in a
copy of the package: the checkout is never changed. Prints a table and the survivors in Markdown, and exits with 1 if
fewer than 90 % die.
"""

import argparse
import ast
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from mutation_reach import FileReach, ReachRecorder, add_probes, forget, reaching_tests, read_reach
from mutation_sites import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = ("torch", "triton", "tokenizers", "safetensors.torch", "tiktoken", "hypothesis", "transformers", "jinja2")
KERNELS = "roseinfer/kernels"
SLOW = {"test_pages_run.py", "test_follow.py", "test_packages.py", "test_pictures.py"}
"""Test files that take minutes, and see next to everything."""


def main() -> None:
    """Draw mutants, try each, and report."""
    arguments = _arguments()
    drawn = draw(arguments.only, arguments.number, arguments.seed)
    results = Results(arguments.results)
    os.environ["OMP_NUM_THREADS"] = "1"
    if not Path("/dev/nvidia0").exists():
        os.environ["TRITON_INTERPRET"] = "1"  # as tests/conftest.py does, which is too late here
    for name in IMPORTS:
        __import__(name)
    with tempfile.TemporaryDirectory(prefix="roseinfer-mutants-") as folder:
        files = record_reach(drawn, copy_tree(Path(folder) / "probed"), arguments.timeout, results)
        tree = copy_tree(Path(folder) / "mutated")
        for index, mutant in enumerate(drawn):
            if str(mutant) in results.killers or index % arguments.of != arguments.part - 1:
                continue
            started_s = time.monotonic()
            tests = [] if mutant.path.is_relative_to(KERNELS) else reaching_tests(index, files, arguments.seconds)
            tests = tests or nearest_tests(str(mutant.path))[: arguments.files]
            killer = killer_of(mutant, tests, tree, arguments.timeout, files)
            results.add_mutant(str(mutant), killer)
            seconds = round(time.monotonic() - started_s)
            _print(f"{index + 1}/{len(drawn)} {killer or 'SURVIVED'} ({seconds} s, {len(tests)} chosen)  {mutant}")
    tried = [mutant for mutant in drawn if str(mutant) in results.killers]
    killed = report(tried, results.killers)
    sys.exit(killed < 0.9 * len(tried))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, default=200, help="mutants to draw [default: 200]")
    parser.add_argument("--seed", type=int, default=20, help="seed of the drawing [default: 20]")
    parser.add_argument("--only", default="roseinfer", help="folder or file to change [default: roseinfer]")
    parser.add_argument("--seconds", type=float, default=240, help="tests to choose, in seconds [default: 240]")
    parser.add_argument("--files", type=int, default=12, help="test files for a kernel [default: 12]")
    parser.add_argument("--timeout", type=int, default=900, help="seconds until a mutant is dead [default: 900]")
    parser.add_argument("--results", type=Path, help="file of results, to go on with")
    parser.add_argument("--part", type=int, default=1, help="part of the mutants to try in this process [default: 1]")
    parser.add_argument("--of", type=int, default=1, help="number of parts [default: 1]")
    return parser.parse_args()


class Results:
    """What is known so far, also in a file of JSON lines if there is one."""

    def __init__(self, path: Path | None) -> None:
        self.killers: dict[str, str | None] = {}
        self.reach: dict[str, str] = {}
        self._path = path
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._take(json.loads(line))

    def _take(self, row: dict[str, Any]) -> None:
        if "mutant" in row:
            self.killers[row["mutant"]] = row["killer"]
        else:
            self.reach[row["file"]] = row["reach"]

    def add_mutant(self, mutant: str, killer: str | None) -> None:
        self._add({"mutant": mutant, "killer": killer})

    def add_reach(self, file: str, reach: str) -> None:
        self._add({"file": file, "reach": reach})

    def _add(self, row: dict[str, Any]) -> None:
        self._take(row)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def report(drawn: Sequence[Mutant], killers: dict[str, str | None]) -> int:
    """Print mutants by folder, and survivors. Return how many mutants died."""
    died, total = Counter[str](), Counter[str]()
    for mutant in drawn:
        folder = "/".join(mutant.path.parts[:2])
        total[folder] += 1
        died[folder] += killers[str(mutant)] is not None
    _print("", "| part | mutants | died |", "| --- | ---: | ---: |")
    _print(*(f"| `{folder}` | {total[folder]} | {died[folder]} |" for folder in sorted(total)))
    killed = died.total()
    _print(f"| all | {len(drawn)} | {killed} |", "", f"{100 * killed / len(drawn):.1f} % died. Survivors:")
    _print(*(f"- `{mutant}`" for mutant in map(str, drawn) if killers[mutant] is None))
    return killed


def draw(only: str, number: int, seed: int) -> list[Mutant]:
    """Draw mutants, each place of the sources with equal probability, in random order."""
    places = []
    for path in sorted(ROOT.glob("roseinfer/**/*.py")):
        name = path.relative_to(ROOT)
        if name.is_relative_to(only):
            places += mutants_of(name, path.read_bytes())
    if not places:
        raise SystemExit(f"nothing to change in {only!r}: name a folder or file of roseinfer/")
    return random.Random(seed).sample(places, min(number, len(places)))


def copy_tree(folder: Path) -> Path:
    """Return a copy of the repository in which only the package is copied, and all else is links."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in {"roseinfer", ".git", ".pytest_cache", ".hypothesis"}:
            (folder / path.name).symlink_to(path)
    shutil.copytree(ROOT / "roseinfer", folder / "roseinfer", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def record_reach(drawn: list[Mutant], tree: Path, timeout_s: int, results: Results) -> dict[str, FileReach]:
    """Run each test file that can see a mutant in a copy with probes; return what its tests reach."""
    add_probes(tree, drawn)
    seen = {str(mutant.path) for mutant in drawn if not mutant.path.is_relative_to(KERNELS)}
    needed = {test for path in seen for test in nearest_tests(path) if not test.startswith("tests/kernels/")}
    for test in sorted(needed - results.reach.keys()):
        started_s, note = time.monotonic(), tree / "reach.json"
        note.unlink(missing_ok=True)
        recorder = ReachRecorder(tree, len(drawn))
        in_fork(partial(_record, tree, test, recorder, note), timeout_s)
        if note.exists():
            results.add_reach(test, note.read_text(encoding="utf-8"))
        _print(f"{test}: {'recorded' if note.exists() else 'did not end'} ({time.monotonic() - started_s:.0f} s)")
    return {test: read_reach(results.reach[test]) for test in sorted(needed & results.reach.keys())}


def _record(tree: Path, test: str, recorder: ReachRecorder, note: Path) -> None:
    _run_pytest(tree, [test], recorder)
    recorder.write(note)


def killer_of(mutant: Mutant, tests: list[str], tree: Path, timeout_s: int, files: dict[str, FileReach]) -> str | None:
    """Return the test that fails with this mutant, "time" if tests do not end, or None if none fails."""
    target = tree / mutant.path
    original = target.read_bytes()
    while True:
        _write(target, mutant.source(original))
        try:
            failed = first_failure(tree, tests, timeout_s)
        finally:
            _write(target, original)
        if failed is None or not failed.startswith("tests/") or first_failure(tree, [failed], timeout_s) is None:
            return failed
        _print(f"{failed} fails without a change, and does not count")
        forget(failed, files)
        tests = [test for test in tests if test != failed]


def first_failure(tree: Path, tests: list[str], timeout_s: int) -> str | None:
    """Run tests in a fork until one fails. Return its name, "time" if the tests do not end, or None if all pass."""
    note = tree / "failed"
    note.unlink(missing_ok=True)
    if not in_fork(partial(_test, tree, tests, note), timeout_s):
        return "time"
    return (note.read_text(encoding="utf-8") or None) if note.exists() else "the process ended"


def in_fork(work: Callable[[], None], timeout_s: int) -> bool:
    """Do something in a fork, as the leader of a session. Return False if it does not end in time."""
    if (child := os.fork()) == 0:
        os.setsid()
        try:
            work()
        finally:
            os._exit(0)
    ended_s = time.monotonic() + timeout_s
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > ended_s:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.05)
    return True


def _write(path: Path, source: bytes) -> None:
    """Write a module, and remove its bytecode: two mutants of a file may have one size and one time."""
    path.write_bytes(source)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()


def _test(tree: Path, tests: list[str], note: Path) -> None:
    """Run tests until one fails; write its name to `note`, or nothing."""
    failures = _FirstFailure()
    code = _run_pytest(tree, ["-x", *tests], failures)
    if code in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        note.write_text("", encoding="utf-8")
    else:
        note.write_text(failures.name or f"pytest ended with {code!r}", encoding="utf-8")


def _run_pytest(tree: Path, arguments: list[str], plugin: object) -> int | pytest.ExitCode:
    """Run pytest in this process, a fork, in a copy of the repository."""
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path) != ROOT / "tests")]
    with open(tree / "output", "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "-c", "pyproject.toml", "--rootdir", str(tree)]
    return pytest.main([*options, *arguments], plugins=[plugin])


class _FirstFailure:
    name: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.name is None:
            self.name = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and self.name is None:
            self.name = report.nodeid


@cache
def nearest_tests(path: str) -> list[str]:
    """Return the test files that can see a file of the package, those with the fewest imports in between first."""
    graph = _importers()
    distance = {path: 0}
    waiting = deque([path])
    while waiting:
        for importer in graph.get(at := waiting.popleft(), ()):
            if importer not in distance:
                distance[importer] = distance[at] + 1
                waiting.append(importer)
    folder = f"tests/{path.split('/')[1]}/"
    tests = [name for name in distance if Path(name).name.startswith("test_") and Path(name).name not in SLOW]
    return sorted(tests, key=lambda name: (distance[name] - name.startswith(folder), name))


@cache
def _importers() -> dict[str, set[str]]:
    """Return, per file of package and tests, the files that import it. Tests of commands import all of them."""
    files = [str(path.relative_to(ROOT)) for top in ("roseinfer", "tests") for path in ROOT.glob(f"{top}/**/*.py")]
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name for name in files}
    modules |= {Path(name).stem: name for name in files if name.startswith("tests/")}
    found: dict[str, set[str]] = {}
    for name in files:
        for module in _imported(ROOT / name):
            if (target := modules.get(module)) is not None and target != name:
                found.setdefault(target, set()).add(name)
        if name.startswith("roseinfer/cli/") and name.endswith("_command.py"):
            found.setdefault(name, set()).add("roseinfer/cli/app.py")
    found.setdefault("roseinfer/cli/app.py", set()).add("tests/cli/command.py")
    return found


def _imported(path: Path) -> set[str]:
    """Return the names of modules, and of what is imported from them, anywhere in a file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _print(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
