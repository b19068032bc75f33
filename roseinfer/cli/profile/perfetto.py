"""Opening a recorded trace in Perfetto, in the browser of this machine.

The page at ui.perfetto.dev reads the trace from a server on this machine's loopback address and renders it in the
browser. The trace is not uploaded.
"""

import os
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

from roseinfer.cli import console
from roseinfer.errors import RoseinferError, UsageError

_SITE = "https://ui.perfetto.dev"
_HOST, _PORT = "127.0.0.1", 9001
"""The HTTP address on this machine from which the content security policy of ui.perfetto.dev allows reading."""
_TIMEOUT_S = 60.0
_CHUNK_BYTES = 1 << 20


def check_browser() -> None:
    """Raise UsageError if this machine has no browser to open a trace in."""
    has_display = sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    try:
        if not has_display and not os.environ.get("BROWSER"):
            raise webbrowser.Error
        webbrowser.get()
    except webbrowser.Error:
        raise UsageError(
            "--open needs a browser, and this machine has none: leave --open out, and open the trace "
            f"at {_SITE} on another machine"
        ) from None


def open_trace(trace: Path, timeout_s: float = _TIMEOUT_S) -> None:
    """Open a trace in Perfetto and return once the browser has read it.

    Raises RoseinferError if the port is taken, or if the browser does not read the trace in time.
    """
    by_hand = f"open {trace.resolve()} at {_SITE} by hand"
    url = f"http://{_HOST}:{_PORT}/{quote(trace.name)}"
    try:
        with _served(trace) as is_read:
            console.note(f"[profile] opening the trace at {_SITE}, which reads it from {url} and uploads nothing")
            console.note(f"[profile] waiting up to {timeout_s:.0f} s for the browser; Ctrl-C stops waiting")
            if not webbrowser.open_new_tab(f"{_SITE}/#!/?url={url}"):
                raise RoseinferError(f"--open: the browser did not start: {by_hand}")
            if not is_read.wait(timeout_s):
                raise RoseinferError(f"--open: the browser did not read the trace in {timeout_s:.0f} s: {by_hand}")
    except OSError as error:
        raise RoseinferError(f"--open: cannot serve on {_HOST}:{_PORT}: {error.strerror}: {by_hand}") from None


@contextmanager
def _served(trace: Path) -> Iterator[threading.Event]:
    """Serve one file on the loopback address; yield an event that is set once the file has been read."""
    is_read = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        """Serves the trace, and refuses every other path."""

        def do_GET(self) -> None:
            if self.path != f"/{quote(trace.name)}":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", _SITE)
            self.send_header("Cache-Control", "no-cache")
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(trace.stat().st_size))
            self.end_headers()
            with suppress(ConnectionError), trace.open("rb") as file:  # the browser may stop and ask again
                while chunk := file.read(_CHUNK_BYTES):
                    self.wfile.write(chunk)
                is_read.set()

        def do_OPTIONS(self) -> None:
            """Answer the preflight that a browser sends before a public page reads from the loopback address."""
            self.send_response(204)
            self.send_header("Access-Control-Allow-Origin", _SITE)
            self.send_header("Access-Control-Allow-Private-Network", "true")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing: stderr belongs to the command."""

    with ThreadingHTTPServer((_HOST, _PORT), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield is_read
        finally:
            server.shutdown()
            thread.join()
