"""`generate --shard` and `merge`: the parts' answers are those of one run, each request's once, or a named problem."""

import json
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from command import ENVIRONMENT, command, roseinfer, succeeds
from hypothesis import given
from hypothesis import strategies as st

from roseinfer import UsageError
from roseinfer.workload.shard import Shard, parse_shard

REQUESTS: list[dict[str, Any]] = [
    {"id": f"r{number}", "prompt": f"number {number}", "n": 1 + number % 2} for number in range(9)
]
REQUESTS += [{"prompt": "no id"}, {"id": 1, "prompt": "one"}, {"id": "1", "prompt": "another one"}, {"prompt": 5}]
PARTS = 3


def without_times(text: str) -> list[dict[str, Any]]:
    rows = map(json.loads, text.splitlines())
    return [{key: value for key, value in row.items() if key not in ("ttft_ms", "e2e_ms")} for row in rows]


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(request) + "\n" for request in REQUESTS))
    return path


@pytest.fixture(scope="module")
def answers(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], str]:
    """Return the files that three parts wrote, by name, and the file of one run."""
    folder = tmp_path_factory.mktemp("shards")
    file = folder / "requests.jsonl"
    file.write_text("".join(json.dumps(request) + "\n" for request in REQUESTS))
    options = ["--model", tiny_llama, "--dtype", "float64", "--seed", 3, "--temperature", 1, "--max-new-tokens", 5]
    call = ["generate", "--input", file, *options]
    assert roseinfer(*call, "--output", folder / "one.jsonl").returncode == 1, "one request has no text"
    for part in range(PARTS):
        roseinfer(*call, "--output", f"{folder}/parts/", "--shard", f"{part}/{PARTS}")
    parts = {path.name: path.read_text() for path in (folder / "parts").iterdir()}
    return parts, (folder / "one.jsonl").read_text()


@pytest.fixture
def parts(answers: tuple[dict[str, str], str], tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, text in answers[0].items():
        (folder / name).write_text(text)
    return folder


def test_merged_parts_are_the_answers_of_one_run(
    answers: tuple[dict[str, str], str], parts: Path, requests: Path, tmp_path: Path
) -> None:
    assert sorted(answers[0]) == [f"answers-{part}-of-{PARTS}.jsonl" for part in range(PARTS)]
    assert all(answers[0].values()), "every part has some of the requests"
    merged = tmp_path / "merged.jsonl"
    done = succeeds("merge", parts, "--input", requests, "--output", merged)
    assert without_times(merged.read_text()) == without_times(answers[1])
    assert f"{len(REQUESTS)} answers from 3 files, 1 of them errors" in done.stderr
    document = json.loads(succeeds("merge", parts, "--input", requests, "--json").stdout)
    assert (document["requests"], document["answers"], document["errors"]) == (len(REQUESTS), len(REQUESTS), 1)


def test_a_part_that_is_killed_and_resumed_gives_the_answers_of_one_run(tiny_llama: Path, tmp_path: Path) -> None:
    file, folder, merged = tmp_path / "requests.jsonl", tmp_path / "parts", tmp_path / "merged.jsonl"
    requests = [{"id": f"r{number}", "prompt": f"number {number}", "max_new_tokens": 60} for number in range(90)]
    file.write_text("".join(json.dumps(request) + "\n" for request in requests))
    call = ["generate", "--input", file, "--model", tiny_llama, "--dtype", "float32", "--seed", 3, "--temperature", 1]
    call += ["--max-batch-size", 4]
    succeeds(*call, "--output", tmp_path / "one.jsonl")
    first, second = ([*call, "--output", f"{folder}/", "--shard", f"{part}/2"] for part in range(2))
    succeeds(*first)
    part = folder / "answers-1-of-2.jsonl"
    with subprocess.Popen(command(*second), stderr=subprocess.DEVNULL, env=ENVIRONMENT) as process:
        while process.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") >= 5):
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    left = part.read_bytes()
    assert roseinfer("merge", folder, "--input", file, "--output", merged).returncode == 1
    succeeds(*second, "--resume")
    assert part.read_bytes().startswith(left[: left.rfind(b"\n") + 1]), "answers are kept"
    succeeds("merge", folder, "--input", file, "--output", merged)
    assert without_times(merged.read_text()) == without_times((tmp_path / "one.jsonl").read_text())


def cut_line(text: str) -> str:
    return text[:-9]


def without_last_line(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:-1])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (without_last_line, "without an answer, first"),
        (lambda text: text + text.splitlines(keepends=True)[-1], "with several answers, first|damaged answers, first"),
        (cut_line, "damaged answers, first"),
        (lambda text: text + "[1]\n", "damaged answers, first"),
        (lambda text: text + '{"id": true, "error": "x"}\n', "damaged answers, first"),
        (lambda text: text + '{"id": "z", "error": "x"}\n', "1 answers to no request, first 'z'"),
        (lambda text: text.replace('"prompt_digest":"', '"prompt_digest":"0'), "answers to another prompt, first"),
    ],
)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_missing_doubled_or_damaged_answer_is_named_and_nothing_is_written(
    parts: Path, requests: Path, tmp_path: Path, damage: Any, problem: str, part: int
) -> None:
    file = parts / f"answers-{part}-of-{PARTS}.jsonl"
    file.write_text(damage(file.read_text()))
    merged = tmp_path / "merged.jsonl"
    done = roseinfer("merge", parts, "--input", requests, "--output", merged)
    assert done.returncode == 1
    assert any(alternative in done.stderr for alternative in problem.split("|")), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not merged.exists()


def test_answers_of_other_parts_may_lie_in_one_file(
    answers: tuple[dict[str, str], str], requests: Path, tmp_path: Path
) -> None:
    together = tmp_path / "all.jsonl"
    together.write_text("".join(answers[0].values()))
    succeeds("merge", together, "--input", requests)
    done = roseinfer("merge", together, tmp_path / "requests.jsonl", "--input", requests)
    assert "damaged answers" in done.stderr, "requests are no answers"


def test_wrong_calls_are_refused_in_one_line(tiny_llama: Path, requests: Path, tmp_path: Path) -> None:
    call = ["generate", "--model", tiny_llama, "--input", requests]
    wrong = {
        "give I/N": [*call, "--shard", "3/3"],
        "name the file with --input": ["generate", "--model", tiny_llama, "Hi", "--shard", "0/2"],
        "add --shard I/N": [*call, "--output", tmp_path],
        "not stdin": ["merge", requests, "--input", "-"],
        "no *.jsonl files": ["merge", tiny_llama, "--input", requests],
        "cannot read": ["merge", tmp_path / "none.jsonl", "--input", requests],
    }
    for hint, arguments in wrong.items():
        done = roseinfer(*arguments)
        assert done.returncode == 2
        assert hint in done.stderr, (arguments, done.stderr)


@given(count=st.integers(1, 40), ids=st.lists(st.one_of(st.integers(), st.text()), unique_by=lambda name: repr(name)))
def test_each_id_is_in_exactly_one_shard(count: int, ids: list[str | int]) -> None:
    held = Counter(repr(name) for index in range(count) for name in ids if Shard(index, count).holds(name))
    assert held == Counter(map(repr, ids))


def test_shards_are_of_similar_size_and_do_not_change_between_versions() -> None:
    sizes = Counter(number for number in range(4) for name in range(4000) if Shard(number, 4).holds(name))
    assert all(900 < size < 1100 for size in sizes.values())
    assert [next(i for i in range(8) if Shard(i, 8).holds(name)) for name in (1, "1", "first", "é")] == [6, 3, 1, 6]


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "2/2", "-1/2", "1/2/3", "a/b", "0/0", "0/9999999", "²/3"])
def test_a_wrong_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="0/8 to 7/8"):
        parse_shard(text)
