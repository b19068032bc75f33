"""Which tests reach the places that mutants change: an instrumented copy of the package notes it.

Each place calls `reach` first, which writes to a file that all processes of a test share, forks and commands included.
"""

import ast
import contextlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from mutation_sites import Mutant

_VARIABLE = "ROSEINFER_REACHED"
_MODULE = "mutation_probe"
_PROBE = f'''"""Notes which mutants' places this process reaches."""
import mmap
import os

with open(os.environ["{_VARIABLE}"], "r+b") as file:
    reached = mmap.mmap(file.fileno(), 0)


def reach(index):
    reached[index] = 1
'''


@dataclass(frozen=True)
class FileReach:
    """What the tests of one file reach. Mutants are numbers."""

    tests: list[tuple[str, float, list[int]]]
    """Test, seconds, and the mutants that it or an earlier fixture of its file reaches."""
    imported: list[int]
    """Mutants that only an import reaches, such as constants of modules."""


def add_probes(tree: Path, mutants: list[Mutant]) -> None:
    """Let the package in `tree` call the probe at each mutant's place.

    Kernels, which Triton compiles from their source, and places that are patterns have no probe.
    """
    (tree / f"{_MODULE}.py").write_text(_PROBE, encoding="utf-8")
    by_path = defaultdict(list)
    for index, mutant in enumerate(mutants):
        by_path[tree / mutant.path].append((index, mutant))
    for path, places in by_path.items():
        original = path.read_bytes()
        kernels = list(_kernel_lines(original))
        probed = [place for place in places if not any(place[1].line in lines for lines in kernels)]
        if not _compiles(_with_probes(original, probed)):
            probed = [place for place in probed if _compiles(_with_probes(original, [place]))]
        path.write_bytes(_with_probes(original, probed))


def _with_probes(source: bytes, places: list[tuple[int, Mutant]]) -> bytes:
    texts = []
    for index, mutant in places:
        call = f'__import__("{_MODULE}").reach({index})'
        size = mutant.stop - mutant.start
        if mutant.is_statement:
            texts.append((mutant.start, 1, -size - 0.5, f"{call}; "))
        else:
            texts.append((mutant.start, 1, -size, f"({call}, "))
            texts.append((mutant.stop, 0, 0, ")[1]"))
    # Text is inserted from the end of the source on. Of places that begin together, the outer one comes last.
    for at, _, _, text in sorted(texts, reverse=True):
        source = source[:at] + text.encode() + source[at:]
    return source


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "place", "exec")
    except SyntaxError:
        return False
    return True


def _kernel_lines(source: bytes) -> Iterable[range]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(each) for each in node.decorator_list):
            yield range(node.lineno, node.end_lineno + 1)  # type: ignore[operator]


class ReachRecorder:
    """A plugin of pytest that notes what each test reaches, and how long it takes."""

    def __init__(self, folder: Path, size: int) -> None:
        self._map = folder / "reached"
        self._map.write_bytes(bytes(size + 1))
        os.environ[_VARIABLE] = str(self._map)
        self._tests: list[tuple[str, float, list[int]]] = []
        self._imported: set[int] = set()
        self._by_fixtures: set[int] = set()
        self._own: set[int] = set()
        self._failed = False

    def _take(self) -> set[int]:
        with self._map.open("r+b") as file:
            found = {index for index, byte in enumerate(file.read()) if byte}
            for index in found:
                file.seek(index)
                file.write(b"\0")
        return found

    def pytest_collection_finish(self) -> None:
        self._imported = self._take()

    def pytest_runtest_logstart(self) -> None:
        self._started_s, self._own, self._failed = time.monotonic(), self._take(), False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = self._take()
        if report.when == "setup":
            self._by_fixtures |= found
        self._own |= found
        self._failed |= report.failed

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        if not self._failed:
            reached = sorted(self._own | self._by_fixtures)
            self._tests.append((nodeid, round(time.monotonic() - self._started_s, 3), reached))

    def write(self, path: Path) -> None:
        """Write what was noted, as JSON."""
        reached = {index for _, _, mutants in self._tests for index in mutants}
        document = {"tests": self._tests, "imported": sorted(self._imported - reached)}
        path.write_text(json.dumps(document), encoding="utf-8")


def read_reach(text: str) -> FileReach:
    """Read the JSON of a recorder."""
    document = json.loads(text)
    return FileReach([(name, seconds, mutants) for name, seconds, mutants in document["tests"]], document["imported"])


def reaching_tests(index: int, files: dict[str, FileReach], limit_s: float) -> list[str]:
    """Return tests to run for a mutant: those that reach it, without the slowest if all take longer than `limit_s`.

    If only imports reach it, the tests of the files that import it. If there is time left, the other tests of these
    files follow: a result that tests of a file share is computed by the first of them.
    """
    every = [
        (seconds, name, at, test) for name, file in files.items() for at, (test, seconds, _) in enumerate(file.tests)
    ]
    reaches = {test for file in files.values() for test, _, mutants in file.tests if index in mutants}
    importing = {name for name, file in files.items() if index in file.imported}
    names = {name for _, name, _, test in every if test in reaches} or importing
    chosen: list[str] = []
    for is_first in (True, False):
        kept = []
        for seconds, name, at, test in sorted(every):
            if name in names and (test in reaches) == is_first and (limit_s >= seconds or not chosen + kept):
                limit_s -= seconds
                kept.append((name, at, test))
        chosen += [test for _, _, test in sorted(kept)]
    return chosen


def forget(test: str, files: dict[str, FileReach]) -> None:
    """Remove a test, which also fails without a change."""
    for file in files.values():
        with contextlib.suppress(StopIteration):
            file.tests.remove(next(each for each in file.tests if each[0] == test))
