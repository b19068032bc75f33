"""The script that follows the pages notices every step that does not do what its page says."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from block_runner import (  # noqa: E402
    BlockRunner,
    Outcome,
    activated,
    is_output,
    plain_environment,
    steps_of,
    with_this_python,
)
from code_blocks import Block, blocks  # noqa: E402
from follow import reason_to_skip  # noqa: E402


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return with_this_python(plain_environment(tmp_path / "cache"), tmp_path / "bin")


def follow(
    tmp_path: Path, environment: dict[str, str], page: str, timeout_s: float = 60.0
) -> list[tuple[Outcome, str | None]]:
    """Run all steps of a page in `tmp_path`; return the outcomes, with what differs from the page."""
    file = tmp_path / "page.md"
    file.write_text(page, encoding="utf-8")
    with BlockRunner(tmp_path, environment, timeout_s=timeout_s) as runner:
        outcomes = [(step, runner.run(step)) for step in steps_of(blocks(file))]
    return [(outcome, outcome.fault_of(step)) for step, outcome in outcomes]


def test_commands_share_a_shell_and_blocks_of_python_share_names(tmp_path: Path, environment: dict[str, str]) -> None:
    page = """
```console
$ mkdir inner && cd inner && export WHERE=here
$ echo $WHERE \\
    $(basename $PWD)
inner
```

```python
import os
place = os.environ.get("WHERE", "a shell has variables of its own")
```

```json
{"never": "run"}
```

```python
print(place)
```
"""
    outcomes = follow(tmp_path, environment, page)
    assert [fault for _, fault in outcomes] == [None] * 4
    assert [outcome.stdout for outcome, _ in outcomes] == ["", "here inner\n", "", "a shell has variables of its own\n"]


def test_an_unexpected_exit_code_is_a_fault(tmp_path: Path, environment: dict[str, str]) -> None:
    page = "<!-- run: exit 3 -->\n```console\n$ (exit 3)\n$ (exit 3)\n```\n\n```python\nassert [], 'no items'\n```\n"
    (_, first), (_, last), (block, fault) = follow(tmp_path, environment, page)
    assert first == "ended with exit code 3 instead of 0"
    assert last is None
    assert fault == "ended with exit code 1 instead of 0"
    assert 'page.md", line 8' in block.stdout
    assert "no items" in block.stdout


def test_other_output_than_a_page_promises_is_a_fault(tmp_path: Path, environment: dict[str, str]) -> None:
    promised = "<!-- run: same output -->\n```console\n$ printf 'one\\ntwo\\n'\none\n{}\n```\n"
    assert [fault for _, fault in follow(tmp_path, environment, promised.format("two"))] == [None]
    assert [fault for _, fault in follow(tmp_path, environment, promised.format("2"))] == [
        "printed something else than the page shows"
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\n", "a\n", True),
        ("a\n", "\na   \n\n", True),
        ("a\n...\nz\n", "a\nz\n", True),
        ("a\n...\nz\n", "a\nb\nc\nz\n", True),
        ("a\n...\n", "b\nc\n", False),
        ("a\nb\n", "a\n", False),
        ("a.c\n", "abc\n", False),
        ("", "a\n", False),
    ],
)
def test_three_dots_stand_for_any_lines(shown: str, printed: str, same: bool) -> None:
    assert is_output(shown, printed) is same


def test_a_step_past_its_limit_is_stopped_with_all_that_it_started(tmp_path: Path, environment: dict[str, str]) -> None:
    page = "```console\n$ sleep 600 & echo $! > pid; wait\n$ echo after\n```\n"
    (slow, fault), (after, _) = follow(tmp_path, environment, page, timeout_s=0.5)
    assert (slow.exit_code, after.exit_code) == (None, None)
    assert fault == "ended without an exit code instead of 0"
    child = int((tmp_path / "pid").read_text())
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_no_step_can_read_the_steps_after_it(tmp_path: Path, environment: dict[str, str]) -> None:
    outcomes = follow(tmp_path, environment, "```console\n$ cat\n$ echo next\n```\n")
    assert [outcome.stdout for outcome, _ in outcomes] == ["", "next\n"]


def test_commands_find_this_roseinfer_or_that_of_an_activated_venv(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [(outcome, fault)] = follow(tmp_path, environment, "```console\n$ roseinfer --version\n```\n")
    assert fault is None, outcome.stderr
    assert "roseinfer" in outcome.stdout
    monkeypatch.setenv("PYTHONPATH", "/packages")
    assert with_this_python(environment, tmp_path / "bin")["PYTHONPATH"] == f"{ROOT}{os.pathsep}/packages"
    venv = tmp_path / "venv"
    monkeypatch.setenv("VIRTUAL_ENV", str(venv))
    monkeypatch.setenv("PATH", f"{venv}/bin{os.pathsep}{os.environ['PATH']}")
    plain = plain_environment(tmp_path)
    assert "VIRTUAL_ENV" not in plain
    assert str(venv) not in plain["PATH"]
    assert activated(plain, venv)["PATH"].startswith(f"{venv}/bin")


@pytest.mark.parametrize(
    ("marks", "options", "reason"),
    [
        ("", {}, None),
        ("by hand", {"gpu": True}, "by hand"),
        ("gpu", {}, "needs a GPU"),
        ("gpu", {"gpu": True}, None),
        ("gpu", {"gpu": True, "gpu_only": True}, None),
        ("", {"gpu": True, "gpu_only": True}, "needs no GPU"),
        ("slow", {}, None),
        ("slow", {"quick": True}, "slow"),
    ],
)
def test_only_marks_and_options_leave_a_block_out(marks: str, options: dict[str, bool], reason: str | None) -> None:
    block = Block(Path("page.md"), 1, "console", "", frozenset(filter(None, [marks])))
    assert reason_to_skip(block, **({"gpu": False, "gpu_only": False, "quick": False} | options)) == reason
