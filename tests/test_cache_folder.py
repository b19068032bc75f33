"""Cached files are read only as roseinfer wrote them, and only if nobody but the user could have written them."""

import os
from pathlib import Path

import pytest

from roseinfer.cache_folder import UntrustedCacheError, cache_folder, read_cached, write_cached

DATA = bytes(range(256)) * 5


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of a written file, in a folder of the default cache folder."""
    monkeypatch.delenv("ROSEINFER_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = cache_folder() / "inner" / "file.bin"
    write_cached(path, DATA)
    return path


def modes(*paths: Path) -> list[int]:
    return [path.stat().st_mode & 0o777 for path in paths]


def test_a_file_is_read_as_it_was_written_and_is_private(path: Path) -> None:
    assert read_cached(path) == DATA
    assert modes(path, path.parent, path.parent.parent) == [0o600, 0o700, 0o700]
    assert list(path.parent.iterdir()) == [path], "nothing else is left behind"


def test_every_truncation_and_every_changed_byte_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    changed = [whole[:length] for length in range(0, len(whole), 7)]
    changed += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 7)]
    changed += [whole + b"\0", whole[1:], b""]
    for content in changed:
        path.write_bytes(content)
        with pytest.raises(UntrustedCacheError, match="is damaged"):
            read_cached(path)


def test_a_file_under_another_name_is_refused(path: Path) -> None:
    other = path.with_name("other.bin")
    path.rename(other)
    with pytest.raises(UntrustedCacheError, match="is damaged"):
        read_cached(other)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777])
def test_a_file_that_others_may_write_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(UntrustedCacheError, match="can be written by other users"):
        read_cached(path)


def test_a_file_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(UntrustedCacheError, match="belongs to another user"):
        read_cached(path)
    with pytest.raises(UntrustedCacheError, match="belongs to another user"):
        write_cached(path, DATA)


def test_links_pipes_and_folders_are_refused(path: Path, tmp_path: Path) -> None:
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        read_cached(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UntrustedCacheError, match="not a file that roseinfer wrote"):
        read_cached(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match=r"directory|not a file"):
        read_cached(path)


def test_the_default_folder_is_made_private_again(path: Path) -> None:
    cache_folder().chmod(0o777)
    path.parent.chmod(0o775)
    assert read_cached(path) == DATA
    assert modes(path.parent, path.parent.parent) == [0o700, 0o700]


def test_a_named_folder_that_others_may_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSEINFER_CACHE_DIR", str(tmp_path))
    path = tmp_path / "file.bin"
    write_cached(path, DATA)
    tmp_path.chmod(0o777)
    for call in (lambda: read_cached(path), lambda: write_cached(path, DATA)):
        with pytest.raises(UntrustedCacheError, match="can be written by other users: run `chmod go-w"):
            call()
    assert modes(tmp_path) == [0o777], "a folder that the user named is left as it is"
