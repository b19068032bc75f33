"""Change the package in one small place at a time, and see whether the tests notice.

    python tests/mutate.py                                   # 200 mutants over the package
    python tests/mutate.py --only roseinfer/sampling -n 20   # of one part
    python tests/mutate.py --results build/mutants.jsonl     # keep results; the next call goes on after them

A seed draws the mutants, the same ones in each call. For each, the test files that can see its file run, the nearest
in terms of imports first, until one fails. Each run is a fork of a process that has imported the large libraries, in a
copy of the package: the checkout is never changed. Prints survivors, and exits with 1 if fewer than 90 % die.
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
from collections import deque
from functools import cache
from pathlib import Path

import pytest
from mutation_sites import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = ("torch", "triton", "tokenizers", "safetensors.torch", "tiktoken", "hypothesis", "transformers", "jinja2")
SLOW = {"test_pages_run.py", "test_follow.py", "test_packages.py", "test_pictures.py"}
"""Test files that take minutes, and see next to everything."""


def main() -> None:
    """Draw mutants, try each, and report."""
    arguments = _arguments()
    drawn = draw(arguments.only, arguments.number, arguments.seed)
    done = _read(arguments.results)
    os.environ["OMP_NUM_THREADS"] = "1"
    if not Path("/dev/nvidia0").exists():
        os.environ["TRITON_INTERPRET"] = "1"  # as tests/conftest.py does, which is too late here
    for name in IMPORTS:
        __import__(name)
    with tempfile.TemporaryDirectory(prefix="roseinfer-mutants-") as folder:
        tree = copy_tree(Path(folder))
        for index, mutant in enumerate(drawn, 1):
            if str(mutant) not in done:
                started_s = time.monotonic()
                done[str(mutant)] = killer(mutant, tree, arguments.files, arguments.timeout)
                seconds = round(time.monotonic() - started_s)
                _print(f"{index}/{len(drawn)} {done[str(mutant)] or 'SURVIVED'} ({seconds} s)  {mutant}")
                if arguments.results is not None:
                    with arguments.results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps([str(mutant), done[str(mutant)]]) + "\n")
    survivors = [mutant for mutant in map(str, drawn) if done[mutant] is None]
    killed = len(drawn) - len(survivors)
    _print(f"\n{killed} of {len(drawn)} mutants died ({100 * killed / len(drawn):.1f} %). Survivors:", *survivors)
    sys.exit(killed < 0.9 * len(drawn))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, default=200, help="mutants to draw [default: 200]")
    parser.add_argument("--seed", type=int, default=20, help="seed of the drawing [default: 20]")
    parser.add_argument("--only", default="roseinfer", help="folder or file to change [default: roseinfer]")
    parser.add_argument("--files", type=int, default=60, help="maximum test files per mutant [default: 60]")
    parser.add_argument("--timeout", type=int, default=600, help="seconds until a mutant is dead [default: 600]")
    parser.add_argument("--results", type=Path, help="file of results, to go on with")
    return parser.parse_args()


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
    for path in ROOT.iterdir():
        if path.name not in {"roseinfer", ".git", ".pytest_cache", ".hypothesis"}:
            (folder / path.name).symlink_to(path)
    shutil.copytree(ROOT / "roseinfer", folder / "roseinfer", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def killer(mutant: Mutant, tree: Path, files: int, timeout_s: int) -> str | None:
    """Return the test or test file that fails with this mutant, "time" if tests do not end, or None if none fails."""
    target = tree / mutant.path
    original = target.read_bytes()
    tests = nearest_tests(str(mutant.path))[:files]
    _write(target, mutant.source(original))
    try:
        failed = first_failure(tree, tests, timeout_s)
    finally:
        _write(target, original)
    if failed is not None and failed.startswith("tests/") and first_failure(tree, [failed], timeout_s) is not None:
        raise SystemExit(f"{failed} fails without a change: mend it first")
    return failed


def first_failure(tree: Path, tests: list[str], timeout_s: int) -> str | None:
    """Run tests in a fork until one fails. Return its name, "time" if the tests do not end, or None if all pass."""
    report = tree / "failed"
    report.unlink(missing_ok=True)
    if (child := os.fork()) == 0:
        _run_tests(tree, tests, report)
    ended_s = time.monotonic() + timeout_s
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > ended_s:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "time"
        time.sleep(0.1)
    return (report.read_text(encoding="utf-8") or None) if report.exists() else "the process ended"


def _write(path: Path, source: bytes) -> None:
    """Write a module, and remove its bytecode: two mutants of a file may have one size and one time."""
    path.write_bytes(source)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()


def _run_tests(tree: Path, tests: list[str], report: Path) -> None:
    """Run tests in this process, a fork, until one fails; write its name to `report`, or nothing; end the process."""
    os.setsid()
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path) != ROOT / "tests")]
    with open(tree / "output", "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    failures = _FirstFailure()
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-c", "pyproject.toml", "--rootdir", str(tree)]
    code = pytest.main([*options, *tests], plugins=[failures])
    if code in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        report.write_text("", encoding="utf-8")
    else:
        report.write_text(failures.name or f"pytest ended with {code!r}", encoding="utf-8")
    os._exit(0)


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


def _read(results: Path | None) -> dict[str, str | None]:
    if results is None or not results.exists():
        return {}
    return dict(json.loads(line) for line in results.read_text(encoding="utf-8").splitlines())


def _print(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
