"""Change the package in one small place at a time, and see whether the tests notice.

    python tests/mutate.py                                   # 200 mutants over the package
    python tests/mutate.py --only roseinfer/sampling -n 20   # of one part
    python tests/mutate.py --results build/mutants.jsonl     # keep results; the next call goes on after them
    python tests/mutate.py --results build/mutants.jsonl --retry   # try the survivors again, after new tests

A seed draws the mutants. A change of the package changes only the draws of its own place. Per mutant, its test files
run in order of imports, the nearest first, until one test fails. A test file first runs once in a copy of the package
that notes which places each test reaches, and in what time (tests/mutation_reach.py). For a mutant, only those tests of
the file run that reach it, the quickest first. Kernels that Triton compiles cannot be followed: all tests of a file
count for them, and tests/kernels runs for nothing but roseinfer/kernels.

Each run is a fork of a process that has imported the large libraries, in a copy of the package: the checkout is never
changed. Mutants that do the same as the package are explained in tests/mutation_equivalents.toml, and are not tried.
Prints a table and the survivors in Markdown, and exits with 1 if fewer than 90 % die or are explained. `--table FILE`
writes the table into a page.
"""

import argparse
import ast
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path

import hypothesis
import pytest
from mutation_reach import ReachRecorder, add_probes, read_reach
from mutation_results import Results, fate, read_equivalents, table, write_table
from mutation_sites import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = ("torch", "triton", "tokenizers", "safetensors.torch", "tiktoken", "transformers", "jinja2")
KERNELS, KERNEL_TESTS = "roseinfer/kernels", "tests/kernels/"
SLOW = {"test_pages_run.py", "test_follow.py", "test_packages.py", "test_pictures.py"}
"""Test files that take minutes, and see next to everything."""
RUN_S = 15.0
"""Expected time of the tests of one run: a fork takes seconds to import the package, and a long run ends late."""

STEADY_S = 1.0
"""Time of a test below which its failure counts at once. Others must pass without the change when they run again."""


def main() -> None:
    """Draw mutants, try each, and report."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no fork is left
    drawn = draw(arguments.only, arguments.number, arguments.seed)
    results, equivalents = Results(arguments.results), read_equivalents()
    wanted = {None, "survived"} if arguments.retry else {None}
    left = [mutant for mutant in drawn if fate(mutant, results, equivalents) in wanted]
    if left and not arguments.report:
        _prepare()
        with tempfile.TemporaryDirectory(prefix="roseinfer-mutants-") as folder:
            trial = Trial(Path(folder), drawn, results, arguments)
            for count, mutant in enumerate(left, 1):
                started_s = time.monotonic()
                killer = trial.killer_of(mutant)
                results.add_mutant(mutant, killer)
                _print(f"{count}/{len(left)} {killer or 'SURVIVED'} ({time.monotonic() - started_s:.0f} s)  {mutant}")
    lines, explained = table(drawn, results, equivalents)
    _print("", *lines)
    if arguments.table is not None:
        write_table(lines, arguments.table)
    sys.exit(explained < 90)


def _prepare() -> None:
    """Import what forks need, with the settings of tests/conftest.py, which is too late here."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if not Path("/dev/nvidia0").exists():
        os.environ["TRITON_INTERPRET"] = "1"
    for name in IMPORTS:
        __import__(name)
    load_plugins()
    # A failing example need not be made small, which takes minutes.
    hypothesis.settings.register_profile("mutants", phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])
    hypothesis.settings.load_profile("mutants")


def load_plugins() -> None:
    """Import the plugins of pytest, which each fork would do otherwise."""
    for plugin in entry_points(group="pytest11"):
        plugin.load()


class Trial:
    """Runs of tests in two copies of the repository: one with mutants, and one with probes."""

    def __init__(self, folder: Path, drawn: list[Mutant], results: Results, arguments: argparse.Namespace) -> None:
        self._drawn, self._results = drawn, results
        self._seconds, self._files, self._timeout_s = arguments.seconds, arguments.files, arguments.timeout
        self._probed_tree, self._tree = copy_tree(folder / "probed"), copy_tree(folder / "mutated")
        self._probed = add_probes(self._probed_tree, drawn)
        self._probed_keys = {drawn[index].key for index in self._probed}
        self._broken: set[str] = set()
        """Test files that did not end while they were recorded."""

    def killer_of(self, mutant: Mutant) -> str | None:
        """Return the test that fails with this mutant, "time" if tests do not end, or None if none fails."""
        for tests, expected_s in self._runs(mutant):
            while tests:
                timeout_s = 60 + 10 * expected_s
                failed = self._failure_with(mutant, tests, timeout_s)
                if failed is None:
                    break
                again = [failed] if failed in tests else tests
                if self._is_steady(failed) or first_failure(self._tree, again, timeout_s) is None:
                    return failed
                _print(f"{failed} fails without a change, and does not count")
                self._results.forget_test(failed)
                tests = [test for test in tests if test != failed] if failed in tests else []
        return None

    def _is_steady(self, test: str) -> bool:
        """True if a test passed without a change, in so little time that it depends on no other process."""
        reach = self._results.reach.get(test.split("::")[0])
        return reach is not None and any(name == test and seconds < STEADY_S for name, seconds, _ in reach.tests)

    def _failure_with(self, mutant: Mutant, tests: list[str], timeout_s: float) -> str | None:
        target = self._tree / mutant.path
        original = target.read_bytes()
        _write(target, mutant.source(original))
        try:
            return first_failure(self._tree, tests, timeout_s)
        finally:
            _write(target, original)

    def _runs(self, mutant: Mutant) -> Iterator[tuple[list[str], float]]:
        """Yield tests to run together, and their seconds: first all that reach the mutant, then others of their files.

        Together they take as long as `--seconds` says.
        """
        left_s = self._seconds
        run: list[str] = []
        expected_s = 0.0
        others: list[tuple[str, float]] = []
        in_kernels = mutant.path.is_relative_to(KERNELS)
        files = [file for file in nearest_tests(str(mutant.path)) if in_kernels or not file.startswith(KERNEL_TESTS)]
        for number, file in enumerate(files):
            is_recorded = self._is_recorded(file, mutant)
            if run and (expected_s > RUN_S or not is_recorded):
                yield run, expected_s
                run, expected_s = [], 0.0
            if not is_recorded and number < self._files:
                self._record(file)
            if file not in self._results.reach:
                continue
            for test, seconds, reaches in self._results.reach[file].chosen(mutant.key):
                if not reaches:
                    others.append((test, seconds))
                elif seconds <= left_s or left_s == self._seconds:
                    left_s, expected_s = left_s - seconds, expected_s + seconds
                    run.append(test)
        for test, seconds in others:
            if seconds <= left_s:
                left_s, expected_s = left_s - seconds, expected_s + seconds
                run.append(test)
        if run:
            yield run, expected_s

    def _is_recorded(self, file: str, mutant: Mutant) -> bool:
        """True if it is known which tests of a file reach a mutant, as far as that can be known."""
        reach = self._results.reach.get(file)
        if reach is None or reach.source != digest(ROOT / file):
            return file in self._broken
        return mutant.key in reach.probed or mutant.key not in self._probed_keys

    def _record(self, file: str) -> None:
        """Run a test file in the copy with probes."""
        started_s, note = time.monotonic(), self._probed_tree / "reach.json"
        note.unlink(missing_ok=True)
        recorder = ReachRecorder(self._probed_tree, len(self._drawn))
        in_fork(partial(_record, self._probed_tree, file, recorder, note), self._timeout_s)
        if note.exists():
            self._results.add_reach(file, read_reach(note, digest(ROOT / file), self._drawn, self._probed))
        else:
            self._broken.add(file)
        _print(f"{file}: {'recorded' if note.exists() else 'did not end'} ({time.monotonic() - started_s:.0f} s)")


def _record(tree: Path, test: str, recorder: ReachRecorder, note: Path) -> None:
    _run_pytest(tree, [test], recorder)
    recorder.write(note)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, default=200, help="mutants to draw [default: 200]")
    parser.add_argument("--seed", type=int, default=20, help="seed of the drawing [default: 20]")
    parser.add_argument("--only", default="roseinfer", help="folder or file to change [default: roseinfer]")
    parser.add_argument("--seconds", type=float, default=240, help="tests per mutant, in seconds [default: 240]")
    parser.add_argument("--files", type=int, default=20, help="test files to record for a mutant [default: 20]")
    parser.add_argument("--timeout", type=int, default=900, help="seconds to record a test file [default: 900]")
    parser.add_argument("--results", type=Path, help="file of results, to go on with")
    parser.add_argument("--retry", action="store_true", help="try the survivors among the results again")
    parser.add_argument("--report", action="store_true", help="print the table of the results, and try no mutant")
    parser.add_argument("--table", type=Path, help="page to write the table into, between its marks")
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
    return sorted(places, key=lambda mutant: hashlib.blake2b(f"{seed} {mutant.name}".encode()).digest())[:number]


def copy_tree(folder: Path) -> Path:
    """Return a copy of the repository in which only the package is copied, and all else is links."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in {"roseinfer", ".git", ".pytest_cache", ".hypothesis"}:
            (folder / path.name).symlink_to(path)
    shutil.copytree(ROOT / "roseinfer", folder / "roseinfer", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def first_failure(tree: Path, tests: list[str], timeout_s: float) -> str | None:
    """Run tests in a fork until one fails. Return its name, "time" if the tests do not end, or None if all pass."""
    note = tree / "failed"
    note.unlink(missing_ok=True)
    if not in_fork(partial(_test, tree, tests, note), timeout_s):
        return "time"
    return (note.read_text(encoding="utf-8") or None) if note.exists() else "the process ended"


def in_fork(work: Callable[[], None], timeout_s: float) -> bool:
    """Do something in a fork, as the leader of a session. Return False if it does not end in time."""
    if (child := os.fork()) == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            work()
        finally:
            os._exit(0)
    ended_s = time.monotonic() + timeout_s
    has_ended = False
    try:
        while time.monotonic() < ended_s and not has_ended:
            has_ended = os.waitpid(child, os.WNOHANG) != (0, 0)
            time.sleep(0.05)
    finally:
        if not has_ended:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return has_ended


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


def digest(path: Path) -> str:
    """Return a short digest of a file."""
    return hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()


@cache
def nearest_tests(path: str) -> list[str]:
    """Return the test files that can see a file of the package, the nearest first.

    A file is near with few imports in between, in the folder of the same name, and with words of the name in its own.
    """
    graph = _importers()
    distance = {path: 0}
    waiting = deque([path])
    while waiting:
        for importer in graph.get(at := waiting.popleft(), ()):
            if importer not in distance:
                distance[importer] = distance[at] + 1
                waiting.append(importer)
    folder, words = f"tests/{path.split('/')[1]}/", set(Path(path).stem.split("_"))
    tests = [name for name in distance if Path(name).name.startswith("test_") and Path(name).name not in SLOW]
    nearness = {
        name: distance[name] - name.startswith(folder) - len(words & set(Path(name).stem.split("_"))) for name in tests
    }
    return sorted(tests, key=lambda name: (nearness[name], name))


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
