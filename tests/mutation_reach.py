"""Which tests reach the places that mutants change: an instrumented copy of the package notes it.

Each place calls `reach` first, which writes to a file that all processes of a test share, forks and commands included.
"""

import ast
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
    """What the tests of one file reach. Places are keys of mutants."""

    source: str
    """Digest of the file when its tests ran."""
    probed: frozenset[str]
    """Places that had a probe when the tests ran."""
    tests: list[tuple[str, float, frozenset[str]]]
    """Test, seconds, and the places that it or an earlier fixture of its file reaches."""
    imported: frozenset[str]
    """Places that only an import reaches, such as constants of modules."""

    def chosen(self, key: str) -> list[tuple[str, float, bool]]:
        """Return (test, seconds, reaches it) for a place, the quickest first; nothing if the file does not reach it.

        The tests that do not reach it come last: a result that tests of a file share is computed by the first of them.
        Of a place that only imports reach, and of one without a probe, all tests count as reaching it.
        """
        by_import = key in self.imported or key not in self.probed
        chosen = [(test, seconds, by_import or key in reached) for test, seconds, reached in self.tests]
        if not any(reaches for _, _, reaches in chosen):
            return []
        return sorted(chosen, key=lambda each: (not each[2], each[1], each[0]))


def add_probes(tree: Path, mutants: list[Mutant]) -> set[int]:
    """Let the package in `tree` call the probe at each mutant's place, and return which have one.

    Kernels, which Triton compiles from their source, and places that are patterns have no probe.
    """
    found: set[int] = set()
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
        found |= {index for index, _ in probed}
    return found


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
        """Write what was noted, as JSON. Places are numbers."""
        reached = {index for _, _, mutants in self._tests for index in mutants}
        document = {"tests": self._tests, "imported": sorted(self._imported - reached)}
        path.write_text(json.dumps(document), encoding="utf-8")


def read_reach(path: Path, source: str, mutants: list[Mutant], probed: set[int]) -> FileReach:
    """Read what a recorder wrote. Raises OSError if it wrote nothing."""
    document = json.loads(path.read_text(encoding="utf-8"))
    keys = [mutant.key for mutant in mutants]
    return FileReach(
        source,
        frozenset(keys[index] for index in probed),
        [(test, seconds, frozenset(keys[index] for index in found)) for test, seconds, found in document["tests"]],
        frozenset(keys[index] for index in document["imported"]),
    )
