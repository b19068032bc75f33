"""`import roseinfer` is cheap, shows only what is public, and reads traces without torch."""

import subprocess
import sys
import tomllib
from pathlib import Path

import roseinfer

TRACE = Path(__file__).parent / "trace" / "data" / "origin_gather_decode_h200.json.gz"


def imported_by(code: str) -> set[str]:
    """Return the modules that are imported after running `code` in a process of its own."""
    call = [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"]
    return set(subprocess.run(call, capture_output=True, text=True, check=True).stdout.split())


def test_dir_shows_the_public_names_and_no_others() -> None:
    assert dir(roseinfer) == sorted(roseinfer.__all__)
    assert {"summarize", "profile_session", "ProfileConfig", "build_engine"} <= set(dir(roseinfer))


def test_importing_roseinfer_imports_nothing_but_the_standard_library() -> None:
    before = imported_by("")
    added = imported_by("import roseinfer") - before
    assert {name.partition(".")[0] for name in added} <= {"roseinfer"} | set(sys.stdlib_module_names)
    assert {name for name in added if name.startswith("roseinfer.")} == {"roseinfer.version"}


def test_summarize_reads_a_trace_without_torch() -> None:
    code = f"import roseinfer\nassert roseinfer.summarize({str(TRACE)!r}).verdict.kind == 'host_bound'"
    modules = imported_by(code)
    assert "numpy" in modules
    assert not modules & {"torch", "rich", "typer"}


def test_compare_takes_two_summaries() -> None:
    summary = roseinfer.summarize(TRACE)
    assert roseinfer.compare(summary, summary).comparison is not None


def test_an_unknown_name_is_no_attribute() -> None:
    assert not hasattr(roseinfer, "no_such_name")


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert roseinfer.__version__ == project["version"]
