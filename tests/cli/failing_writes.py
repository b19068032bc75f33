"""Run commands again and again in forks, and let one write to the disk fail in each: the first, the second, ...

    python tests/cli/failing_writes.py FOLDER COMMANDS

COMMANDS is a JSON object of names and arguments. Prints one line of JSON per run: the name, the call that failed, exit
code, stdout and stderr. The last run of a command is the first in which nothing failed. `{place}` in the arguments
becomes a folder of the run in FOLDER. Only calls that name a file in FOLDER
fail: opening it to write, renaming it, making a folder or a link, or changing its permissions.
"""

import contextlib
import errno
import io
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

_ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)
_CALLS = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.chmod", "os.truncate"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class FailingDisk:
    """An audit hook that lets the call number `at` fail, counted from 0. `failed` says which call that was."""

    def __init__(self, folder: str, at: int) -> None:
        self.failed: str | None = None
        self._folder, self._at, self._seen = folder, at, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITES:
                return
        elif event in _CALLS:
            path = arguments[0]
        else:
            return
        if self.failed is not None or not os.fsdecode(path if isinstance(path, str | bytes) else "").startswith(
            self._folder
        ):
            return
        self._seen += 1
        if self._seen > self._at:
            self.failed = f"{event} {Path(os.fsdecode(path)).name}"
            number = _ERRORS[self._at % len(_ERRORS)]
            raise OSError(number, os.strerror(number), path)


def run_failing(folder: Path, at: int, arguments: list[str]) -> dict[str, Any]:
    """Run a command in a fork, with the call number `at` failing."""
    place = folder / f"run-{at}"
    place.mkdir()
    report = folder / f"report-{at}"
    if (child := os.fork()) == 0:
        _run(place, at, arguments, report)
    os.waitpid(child, 0)
    return dict(json.loads(report.read_text(encoding="utf-8")), place=str(place))


def _run(place: Path, at: int, arguments: list[str], report: Path) -> None:
    from roseinfer.cli import app

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    disk, code = FailingDisk(str(place), at), 99
    sys.argv = ["roseinfer", *(argument.replace("{place}", str(place)) for argument in arguments)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.addaudithook(disk)
        try:
            code = app.run()
        except BaseException:
            traceback.print_exc()
    failed, disk.failed = disk.failed, disk.failed or "nothing more fails"
    report.write_text(
        json.dumps({"failed": failed, "code": code, "out": _text(out), "err": _text(err)}), encoding="utf-8"
    )
    os._exit(0)


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def main() -> None:
    """Import what the commands need, and run them."""
    import torch
    import torch._dynamo  # as its profiler does

    import roseinfer.bench
    import roseinfer.cli.app
    import roseinfer.engine.factory
    import roseinfer.profiling  # noqa: F401

    torch.set_num_threads(1)
    for name, arguments in json.loads(sys.argv[2]).items():
        folder = Path(sys.argv[1]) / name
        folder.mkdir()
        for at in range(200):
            found = run_failing(folder, at, arguments)
            print(json.dumps(found | {"name": name}), flush=True)  # noqa: T201
            if found["failed"] is None:
                break


if __name__ == "__main__":
    main()
