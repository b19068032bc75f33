"""Shell completion knows the commands, options, shipped configs, built-in shapes and choices."""

import pytest
from command import ENVIRONMENT, roseinfer

from roseinfer.config_file import shipped_configs
from roseinfer.models.shapes import SHAPES


def completed(line: str) -> list[str]:
    """Return what bash would offer at the end of this line."""
    environment = {
        **ENVIRONMENT,
        "_ROSEINFER_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    done = roseinfer(environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("roseinfer ", {"generate", "bench", "profile", "summarize", "merge", "models"}),
        ("roseinfer su", {"summarize"}),
        ("roseinfer bench --config ", set(shipped_configs())),
        ("roseinfer generate --model qwen", {name for name in SHAPES if name.startswith("qwen")}),
        ("roseinfer generate --model smo", {"smollm2-135m"}),
        ("roseinfer profile --phase ", {"any", "prefill", "decode", "steady"}),
        ("roseinfer generate --mode o", {"offline", "online"}),
        ("roseinfer bench --format j", {"json", "jsonl"}),
        ("roseinfer bench --mode ", {"naive", "offline", "online", "all"}),
        ("roseinfer generate --device c", {"cpu", "cuda"}),
        ("roseinfer summarize --mark", {"--markdown"}),
    ],
)
def test_completion_offers_what_can_follow(line: str, offers: set[str]) -> None:
    assert set(completed(line)) == offers


def test_options_of_an_earlier_word_do_not_stop_completion() -> None:
    """A wrong value before the cursor is the user's unfinished business, not an error."""
    assert set(completed("roseinfer bench --repeats many --format c")) == {"csv"}


def test_completion_can_be_installed() -> None:
    shown = roseinfer("--help").stdout
    assert "--install-completion" in shown
    assert "--show-completion" in shown
