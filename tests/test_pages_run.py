"""Every page is true: its commands and programs run in order, end as the page says, and print what it promises.

Steps that need a GPU or take long are left to docs/follow.py.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from native_builds import COMPILER, compiled_kernels_folder

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from block_runner import BlockRunner, plain_environment, steps_of, with_this_python  # noqa: E402
from code_blocks import pages, runnable  # noqa: E402
from record import as_shown  # noqa: E402

TESTED_ELSEWHERE = {"library.md"}
"""Pages whose programs another test runs, to check what they print: tests/test_library.py."""

QUICK = {
    page: [block for block in runnable(page) if not block.marks & {"gpu", "slow"}]
    for page in pages()
    if page.name not in TESTED_ELSEWHERE
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder like a fresh clone: its files are links to those of the repository."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in {"profiles", "site"}:
            (clone / path.name).symlink_to(path)
    return clone


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for all pages, with compiled kernels as after `make setup`, which engines of other tests lack."""
    folder = tmp_path_factory.mktemp("cache")
    if COMPILER is not None:
        for library in compiled_kernels_folder().glob("*.so"):
            shutil.copy(library, folder)
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [page for page, quick in QUICK.items() if quick], ids=lambda page: page.name)
def test_a_page_does_what_it_says(page: Path, folder: Path, cache: Path, tmp_path: Path) -> None:
    environment = with_this_python(plain_environment(cache), tmp_path / "bin")
    # Other workers use the same cores: threads that wait for each other by spinning take several times as long.
    environment["GOMP_SPINCOUNT"] = "0"
    with BlockRunner(folder, environment, timeout_s=240) as runner:
        for step in steps_of(QUICK[page]):
            outcome = runner.run(step)
            fault = outcome.fault_of(step)
            assert fault is None, f"{page.name}:{step.line}: {step.text}\n{fault}\n{outcome.stdout}{outcome.stderr}"


@pytest.mark.parametrize(
    ("shown", "recorded"),
    [
        ("", "one\n\ntwo\n\nthree\n"),
        ("old\n", "one\n\ntwo\n\nthree\n"),
        ("old\n...\n", "one\n...\n"),
        ("old\n\nolder\n...\n", "one\n\ntwo\n...\n"),
        ("a\n\nb\n\nc\n\nd\n...\n", "one\n\ntwo\n\nthree\n"),
    ],
)
def test_as_many_paragraphs_are_recorded_as_a_page_shows(shown: str, recorded: str) -> None:
    assert as_shown(shown, "one  \n\ntwo\n\nthree\n") == recorded


def test_recording_writes_what_commands_print_and_leaves_the_rest(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    marked = "<!-- run: record -->\n```console\n$ printf 'a\\n\\nb\\n'\nold\n...\n$ printf \\\n    c\n```\n"
    unmarked = "```console\n$ printf d\nold\n```\n"
    on_a_gpu = "<!-- run: gpu, record -->\n```console\n$ printf e\n```\n"
    page.write_text(marked + unmarked + on_a_gpu, encoding="utf-8")
    recorded = "<!-- run: record -->\n```console\n$ printf 'a\\n\\nb\\n'\na\n...\n$ printf \\\n    c\nc\n```\n"
    call = [sys.executable, str(ROOT / "docs" / "record.py"), str(page)]
    subprocess.run(call, check=True, capture_output=True)
    assert page.read_text(encoding="utf-8") == recorded + unmarked + on_a_gpu
    subprocess.run([*call, "--gpu", "--output", str(tmp_path / "other.md")], check=True, capture_output=True)
    assert (tmp_path / "other.md").read_text(encoding="utf-8").endswith("$ printf e\ne\n```\n")
