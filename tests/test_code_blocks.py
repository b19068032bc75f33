"""Code blocks of pages are parsed as readers read them, and wrong marks are refused."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from code_blocks import blocks, pages, runnable  # noqa: E402

PAGE = """# Title

<!-- run: gpu, exit 3 -->
```console
$ first --long \\
    value
shown
$ second
```

- In a list:

  ```python
  print(1)

  print(2)
  ```

```json
{"not": "run"}
```

<!-- run: by hand -->
```console
$ open a browser
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE, encoding="utf-8")
    return path


def test_a_page_has_its_blocks_with_marks_and_lines(page: Path) -> None:
    console, python, json, by_hand = blocks(page)
    assert (console.marks, console.line) == (frozenset({"gpu"}), 4)
    assert (python.text, python.marks) == ("print(1)\n\nprint(2)\n", frozenset())
    assert json.language == "json"
    assert by_hand.marks == {"by hand"}
    assert runnable(page) == [console, python]


def test_a_console_block_has_its_commands_with_what_they_print(page: Path) -> None:
    first, second = blocks(page)[0].commands
    assert (first.text, first.output, first.line, first.exit_code) == ("first --long \\\n    value", "shown\n", 5, 0)
    assert (second.text, second.output, second.line, second.exit_code) == ("second", "", 8, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- run: sometimes -->\n```console\n$ a\n```\n", "1: no mark 'sometimes': use exit N, gpu, slow"),
        ("text\n```console\n$ a\n", "2: the block is not closed"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, message: str, page: Path) -> None:
    page.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        blocks(page)


def test_the_pages_are_those_that_readers_see() -> None:
    names = [page.relative_to(ROOT).as_posix() for page in pages()]
    assert names[0] == "README.md"
    assert "docs/tutorial.md" in names


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_no_command_or_program_of_a_page_escapes_the_runner(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    fences = sum(line.strip().startswith(("```console", "```python")) for line in text.splitlines())
    assert fences == sum(block.language in {"console", "python"} for block in blocks(page))
    assert not [block.line for block in blocks(page) if block.language in {"bash", "sh", "shell"}]


def test_pages_followed_one_after_another_write_to_files_of_their_own() -> None:
    """`generate` and `merge` refuse a file that exists."""
    written: dict[str, str] = {}
    for each in pages():
        for block in runnable(each):
            for command in block.commands:
                output = re.search(r"--output (\S+)", command.text)
                if output is not None and "--resume" not in command.text:
                    place = f"{each.name}:{command.line}"
                    assert output[1] not in written, f"{place} writes what {written[output[1]]} wrote"
                    written[output[1]] = place
    assert written
