"""The user's cache folder, for measurements and compiled kernels that later runs reuse.

Compiled kernels are code, so nobody else may write what is read here. The folder has mode 0700. A file is read only if
it and its folders belong to the user, if no other user may write them, and if the digest at its end is right.
"""

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from roseinfer.whole_file import replaced_file

_SEAL = b"\nroseinfer blake2b "
_SEAL_BYTES = len(_SEAL) + 64 + 1
_MAX_BYTES = 256 << 20
"""Maximum size of a cached file, in bytes. The compiled kernels are about 1 MB."""
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UntrustedCacheError(OSError):
    """A cached file or its folder is damaged, or other users could have changed it. The message is one line."""


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet.

    It is `$ROSEINFER_CACHE_DIR`, or else `roseinfer` in `$XDG_CACHE_HOME`, or else `~/.cache/roseinfer`. A user without
    a home folder, as in some containers, gets a private folder among the temporary files.
    """
    if own := os.environ.get("ROSEINFER_CACHE_DIR"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "roseinfer"
    try:
        return Path.home() / ".cache" / "roseinfer"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"roseinfer-{_user()}"


def read_cached(path: Path) -> bytes:
    """Return the content of a file that `write_cached` wrote in the cache folder.

    Raises UntrustedCacheError for a file that is damaged or that other users could have written, and OSError for a file
    that is missing or cannot be read.
    """
    for folder in _folders(path.parent):
        _check_folder(folder)
    with open(path, "rb", opener=_open) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise UntrustedCacheError(f"{path} is not a file that roseinfer wrote: delete it")
        _check_access(path, status)
        content = file.read()
    data, seal = content[:-_SEAL_BYTES], content[-_SEAL_BYTES:]
    if seal != _seal(path, data):
        raise UntrustedCacheError(f"{path} is damaged: delete it")
    return data


def write_cached(path: Path, data: bytes) -> None:
    """Write a file in the cache folder, with a digest at its end, and create missing folders.

    The file is replaced atomically: another process may read it at any time. Raises UntrustedCacheError if other users
    may write to the folder, and OSError if the file cannot be written.
    """
    make_cache_folder(path.parent)
    with replaced_file(path) as file:
        file.write(data + _seal(path, data))


def make_cache_folder(folder: Path) -> None:
    """Create the cache folder, or a folder in it, for the user alone. Raises the errors of `write_cached`."""
    for part in _folders(folder):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_folder(part)


def _folders(folder: Path) -> list[Path]:
    """Return the cache folder and the folders from it down to `folder`, the outermost first."""
    top = cache_folder()
    inner = folder.relative_to(top).parts
    return [top.joinpath(*inner[:depth]) for depth in range(len(inner) + 1)]


def _check_folder(folder: Path) -> None:
    """Raise UntrustedCacheError for a folder in which other users may write.

    Earlier versions created the folder with the user's umask. Where the folder is roseinfer's own, it is made private;
    one that the user named is left as it is.
    """
    if folder.is_symlink() and folder.lstat().st_uid != _user():
        raise UntrustedCacheError(f"{folder} is a link of another user: delete it")
    status = folder.stat()
    is_named = bool(os.environ.get("ROSEINFER_CACHE_DIR"))
    if status.st_uid == _user() and status.st_mode & 0o077 and not is_named:
        folder.chmod(0o700)
        status = folder.stat()
    _check_access(folder, status)


def _check_access(path: Path, status: os.stat_result) -> None:
    if os.name != "posix":
        return
    if status.st_uid != _user():
        raise UntrustedCacheError(f"{path} belongs to another user: set ROSEINFER_CACHE_DIR to a folder of your own")
    if status.st_mode & _OTHERS_WRITE:
        raise UntrustedCacheError(f"{path} can be written by other users: run `chmod go-w {path}`")


def _seal(path: Path, data: bytes) -> bytes:
    """Return the last line of a cached file: a digest of its content and its name, which says what the file is for."""
    digest = hashlib.blake2b(data, digest_size=32, key=hashlib.sha256(path.name.encode()).digest())
    return _SEAL + digest.hexdigest().encode() + b"\n"


def _open(path: str, flags: int) -> int:
    # O_NONBLOCK: opening a named pipe must not wait for a writer.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _user() -> int:
    return os.geteuid() if os.name == "posix" else 0
