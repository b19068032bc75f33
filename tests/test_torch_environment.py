"""Torch is told to use huge pages before it allocates, unless the user has chosen."""

import os
import subprocess
import sys

import pytest

from roseinfer.torch_environment import HUGE_PAGES

IMPORT = "import roseinfer; roseinfer.EngineConfig"
MAIN = (
    "import contextlib, sys; sys.argv = ['roseinfer', '--version']; from roseinfer.cli.app import main\n"
    "with contextlib.suppress(SystemExit): main()"
)


@pytest.mark.parametrize("code", [IMPORT, MAIN], ids=["library", "command line"])
@pytest.mark.parametrize("chosen", [None, "0"])
def test_torch_asks_for_huge_pages_unless_the_user_has_chosen(code: str, chosen: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != HUGE_PAGES}
    environment |= {} if chosen is None else {HUGE_PAGES: chosen}
    script = f"{code}\nimport os; print(os.environ[{HUGE_PAGES!r}])"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == (chosen or "1")
