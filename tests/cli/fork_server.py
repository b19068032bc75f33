"""A server that runs `roseinfer` in forks of a process that has imported the large libraries.

Importing torch takes longer than most commands that tests run. The server imports what roseinfer depends on, and
nothing of roseinfer itself. Each command then is a process of its own, with its own standard streams, environment,
folder and exit code. It differs from `python -m roseinfer` in when the libraries are imported, and in that the
interpreter is not torn down: tests of imports, of signals and of libraries' environment variables start Python anew.

`ForkServer` starts the server and talks to it over a socket: a request is a line of JSON with the three streams
attached, the answers are the process id and its wait status.
"""

import atexit
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

IMPORTS = ("torch", "numpy", "triton", "tokenizers", "safetensors.torch", "tiktoken", "msgspec", "typer", "rich")
"""Modules that the server imports."""

_NUMBER = 8
"""Bytes of an answer, which is one number."""


class ForkServer:
    """Client of a server process, which it starts. The server ends when the client does."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=dict(environment)
            )
        self._socket = ours

    def run(
        self, arguments: list[str], streams: tuple[IO[bytes], ...], environment: Mapping[str, str], timeout_s: float
    ) -> int:
        """Run `roseinfer` with these stdin, stdout and stderr; return its exit code, negative for a signal.

        Raises subprocess.TimeoutExpired, like subprocess.run.
        """
        request = {"arguments": arguments, "environment": dict(environment), "folder": str(Path.cwd())}
        line = json.dumps(request).encode() + b"\n"
        socket.send_fds(self._socket, [line[:1]], [stream.fileno() for stream in streams])
        self._socket.sendall(line[1:])
        process = self._answer()
        self._socket.settimeout(timeout_s)
        try:
            status = self._answer()
        except TimeoutError:
            os.kill(process, signal.SIGKILL)
            self._socket.settimeout(None)
            self._answer()
            raise subprocess.TimeoutExpired(arguments, timeout_s) from None
        finally:
            self._socket.settimeout(None)
        return os.waitstatus_to_exitcode(status)

    def _answer(self) -> int:
        answer = self._socket.recv(_NUMBER, socket.MSG_WAITALL)
        if len(answer) < _NUMBER:
            raise RuntimeError(f"the server of tests/cli/fork_server.py ended with {self._process.wait()}")
        return int.from_bytes(answer)


def _serve(channel: socket.socket) -> None:
    """Run one command after another, until the client closes the socket."""
    while True:
        first, streams, _, _ = socket.recv_fds(channel, 1, 3)
        if not first:
            return
        request = json.loads(first + _rest_of_line(channel))
        if (child := os.fork()) == 0:
            channel.close()
            _become(streams, request)
        for stream in streams:
            os.close(stream)
        channel.sendall(child.to_bytes(_NUMBER))
        channel.sendall(os.waitpid(child, 0)[1].to_bytes(_NUMBER))


def _rest_of_line(channel: socket.socket) -> bytes:
    parts = []
    while not parts or not parts[-1].endswith(b"\n"):
        parts.append(channel.recv(1 << 20))
    return b"".join(parts)


def _become(streams: list[int], request: dict[str, Any]) -> None:
    """Run the command in this process, which ends."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "utf-8").partition(":")
    sys.stdin = io.TextIOWrapper(open(0, "rb"), encoding, errors or "strict")  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(open(1, "wb"), encoding, errors or "strict")  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(open(2, "wb"), encoding, "backslashreplace", line_buffering=True)  # noqa: SIM115
    sys.argv = ["roseinfer", *request["arguments"]]
    code = 1
    try:
        runpy.run_module("roseinfer", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.path[0] = ""  # as `python -m` has it, instead of this file's folder
    for name in IMPORTS:
        __import__(name)
    assert not [name for name in sys.modules if name.startswith("roseinfer")]
    _serve(socket.socket(fileno=int(sys.argv[1])))
