"""The tool behind `make mutate`: which places it changes, and which tests it chooses for a change."""

import subprocess
import sys
from pathlib import Path

import mutate
import pytest
from mutation_reach import FileReach, ReachRecorder, add_probes, read_reach
from mutation_results import MARK, Results, read_equivalents, table, write_table
from mutation_sites import Mutant, mutants_of

SOURCE = b'''
LIMIT = 3


def clamp(x: int = 0, *, low: int = 1) -> int:
    """Text 7 is left out, and f"{x + 1}" too."""
    if x < low and not (x == LIMIT):
        return -low
    x += 1
    print(x)
    return max(x, [value for value in (1, 2) if value > 1][0])


@triton.jit
def kernel(x):
    return x + 1
'''


def places(source: bytes = SOURCE) -> list[Mutant]:
    return mutants_of(Path("package/module.py"), source)


def test_each_mutant_is_another_valid_program() -> None:
    sources = {mutant.source(SOURCE) for mutant in places()}
    assert len(sources) == len(places()) >= 20
    assert SOURCE not in sources
    for source in sources:
        compile(source, "mutant", "exec")
    found = {str(mutant).split(": ", 1)[1] for mutant in places()}
    assert {"x < low  ->  (x <= low)", "x += 1  ->  x -= 1", "print(x)  ->  pass", "3  ->  4"} <= found


def test_the_same_seed_draws_the_same_mutants_of_the_package() -> None:
    drawn = mutate.draw("roseinfer/sampling", 20, 3)
    assert drawn == mutate.draw("roseinfer/sampling", 20, 3) != mutate.draw("roseinfer/sampling", 20, 4)
    assert {mutant.path for mutant in mutate.draw("roseinfer/sampling/uniform.py", 5, 1)} == {
        Path("roseinfer/sampling/uniform.py")
    }


def test_names_of_mutants_are_distinct_and_outlive_changes_of_other_places() -> None:
    names = [mutant.name for mutant in places()]
    assert len(set(names)) == len(names)
    assert "package/module.py clamp: 1  ->  2" in names
    assert "package/module.py clamp: 1  ->  2 (2)" in names
    shifted = places(b"import os\n\n" + SOURCE.replace(b"LIMIT = 3", b"LIMIT = LOWER - 3"))
    assert set(names) - {mutant.name for mutant in shifted} == set()


def test_a_program_with_probes_does_the_same_and_notes_its_places(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_bytes(SOURCE.replace(b"@triton.jit", b"@staticmethod"))
    drawn = places(SOURCE.replace(b"@triton.jit", b"@staticmethod"))
    add_probes(tmp_path, drawn)
    reached = tmp_path / "reached"
    reached.write_bytes(bytes(len(drawn)))
    call = "from package.module import clamp; print(clamp(5), clamp(0, low=2))"
    done = subprocess.run(
        [sys.executable, "-c", call], cwd=tmp_path, env={"ROSEINFER_REACHED": str(reached)}, capture_output=True
    )
    assert done.stdout.split() == [b"6", b"6", b"-2"], done.stderr
    missed = [str(mutant) for mutant, byte in zip(drawn, reached.read_bytes(), strict=True) if not byte]
    assert missed == ["package/module.py:16: x + 1  ->  (x - 1)", "package/module.py:16: 1  ->  2"]


def test_kernels_that_triton_compiles_have_no_probes(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    path = tmp_path / "package" / "module.py"
    path.write_bytes(SOURCE)
    add_probes(tmp_path, places())
    assert path.read_bytes().endswith(b"\n    return x + 1\n")


def test_every_place_of_the_package_that_is_no_pattern_or_kernel_has_a_probe(tmp_path: Path) -> None:
    drawn = mutate.draw("roseinfer/bench/slo.py", 10_000, 1)
    mutate.copy_tree(tree := tmp_path / "tree")
    add_probes(tree, drawn)
    text = "".join(path.read_text() for path in [tree / "roseinfer/bench/slo.py"])
    assert all(f".reach({index})" in text for index in range(len(drawn)))


def reach_of(*tests: tuple[str, float, set[str]], imported: tuple[str, ...] = ()) -> FileReach:
    reached = [(test, seconds, frozenset(keys)) for test, seconds, keys in tests]
    return FileReach("", frozenset({"a", "b", "c", "d"}), reached, frozenset(imported))


def test_of_a_file_the_tests_that_reach_a_place_run_first_the_quickest_of_them_before() -> None:
    reach = reach_of(("slow", 9, {"a"}), ("blind", 1, set()), ("quick", 2, {"a", "b"}), imported=("c",))
    assert reach.chosen("a") == [("quick", 2, True), ("slow", 9, True), ("blind", 1, False)]
    assert reach.chosen("d") == [], "no test reaches it"
    every = [("blind", 1, True), ("quick", 2, True), ("slow", 9, True)]
    assert reach.chosen("c") == every, "only the import reaches it"
    assert reach.chosen("a kernel") == every, "it had no probe"


@pytest.fixture
def small_project(tmp_path: Path) -> Path:
    """A repository with one function, whose sum is tested and whose difference is not."""
    for name, text in {
        "roseinfer/__init__.py": "",
        "roseinfer/core/__init__.py": "",
        "roseinfer/core/sums.py": "def add(x, y):\n    return x + y\n\n\ndef less(x, y):\n    return x - y\n",
        "tests/core/test_sums.py": "from roseinfer.core.sums import add, less\n\n\n"
        "def test_of_less():\n    less(1, 0)\n\n\ndef test_of_add():\n    assert add(1, 2) == 3\n",
        "pyproject.toml": "[tool.pytest.ini_options]\n",
    }.items():
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).write_text(text)
    return tmp_path


def test_a_mutant_dies_by_the_test_that_fails_and_survives_one_that_checks_nothing(small_project: Path) -> None:
    script = f"""
import argparse, pathlib, sys
sys.path.insert(0, {str(Path(mutate.__file__).parent)!r})
import mutate
mutate.load_plugins()
mutate.ROOT = pathlib.Path({str(small_project / "project")!r})
drawn = mutate.draw("roseinfer", 9, 1)
results = mutate.Results(pathlib.Path({str(small_project / "results.jsonl")!r}))
settings = argparse.Namespace(seconds=60, files=9, timeout=60)
trial = mutate.Trial(pathlib.Path({str(small_project)!r}), drawn, results, settings)
for mutant in drawn:
    results.add_mutant(mutant, trial.killer_of(mutant))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    results = Results(small_project / "results.jsonl")
    assert results.killers == {
        "roseinfer/core/sums.py add: x + y  ->  (x - y)": "tests/core/test_sums.py::test_of_add",
        "roseinfer/core/sums.py less: x - y  ->  (x + y)": None,
    }
    (reach,) = results.reach.values()
    assert [test.rpartition("::")[2] for test, _, reached in reach.tests if reached] == ["test_of_less", "test_of_add"]


def test_results_are_read_back_and_told(tmp_path: Path) -> None:
    first, second, third, fourth = places()[:4]
    results = Results(tmp_path / "results.jsonl")
    results.add_mutant(first, "tests/test_a.py::test_b")
    results.add_mutant(second, None)
    results.add_reach("tests/test_a.py", reach_of(("tests/test_a.py::test_b", 1.5, {"a"}), imported=("b",)))
    again = Results(tmp_path / "results.jsonl")
    assert (again.killers, again.reach) == (results.killers, results.reach)
    lines, explained = table([first, second, third, fourth], again, {third.name: "It is the same."})
    assert "| all, of 4 drawn | 3 | 1 | 1 | 1 |" in lines
    assert explained == pytest.approx(200 / 3)
    assert lines[-7:-2] == ["Equivalent:", "", f"- `{third.name}`: It is the same.", "", "Survivors:"]
    assert lines[-1] == f"- `{second.name}`"
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARK}\nold\n{MARK}\nafter\n")
    write_table(lines, page)
    assert page.read_text() == "\n".join(["before", MARK, "", *lines, "", MARK, "after", ""])


def test_every_mutant_that_is_explained_as_equivalent_is_one_of_the_package() -> None:
    for name, why in read_equivalents().items():
        path = Path(name.split(" ")[0])
        assert name in {mutant.name for mutant in mutants_of(path, (mutate.ROOT / path).read_bytes())}
        assert len(why) > 20


def test_a_recorder_separates_tests_from_what_imports_reach(tmp_path: Path) -> None:
    recorder = ReachRecorder(tmp_path, 3)

    def reach(index: int) -> None:
        reached = bytearray((tmp_path / "reached").read_bytes())
        reached[index] = 1
        (tmp_path / "reached").write_bytes(reached)

    def report(when: str) -> pytest.TestReport:
        return pytest.TestReport("a::b", ("a", 1, "b"), {}, "passed", None, when)  # type: ignore[arg-type]

    reach(0)
    recorder.pytest_collection_finish()
    for at, name in enumerate(("a::b", "a::c")):
        recorder.pytest_runtest_logstart()
        if at == 0:
            reach(1)  # a fixture of the file
        recorder.pytest_runtest_logreport(report("setup"))
        reach(2) if at == 0 else None
        recorder.pytest_runtest_logreport(report("call"))
        recorder.pytest_runtest_logfinish(name)
    recorder.write(tmp_path / "reach.json")
    drawn = places()[:3]
    fixture, own, imported = drawn[1].key, drawn[2].key, drawn[0].key
    found = read_reach(tmp_path / "reach.json", "digest", drawn, {0, 1, 2})
    assert [(name, reached) for name, _, reached in found.tests] == [("a::b", {fixture, own}), ("a::c", {fixture})]
    assert (found.imported, found.source, found.probed) == ({imported}, "digest", {fixture, own, imported})
