"""Files that are written whole or not at all."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from roseinfer.errors import RoseinferError, UsageError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write. It appears under its name when the block ends, and not at all if the block fails.

    A device or a pipe is written to directly. Raises RoseinferError if the file cannot be written.
    """
    try:
        if _is_special(path):
            with path.open("wb") as file:
                yield file
            return
        target = path.resolve()  # a link stays a link
        with replaced_file(target, mode=usual_mode(target)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RoseinferError(f"cannot write {path}: {error.strerror or error}") from None


@contextmanager
def replaced_file(path: Path, *, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` at once when the block ends, and never if the block fails.

    Another process may read `path` at any time. Raises OSError if the file cannot be written.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        partial.chmod(mode)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises RoseinferError if it cannot be written."""
    with whole_file(path) as file:
        file.write(data)


def check_target(path: Path, option: str) -> None:
    """Raise UsageError if no file can be written to `path`, the value of an option. Call this before long work."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"invalid {option} {path}: its folder does not exist: create it, or name another")
    if path.is_dir():
        raise UsageError(f"invalid {option} {path}: it is a folder: name a file")
    if not os.access(path if _is_special(path) else folder, os.W_OK):
        raise UsageError(f"invalid {option} {path}: nothing can be written there: name another file")


def _is_special(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False


def usual_mode(path: Path) -> int:
    """Return the permissions of a file, or those that a new file gets from the user's umask."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask
