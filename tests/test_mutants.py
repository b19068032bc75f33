"""The tool behind `make mutate`: which places it changes, and which tests it chooses for a change."""

import json
import subprocess
import sys
from pathlib import Path

import mutate
import pytest
from mutation_reach import FileReach, ReachRecorder, add_probes, forget, reaching_tests, read_reach
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
    assert mutate.draw("roseinfer/sampling", 20, 3) == mutate.draw("roseinfer/sampling", 20, 3)
    assert {mutant.path for mutant in mutate.draw("roseinfer/sampling/uniform.py", 5, 1)} == {
        Path("roseinfer/sampling/uniform.py")
    }


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


def file_of(*tests: tuple[str, float, list[int]], imported: tuple[int, ...] = ()) -> FileReach:
    return read_reach(json.dumps({"tests": tests, "imported": imported}))


def test_reaching_tests_a_place_run_first_the_quickest_file_first() -> None:
    files = {
        "slow": file_of(("slow::a", 9, [1]), ("slow::b", 1, [])),
        "quick": file_of(("quick::a", 1, [2]), ("quick::b", 1, [1, 2])),
        "blind": file_of(("blind::a", 1, [2]), imported=(3,)),
    }
    assert reaching_tests(1, files, 100) == ["quick::b", "slow::a", "quick::a", "slow::b"]
    assert reaching_tests(1, files, 11) == ["quick::b", "slow::a", "quick::a"]
    assert reaching_tests(1, files, 9) == ["quick::b", "quick::a", "slow::b"], "the slowest is left out"
    assert reaching_tests(3, files, 10) == ["blind::a"], "only its import reaches the place"
    assert reaching_tests(4, files, 10) == []
    forget("quick::b", files)
    assert reaching_tests(1, files, 100) == ["slow::a", "slow::b"]


def test_results_are_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = places()[:2]
    results = mutate.Results(tmp_path / "results.jsonl")
    results.add_mutant(str(first), "tests/test_a.py::test_b")
    results.add_mutant(str(second), None)
    results.add_reach("tests/test_a.py", "{}")
    again = mutate.Results(tmp_path / "results.jsonl")
    assert (again.killers, again.reach) == (results.killers, results.reach)
    assert mutate.report([first, second], again.killers) == 1
    assert "| all | 2 | 1 |\n\n50.0 % died. Survivors:\n" in capsys.readouterr().out


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
    found = read_reach((tmp_path / "reach.json").read_text())
    assert [(name, reached) for name, _, reached in found.tests] == [("a::b", [1, 2]), ("a::c", [1])]
    assert found.imported == [0]
