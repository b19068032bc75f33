"""The command line starts fast: it imports what a command needs, when the command runs."""

import subprocess
import sys
from pathlib import Path

import pytest
from command import ENVIRONMENT, roseinfer

import roseinfer as package

TRACE = Path(__file__).parents[1] / "trace" / "data" / "origin_gather_decode_h200.json.gz"
COMMANDS = ["generate", "bench", "profile", "summarize", "models"]

NEVER = {
    "torch",
    "huggingface_hub",
    "pydantic",
    "jinja2",
    "matplotlib",
    "gguf",
    "tokenizers",
    "tiktoken",
    "triton",
    "safetensors",
}
"""Packages that take long to import and that neither help nor the summary of a trace needs."""
RICH_PARTS = {"rich.progress", "rich.traceback", "rich.markdown", "rich.syntax", "rich.live", "typer.rich_utils"}


def imported(*arguments: object) -> set[str]:
    """Return the modules that a call of the command line imports."""
    code = (
        "import sys; from roseinfer.cli.app import run; sys.argv = ['roseinfer', *sys.argv[1:]]; code = run();"
        "print(*sys.modules, sep='\\n', file=sys.stderr); sys.exit(code)"
    )
    call = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, env=ENVIRONMENT, check=True)
    return set(done.stderr.splitlines())


@pytest.mark.parametrize("module", ["roseinfer", "roseinfer.cli.app", "roseinfer.trace", "roseinfer.config"])
def test_importing_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_list_of_commands_imports_no_command() -> None:
    modules = imported("--help")
    assert not modules & (NEVER | {"rich", "msgspec", "numpy", "inspect.cli"})
    assert not [name for name in modules if name.endswith("_command")]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_imports_no_other_and_no_tables(command: str) -> None:
    modules = imported(command, "--help")
    assert not modules & (NEVER | {"rich", "numpy"})
    assert [name for name in modules if name.endswith("_command")] == [f"roseinfer.cli.{command}.{command}_command"]


def test_a_summary_imports_what_it_shows_and_reads_with() -> None:
    modules = imported("summarize", TRACE)
    assert not modules & (NEVER | RICH_PARTS | {"roseinfer.cli.rendering.html_page", "roseinfer.advice"})


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["bench", "-h"], ["profile", "--help"]])
def test_help_goes_to_stdout_and_succeeds(arguments: list[str]) -> None:
    done = roseinfer(*arguments)
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert done.stderr == ""


def test_the_first_line_of_version_is_the_packages_and_the_others_describe_the_machine() -> None:
    first, *others = roseinfer("--version").stdout.splitlines()
    assert first == f"roseinfer {package.__version__}"
    facts = dict(line.split(": ", maxsplit=1) for line in others)
    assert facts["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert {"torch", "triton", "device", "CPU kernels"} <= set(facts)
    assert all(facts.values())


def test_version_without_torch_says_so_and_succeeds() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from roseinfer.cli.app import run;"
        "sys.argv = ['roseinfer', '--version']; sys.exit(run())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "\ntorch: cannot be imported: " in done.stdout


def test_without_a_command_the_help_is_shown() -> None:
    done = roseinfer()
    assert "summarize" in done.stdout
    assert done.returncode == 2


def test_a_benchmark_imports_no_compiler_of_torch(tiny_llama: Path) -> None:
    call = ["bench", "--model", tiny_llama, "--dtype", "float32", "--prompt", "one", "--max-new-tokens", 2]
    modules = imported(*call, "--repeats", 1, "--quiet")
    assert "roseinfer.costs.step" in modules
    assert "torch._dynamo" not in modules
