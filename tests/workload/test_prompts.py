"""Prompts of a workload: from options, files and standard input, and the errors without any."""

import io
from pathlib import Path

import pytest

from roseinfer.config import WorkloadConfig
from roseinfer.errors import UsageError
from roseinfer.workload.prompts import read_prompts


def test_prompts_are_sent_in_order() -> None:
    assert read_prompts(WorkloadConfig(prompts=("a", "b"))) == ["a", "b"]


@pytest.mark.parametrize(("count", "sent"), [(1, "a"), (2, "ab"), (5, "ababa")])
def test_prompts_repeat_in_order_up_to_the_number_of_requests(count: int, sent: str) -> None:
    assert read_prompts(WorkloadConfig(prompts=("a", "b"), num_requests=count)) == list(sent)


def test_a_file_has_one_prompt_per_line_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("first\n\n  second, indented\n \nüber drei\n", encoding="utf-8")
    prompts = read_prompts(WorkloadConfig(prompts_file=str(file)))
    assert prompts == ["first", "  second, indented", "über drei"]


def test_a_dash_is_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\n"))
    assert read_prompts(WorkloadConfig(prompts_file="-", num_requests=3)) == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("content", "named"), [(None, "cannot read"), (b"\n \n", "has no prompts"), (b"\xff\xfe", "not UTF-8")]
)
def test_a_file_without_prompts_is_refused_by_name(tmp_path: Path, content: bytes | None, named: str) -> None:
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=named) as caught:
        read_prompts(WorkloadConfig(prompts_file=str(file)))
    assert str(file) in str(caught.value)


def test_no_prompts_at_all_and_two_sources_are_refused() -> None:
    with pytest.raises(UsageError, match="no prompt"):
        read_prompts(WorkloadConfig())
    with pytest.raises(UsageError, match="choose one"):
        read_prompts(WorkloadConfig(prompts=("a",), prompts_file="b"))
