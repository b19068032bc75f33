"""Builds of the compiled CPU kernels, for this processor and as if for older ones."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from roseinfer.cache_folder import make_cache_folder
from roseinfer.kernels.cpu import compiler, native_library
from roseinfer.kernels.cpu.native_tiles import TileMode, set_tile_mode

COMPILER = shutil.which("c++") or shutil.which("g++")
_TILES = "with tiles"


def _older() -> dict[str, str]:
    """Return names and flags of builds for older processors than this one, each of which has other code."""
    info = Path("/proc/cpuinfo")
    features = set(info.read_text(encoding="utf-8").split()) if info.exists() else set()
    flags = {"avx512_bf16": ("without AVX-512 BF16", "-mno-avx512bf16"), "avx512f": ("without AVX-512", "-mno-avx512f")}
    if not flags.keys() & features:  # compiling one more build for the others would take too long
        flags = {"avx2": ("without AVX2", "-mno-avx2")}
    return dict(build for feature, build in flags.items() if feature in features)


_OLDER = _older()
BUILDS = [_TILES, "without tiles", *_OLDER]
"""Names of builds that `load_build` accepts. The first two are one library, with and without tiles."""


_FOLDER = Path(__file__).parents[1] / ".pytest_cache" / "compiled-kernels"


def compiled_kernels_folder() -> Path:
    """Return the cache folder of all tests that use compiled kernels, with the library of this checkout in it.

    The library's name is a hash of its source, so that later test runs use it too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROSEINFER_CACHE_DIR", str(folder := _folder()))
        _provide(compiler.library_path())
    return folder


def _folder() -> Path:
    """Return the cache folder. Another compiler, such as that of `make sanitize`, has one of its own."""
    own = os.environ.get("CXX", "")
    return _FOLDER / (hashlib.blake2b(own.encode(), digest_size=4).hexdigest() if own else "usual")


def _provide(path: Path) -> None:
    """Copy a library from the user's cache folder, where `make setup` puts it, or compile it; one process at a time."""
    make_cache_folder(path.parent)
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("ROSEINFER_CACHE_DIR")
            users = compiler.library_path()
        if users.exists() and "CXX" not in os.environ:
            shutil.copy(users, path)
        else:
            compiler.compile_library(path)


def load_build(name: str) -> Iterator[None]:
    """Load one of `BUILDS`, and unload it after the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROSEINFER_CACHE_DIR", str(_folder()))
        if name in _OLDER:
            patch.setattr(compiler, "_FLAGS", (*compiler._FLAGS, _OLDER[name]))
        native_library.unload()
        _provide(compiler.library_path())
        native_library.load()
        assert set_tile_mode(TileMode.ALWAYS if name == _TILES else TileMode.NEVER) == (name == _TILES)
        yield
        set_tile_mode(TileMode.BY_PROCESSOR)
        native_library.unload()
