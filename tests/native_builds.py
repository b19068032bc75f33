"""Builds of the compiled CPU kernels, for this processor and as if for older ones."""

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from roseinfer.kernels.cpu import compiler, native_library

COMPILER = shutil.which("c++") or shutil.which("g++")
_OLDER = {"without AVX-512 BF16": "-mno-avx512bf16", "without AVX-512": "-mno-avx512f"}
BUILDS = ["as it is", *(_OLDER if platform.machine() == "x86_64" else [])]
"""Names of builds that `load_build` accepts."""


def load_build(name: str, cache_dir: Path) -> Iterator[None]:
    """Compile and load one of `BUILDS`, and unload it after the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROSEINFER_CACHE_DIR", str(cache_dir))
        if name in _OLDER:
            patch.setattr(compiler, "_FLAGS", (*compiler._FLAGS, _OLDER[name]))
        native_library.unload()
        assert native_library.load()
        yield
        native_library.unload()
