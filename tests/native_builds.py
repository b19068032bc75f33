"""Builds of the compiled CPU kernels, for this processor and as if for older ones."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from roseinfer.kernels.cpu import compiler, native_library
from roseinfer.kernels.cpu.native_tiles import TileMode, set_tile_mode

COMPILER = shutil.which("c++") or shutil.which("g++")
_TILES = "with tiles"


def _older() -> dict[str, str]:
    """Return names and flags of builds for older processors than this one, each of which has other code."""
    info = Path("/proc/cpuinfo")
    features = set(info.read_text(encoding="utf-8").split()) if info.exists() else set()
    flags = {"avx512_bf16": ("without AVX-512 BF16", "-mno-avx512bf16"), "avx512f": ("without AVX-512", "-mno-avx512f")}
    return dict(build for feature, build in flags.items() if feature in features)


_OLDER = _older()
BUILDS = [_TILES, "without tiles", *_OLDER]
"""Names of builds that `load_build` accepts. The first two are one library, with and without tiles."""


def compiled_kernels_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache folder of all tests that use compiled kernels, so that a run compiles each build once."""
    folder = tmp_path_factory.getbasetemp()
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "compiled-kernels"


def load_build(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Load one of `BUILDS`, and unload it after the tests. The first test of a session that needs it compiles it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROSEINFER_CACHE_DIR", str(compiled_kernels_folder(tmp_path_factory)))
        if name in _OLDER:
            patch.setattr(compiler, "_FLAGS", (*compiler._FLAGS, _OLDER[name]))
        native_library.unload()
        native_library.load()
        assert set_tile_mode(TileMode.ALWAYS if name == _TILES else TileMode.NEVER) == (name == _TILES)
        yield
        set_tile_mode(TileMode.BY_PROCESSOR)
        native_library.unload()
