"""The command line starts fast: nothing imports torch before a command needs it."""

import subprocess
import sys

import pytest
from command import roseinfer

import roseinfer as package


@pytest.mark.parametrize("module", ["roseinfer", "roseinfer.cli.app", "roseinfer.trace", "roseinfer.config"])
def test_importing_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["bench", "-h"], ["profile", "--help"]])
def test_help_goes_to_stdout_and_succeeds(arguments: list[str]) -> None:
    done = roseinfer(*arguments)
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert done.stderr == ""


def test_version_is_the_packages() -> None:
    assert roseinfer("--version").stdout == f"roseinfer {package.__version__}\n"


def test_without_a_command_the_help_is_shown() -> None:
    done = roseinfer()
    assert "summarize" in done.stdout
    assert done.returncode == 2
