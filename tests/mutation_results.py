"""Results of trying mutants, in a file of JSON lines that a later call goes on with, and the table made of them."""

import json
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mutation_reach import FileReach
from mutation_sites import Mutant

EQUIVALENTS = Path(__file__).with_name("mutation_equivalents.toml")
"""Why some mutants do the same as the package: reasons by name of the mutant."""
MARK = "<!-- written by tests/mutate.py -->"


def read_equivalents(path: Path = EQUIVALENTS) -> dict[str, str]:
    """Return the reason per name of an equivalent mutant."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


class Results:
    """Killers of mutants and what tests reach, also in a file if there is one. Later lines replace earlier ones."""

    def __init__(self, path: Path | None) -> None:
        self.killers: dict[str, str | None] = {}
        """Per mutant's name, the test that failed, "time" if tests did not end, or None if it survived."""
        self.reach: dict[str, FileReach] = {}
        """By test file."""
        self._path = path
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._take(json.loads(line))

    def _take(self, row: dict[str, Any]) -> None:
        if "mutant" in row:
            self.killers[row["mutant"]] = row["killer"]
            return
        tests = [(test, seconds, frozenset(reached)) for test, seconds, reached in row["tests"]]
        self.reach[row["file"]] = FileReach(row["source"], frozenset(row["probed"]), tests, frozenset(row["imported"]))

    def add_mutant(self, mutant: Mutant, killer: str | None) -> None:
        """Note the result of a mutant."""
        self._add({"mutant": mutant.name, "killer": killer})

    def add_reach(self, file: str, reach: FileReach) -> None:
        """Note what the tests of a file reach."""
        tests = [(test, seconds, sorted(reached)) for test, seconds, reached in reach.tests]
        self._add(
            {
                "file": file,
                "source": reach.source,
                "probed": sorted(reach.probed),
                "tests": tests,
                "imported": sorted(reach.imported),
            }
        )

    def forget_test(self, test: str) -> None:
        """Choose a test no longer, since it fails without a change too."""
        file = test.split("::")[0]
        if file in self.reach:
            reach = self.reach[file]
            tests = [each for each in reach.tests if each[0] != test]
            self.reach[file] = replace(reach, tests=tests)

    def _add(self, row: dict[str, Any]) -> None:
        self._take(row)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def fate(mutant: Mutant, results: Results, equivalents: dict[str, str]) -> str | None:
    """Return "died", "equivalent" or "survived"; None if it was not tried."""
    if results.killers.get(mutant.name) is not None:
        return "died"
    if mutant.name in equivalents:
        return "equivalent"
    return "survived" if mutant.name in results.killers else None


def table(drawn: Sequence[Mutant], results: Results, equivalents: dict[str, str]) -> tuple[list[str], float]:
    """Return the results as lines of Markdown, and the percentage of them that died or are equivalent."""
    fates = {mutant: found for mutant in drawn if (found := fate(mutant, results, equivalents)) is not None}
    parts: dict[str, Counter[str]] = {}
    for mutant, found in fates.items():
        parts.setdefault("/".join(mutant.path.parts[:2]), Counter())[found] += 1
    total = sum(parts.values(), Counter[str]())
    explained = 100 * (1 - total["survived"] / max(1, len(fates)))
    lines = ["| part | tried | died | equivalent | survived |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [_row(f"`{part}`", parts[part]) for part in sorted(parts)]
    lines += [_row(f"all, of {len(drawn)} drawn", total), "", f"{explained:.1f} % died or are equivalent."]
    for title, wanted in (("Equivalent:", "equivalent"), ("Survivors:", "survived")):
        if total[wanted]:
            lines += ["", title, ""]
        for mutant in sorted((one for one, found in fates.items() if found == wanted), key=lambda one: one.name):
            why = f": {equivalents[mutant.name]}" if wanted == "equivalent" else ""
            lines.append(f"- `{mutant.name}`{why}")
    return lines, explained


def _row(part: str, counts: Counter[str]) -> str:
    return f"| {part} | {counts.total()} | {counts['died']} | {counts['equivalent']} | {counts['survived']} |"


def write_table(lines: list[str], page: Path) -> None:
    """Write a table between the two marks of a page."""
    before, _, after = page.read_text(encoding="utf-8").split(MARK)
    page.write_text(before + "\n".join([MARK, "", *lines, "", MARK]) + after, encoding="utf-8")
