"""`roseinfer profile --open` passes the trace to the browser of this machine, or prints one line why it cannot."""

import socket
import sys
from pathlib import Path

import pytest
from command import ENVIRONMENT, roseinfer

from roseinfer.cli.profile.perfetto import open_trace
from roseinfer.errors import RoseinferError

BROWSER = """
import pathlib, sys, urllib.request
site, _, trace = sys.argv[1].partition("/#!/?url=")
with urllib.request.urlopen(trace) as answer:
    pathlib.Path(sys.argv[2]).write_bytes(answer.read())
    pathlib.Path(sys.argv[2] + ".headers").write_text(f"{site} {answer.headers['Access-Control-Allow-Origin']}")
try:
    urllib.request.urlopen(trace.rpartition("/")[0] + "/manifest.json")
except urllib.error.HTTPError as error:
    pathlib.Path(sys.argv[2] + ".other").write_text(str(error.code))
"""


@pytest.fixture
def call(tiny_llama: Path, tmp_path: Path) -> list[object]:
    return ["profile", "--model", tiny_llama, "--prompt", "a", "--max-new-tokens", 2, "--profile-dir", tmp_path / "p"]


def port_is_free() -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 9001))
        except OSError:
            return False
    return True


needs_port = pytest.mark.skipif(not port_is_free(), reason="needs port 9001, the only one that Perfetto reads from")


@needs_port
def test_the_browser_gets_the_trace_and_nothing_else(call: list[object], tmp_path: Path) -> None:
    script, got = tmp_path / "browser.py", tmp_path / "got"
    script.write_text(BROWSER)
    environment = {**ENVIRONMENT, "BROWSER": f"{sys.executable} {script} %s {got}"}
    done = roseinfer(*call, "--open", environment=environment)
    assert done.returncode == 0, done.stderr
    trace = next((tmp_path / "p" / "latest").glob("*.json.gz"))
    assert got.read_bytes() == trace.read_bytes()
    assert (tmp_path / "got.headers").read_text() == "https://ui.perfetto.dev https://ui.perfetto.dev"
    assert (tmp_path / "got.other").read_text() == "404"
    assert "uploads nothing" in done.stderr


def test_a_machine_without_a_browser_is_told_before_anything_is_recorded(call: list[object], tmp_path: Path) -> None:
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in hidden}
    done = roseinfer(*call, "--open", environment=environment)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "--open needs a browser" in line
    assert not (tmp_path / "p").exists()


@needs_port
def test_a_browser_that_never_reads_the_trace_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "a.json"
    trace.write_text("{}")
    monkeypatch.setattr("webbrowser.open_new_tab", lambda url: True)
    with pytest.raises(
        RoseinferError, match=r"did not read the trace in 0 s: open .*a\.json at https://ui.perfetto.dev"
    ):
        open_trace(trace, timeout_s=0.05)
    assert port_is_free()


@needs_port
def test_a_taken_port_is_one_error(tmp_path: Path) -> None:
    trace = tmp_path / "a.json"
    trace.write_text("{}")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 9001))
        taken.listen()
        with pytest.raises(RoseinferError, match=r"cannot serve on 127\.0\.0\.1:9001: .* at https://ui.perfetto.dev"):
            open_trace(trace)
