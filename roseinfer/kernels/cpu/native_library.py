"""Load the compiled CPU kernels, once per process, and call their functions.

`--compile` and `make setup` call `load`, which compiles the library if the cache folder has none. After loading, every
engine of the process uses the kernels.

The library is code. It is loaded only if it is as roseinfer compiled it, and if no other user could have written it
(`roseinfer.cache_folder`).
"""

import ctypes
import functools
import logging
import sys
from pathlib import Path
from typing import Any

import torch

from roseinfer.cache_folder import UntrustedCacheError, read_cached
from roseinfer.errors import UsageError
from roseinfer.kernels.cpu.compiler import DTYPE_NAMES, compile_library, find_compiler, library_path
from roseinfer.spans import operator, recording

DTYPES = {getattr(torch, name): name for name in DTYPE_NAMES}
"""Element types of the kernels, with the suffix of their functions' names."""

POINTER, INTEGER, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
"""Types of the arguments and struct fields in cpp/native.cpp."""

_ARGUMENTS: dict[str, list[Any]] = {
    "add_rms_norm": [POINTER] * 5 + [INTEGER] * 4 + [FLOAT],
    "silu_and_mul": [POINTER] * 2 + [INTEGER] * 3,
    "rope_append": [POINTER] * 9 + [INTEGER] * 6 + [FLOAT],
    "paged_decode_attention": [POINTER] * 6 + [INTEGER] * 7 + [POINTER],
    "paged_prefill_attention": [POINTER] * 7 + [INTEGER] * 7 + [POINTER],
    "linear": [POINTER] * 3 + [INTEGER],
    "table_rows": [POINTER] * 3 + [INTEGER],
    "route": [POINTER] * 4 + [INTEGER] * 4,
    "experts_mlp": [POINTER] * 5 + [INTEGER],
    "argmax": [POINTER] * 2 + [INTEGER] * 3,
    "decode_layers": [POINTER] + [INTEGER] * 2,
    "set_tile_mode": [INTEGER, POINTER],
}
"""Argument types per function."""

_LOG = logging.getLogger("roseinfer")

functions: dict[tuple[str, torch.dtype], Any] = {}
"""Functions of the loaded library by name and element type. Empty until the library is loaded."""


def load() -> bool:
    """Load the kernels, and compile them first if the cache folder has none. Return True if they were compiled.

    A library that is damaged, or that another user could have written, is compiled again. Raises UsageError if there is
    no C++ compiler, if the compiler fails, or if the library cannot be loaded.
    """
    if functions:
        return False
    path = library_path()
    try:
        _load(path)
    except OSError:
        compile_library(path)
    else:
        return False
    try:
        _load(path)
    except UntrustedCacheError as error:
        raise UsageError(f"--compile: {error}") from None
    except OSError:
        raise UsageError(
            f"--compile: {path} cannot be loaded: set ROSEINFER_CACHE_DIR to a folder that code may run from"
        ) from None
    return True


def load_if_compiled() -> bool:
    """Load the kernels if the cache folder has them. Return True if they are loaded, by this call or earlier.

    A library that is damaged, or that another user could have written, is left out, and a warning is logged once.
    """
    if functions:
        return True
    try:
        _load(library_path())
    except UntrustedCacheError as error:
        _warn(f"[compile] the compiled CPU kernels are left out, so this runs slower: {error}")
    except OSError:  # no such file, or a folder from which no code may run
        pass
    return bool(functions)


def _load(path: Path) -> None:
    """Fill `functions` from a library. Raises UntrustedCacheError if it must not run, and OSError if it cannot."""
    read_cached(path)
    library = ctypes.CDLL(str(path))
    loaded = {}
    for name, arguments in _ARGUMENTS.items():
        for dtype, suffix in DTYPES.items():
            try:
                function = library[f"{name}_{suffix}"]
            except AttributeError:
                raise UntrustedCacheError(f"{path} lacks the function {name}_{suffix}: delete it") from None
            function.argtypes, function.restype = arguments, None
            loaded[name, dtype] = function
    functions.update(loaded)


@functools.cache  # once per process and reason
def _warn(message: str) -> None:
    _LOG.warning(message)


def is_on_by_default() -> bool:
    """True if this processor has AVX2: on such processors the kernels were measured to be faster than torch's."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def is_only_uncompiled(dtype: torch.dtype) -> bool:
    """True if an engine of this dtype would use the kernels by default once they are compiled, and they can be.

    A command then suggests `--compile`.
    """
    if is_loaded() or not is_on_by_default() or dtype not in DTYPES:
        return False
    try:
        find_compiler()
    except UsageError:
        return False
    return True


def is_loaded() -> bool:
    """True if the process uses the compiled kernels."""
    return bool(functions)


def unload() -> None:
    """Unload the kernels, for tests. Engines that were built with them stop working."""
    functions.clear()


def call(name: str, dtype: torch.dtype, *arguments: Any, label: str | None = None) -> None:
    """Call a function of the library. Traces show the call as the operator `roseinfer::<label or name>`."""
    function = functions[name, dtype]
    if not recording():
        function(*arguments)
        return
    with operator(f"roseinfer::{label or name}"):
        function(*arguments)


if __name__ == "__main__":  # `make setup`, which must also pass on a machine without a compiler
    try:
        if not is_on_by_default():
            raise UsageError("this processor has no AVX2 (--compile compiles them all the same)")
        load()
    except UsageError as error:
        sys.stderr.write(f"[setup] CPU kernels not compiled, PyTorch's operations run instead: {error}\n")
