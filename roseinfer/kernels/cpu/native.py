"""The CPU's kernels in C++ (cpp/native.cpp), made by the machine's own compiler when `--compile` or `make setup` asks.

Between its matrix products, a decode step is hundreds of operations on a few kilobytes each, and torch needs longer to
start one than to do it. Compiled, each of the kernels that a GPU runs in Triton is one call here, too, paged attention
reads keys and values where they lie, and all layers of a decode step are one call. The library is compiled once per
source and processor, and kept in the user's cache folder. Once loaded, the whole process uses it.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roseinfer.cache_folder import cache_folder
from roseinfer.errors import UsageError
from roseinfer.spans import operator, recording, span

_SOURCES = Path(__file__).with_name("cpp")
_COMPILERS = ("c++", "g++")
# With GCC's OpenMP, the library finds torch's already loaded, and shares its threads.
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fopenmp")
_LIBRARY = "library.so"
LANES = 16
"""Elements that the kernels take at once: what they walk over is a multiple of it."""
_MAX_HEAD_DIM = 256
MAX_ROWS = 64
"""Of a decode step whose layers are one call: every thread computes the norms of all rows."""
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

_POINTER, _INTEGER, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS: dict[str, list[Any]] = {
    "add_rms_norm": [_POINTER] * 5 + [_INTEGER] * 4 + [_FLOAT],
    "silu_and_mul": [_POINTER] * 2 + [_INTEGER] * 3,
    "rope_append": [_POINTER] * 9 + [_INTEGER] * 6 + [_FLOAT],
    "paged_decode_attention": [_POINTER] * 6 + [_INTEGER] * 8 + [_FLOAT],
    "paged_prefill_attention": [_POINTER] * 7 + [_INTEGER] * 8 + [_FLOAT],
    "linear": [_POINTER] * 3 + [_INTEGER],
    "table_rows": [_POINTER] * 3 + [_INTEGER],
    "argmax": [_POINTER] * 2 + [_INTEGER] * 3,
    "decode_layers": [_POINTER] + [_INTEGER] * 2,
}

_LINEARS = ("linear", "int8_linear", "int4_linear")
"""Names in traces, by `Kind`."""

_functions: dict[tuple[str, torch.dtype], Any] = {}
"""The loaded library's, by name and dtype; empty until `load`."""


def load() -> bool:
    """Make the kernels ready, compiling them where the cache folder has none; whether that was necessary.

    Raises UsageError where there is no C++ compiler, or it fails.
    """
    if load_made():
        return False
    _compile(_compiler(), path := _path())
    if not load_made():
        raise UsageError(
            f"--compile: {path} cannot be loaded: set ROSEINFER_CACHE_DIR to a folder that code may run from"
        )
    return True


def _compiler() -> list[str]:
    """The command of the C++ compiler: $CXX, or what is usual."""
    if own := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(own[0]) is None:
            raise UsageError(f"--compile: there is no {own[0]}, which CXX names: name a C++ compiler that there is")
        return own
    usual = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if usual is None:
        raise UsageError("there is no C++ compiler for --compile: install g++, or name another one in CXX")
    return [usual]


def load_made() -> bool:
    """Make the kernels ready if they were compiled before, and can be loaded; whether they are."""
    if _functions:
        return True
    path = _path()
    try:
        library = ctypes.CDLL(str(path)) if path.is_file() else None
    except OSError:  # broken, or in a folder that no code may run from
        library = None
    if library is None:
        return False
    for name, arguments in _ARGUMENTS.items():
        for dtype, suffix in _DTYPES.items():
            function = library[f"{name}_{suffix}"]
            function.argtypes, function.restype = arguments, None
            _functions[name, dtype] = function
    return True


def is_default() -> bool:
    """Whether this processor is of the kind on which the kernels were measured to be faster than torch's."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def is_missed(dtype: torch.dtype) -> bool:
    """Whether an engine of this dtype goes without the kernels only since nobody has made them: `load` could."""
    if is_loaded() or not is_default() or dtype not in _DTYPES:
        return False
    try:
        _compiler()
    except UsageError:
        return False
    return True


def is_loaded() -> bool:
    """Whether the process uses the compiled kernels."""
    return bool(_functions)


def unload() -> None:
    """Forget the kernels, for tests: engines that were built with them do not work any more."""
    _functions.clear()


def runs_native(*tensors: Tensor | None) -> bool:
    """Whether the kernels are loaded and can take these: on the CPU, one dtype of theirs, last dimension contiguous."""
    if not _functions:
        return False
    dtype = None
    for x in tensors:
        if x is None:
            continue
        dtype = dtype or x.dtype
        if x.dtype is not dtype or not x.is_cpu or x.stride(-1) != 1:
            return False
    return dtype in _DTYPES


def follows(*caches: Tensor) -> bool:
    """Whether all slots of caches [num_blocks, block_size, kv_heads, head_dim] lie one behind the other."""
    return all(cache.is_contiguous() for cache in caches)


def attends(head_dim: int) -> bool:
    """Whether the attention kernel takes heads of this size."""
    return head_dim % LANES == 0 and head_dim <= _MAX_HEAD_DIM


def takes_cache(q: Tensor, key_cache: Tensor, value_cache: Tensor) -> bool:
    """Whether the attention kernels are loaded, and take queries [.., head_dim] and these caches."""
    caches = key_cache, value_cache
    return runs_native(q, *caches) and follows(*caches) and attends(q.shape[-1])


def add_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`norms.add_rms_norm` for rows of a multiple of 16."""
    rows, size = x.shape
    out = x.new_empty((rows, size))
    total = x if residual is None else x.new_empty((rows, size))
    _call(
        "add_rms_norm",
        x.dtype,
        x.data_ptr(),
        None if residual is None else residual.data_ptr(),
        weight.data_ptr(),
        None if residual is None else total.data_ptr(),
        out.data_ptr(),
        rows,
        size,
        x.stride(0),
        0 if residual is None else residual.stride(0),
        eps,
    )
    return out, total


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """`activations.silu_and_mul` for rows of a multiple of 32."""
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty((rows, size))
    _call("silu_and_mul", gate_up.dtype, gate_up.data_ptr(), out.data_ptr(), rows, size, gate_up.stride(0))
    return out


def rope_append(
    qkv: Tensor,
    table: Tensor | None,
    positions: Tensor,
    slots: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
) -> Tensor:
    """`rope_append.rope_append` for a head_dim of a multiple of 32, and caches in which slots follow each other."""
    tokens, positions, slots = len(qkv), positions.to(torch.int64).contiguous(), slots.to(torch.int64).contiguous()
    q = qkv.new_empty((tokens, num_heads, head_dim))
    pointers = (x if x is None else x.data_ptr() for x in (q_norm, k_norm))
    _call(
        "rope_append",
        qkv.dtype,
        qkv.data_ptr(),
        None if table is None else table.data_ptr(),
        positions.data_ptr(),
        slots.data_ptr(),
        key_cache.data_ptr(),
        value_cache.data_ptr(),
        *pointers,
        q.data_ptr(),
        tokens,
        num_heads,
        num_kv_heads,
        head_dim,
        qkv.stride(0),
        key_cache.stride(1),
        eps,
    )
    return q


def paged_decode_attention(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    scale: float,
    sliding_window: int | None,
) -> Tensor:
    """`paged_attention.paged_decode_attention` for the sizes of head that `attends`."""
    requests, heads, head_dim = q.shape
    q, block_tables = q.contiguous(), block_tables.to(torch.int32).contiguous()
    context_lens = context_lens.to(torch.int32).contiguous()
    out = torch.empty_like(q)
    _call(
        "paged_decode_attention",
        q.dtype,
        q.data_ptr(),
        key_cache.data_ptr(),
        value_cache.data_ptr(),
        block_tables.data_ptr(),
        context_lens.data_ptr(),
        out.data_ptr(),
        requests,
        heads,
        key_cache.shape[2],
        head_dim,
        block_tables.stride(0),
        key_cache.shape[1],
        key_cache.stride(1),
        sliding_window or 0,
        scale,
    )
    return out


def paged_prefill_attention(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    scale: float,
    sliding_window: int | None,
) -> Tensor:
    """`paged_prefill.paged_prefill_attention` for the sizes of head that `attends`."""
    q = q.contiguous()
    integers = [x.to(torch.int32).contiguous() for x in (block_tables, query_starts, context_lens)]
    out = torch.empty_like(q)
    _call(
        "paged_prefill_attention",
        q.dtype,
        q.data_ptr(),
        key_cache.data_ptr(),
        value_cache.data_ptr(),
        *(x.data_ptr() for x in integers),
        out.data_ptr(),
        len(context_lens),
        q.shape[1],
        key_cache.shape[2],
        q.shape[2],
        integers[0].stride(0),
        key_cache.shape[1],
        key_cache.stride(1),
        sliding_window or 0,
        scale,
    )
    return out


class Kind(IntEnum):
    """How a weight is kept."""

    PLAIN = 0
    INT8 = 1
    INT4 = 2


class Weight(ctypes.Structure):
    """How the weight of a linear layer is kept; products.h says what the fields mean."""

    _fields_ = (
        ("values", _POINTER),
        ("scales", _POINTER),
        ("bias", _POINTER),
        ("kind", _INTEGER),
        ("outputs", _INTEGER),
        ("size", _INTEGER),
        ("lanes", _INTEGER),
    )


class Layer(ctypes.Structure):
    """What one layer of a decoder reads and writes."""

    _fields_ = (
        ("attention_norm", _POINTER),
        ("mlp_norm", _POINTER),
        ("q_norm", _POINTER),
        ("k_norm", _POINTER),
        ("keys", _POINTER),
        ("values", _POINTER),
        ("qkv", Weight),
        ("output", Weight),
        ("gate_up", Weight),
        ("down", Weight),
    )


PARTS = ("qkv_linear", "rope_append", "attention", "output_linear", "gate_up_linear", "down_linear")
"""What `decode_layers` does in each layer, in order, with the norms, activations and sums next to it."""

_SPANS = {"rope_append": "roseinfer.kv.append", "attention": "roseinfer.attention"}
"""Around some of the parts, as around the same work in other steps."""


class Step(ctypes.Structure):
    """A decode step: its layers, and what they read and write."""

    _fields_ = (
        ("layers", _POINTER),
        ("stream", _POINTER),
        ("table", _POINTER),
        ("positions", _POINTER),
        ("slots", _POINTER),
        ("block_tables", _POINTER),
        ("context_lens", _POINTER),
        ("qkv", _POINTER),
        ("attended", _POINTER),
        ("gate_up", _POINTER),
        ("active", _POINTER),
        ("rows", _INTEGER),
        ("hidden_size", _INTEGER),
        ("intermediate_size", _INTEGER),
        ("heads", _INTEGER),
        ("kv_heads", _INTEGER),
        ("head_dim", _INTEGER),
        ("table_stride", _INTEGER),
        ("block_size", _INTEGER),
        ("sliding_window", _INTEGER),
        ("eps", _FLOAT),
        ("scale", _FLOAT),
    )


def decode_layers(step: Step, dtype: torch.dtype, num_layers: int) -> None:
    """All layers of a decoder for one new token a row, in place.

    One call; while a profiler runs, one for each of `PARTS`, so that a trace shows where the time goes.
    """
    function = _functions["decode_layers", dtype]
    if not recording():
        function(ctypes.byref(step), 0, num_layers * len(PARTS))
        return
    for part in range(num_layers * len(PARTS)):
        name = PARTS[part % len(PARTS)]
        with span(_SPANS[name]) if name in _SPANS else nullcontext(), operator(f"roseinfer::{name}"):
            function(ctypes.byref(step), part, part + 1)


def linear(x: Tensor, weight: Weight) -> Tensor:
    """x W^T + b: contiguous x [rows, size] -> [rows, outputs]."""
    out = x.new_empty((x.shape[0], weight.outputs))
    arguments = ctypes.byref(weight), x.data_ptr(), out.data_ptr(), x.shape[0]
    _call("linear", x.dtype, *arguments, label=_LINEARS[weight.kind])
    return out


def table_rows(ids: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
    """Rows of a plain or int8 weight: ids [n], each of one of its outputs -> [n, size]."""
    ids = ids.to(torch.int64).contiguous()
    out = ids.new_empty((len(ids), weight.size), dtype=dtype)
    _call("table_rows", dtype, ctypes.byref(weight), ids.data_ptr(), out.data_ptr(), len(ids))
    return out


def argmax(x: Tensor) -> Tensor:
    """`argmax.argmax` for rows of any size."""
    out = x.new_empty(len(x), dtype=torch.int64)
    _call("argmax", x.dtype, x.data_ptr(), out.data_ptr(), len(x), x.shape[1], x.stride(0))
    return out


def _call(name: str, dtype: torch.dtype, *arguments: Any, label: str | None = None) -> None:
    """Run a function, which traces show as an operator of its own, called roseinfer::name or roseinfer::label."""
    function = _functions[name, dtype]
    if not recording():
        function(*arguments)
        return
    with operator(f"roseinfer::{label or name}"):
        function(*arguments)


def _path() -> Path:
    """Of the library, named after what it is good for: this source, these flags, this processor."""
    parts = [path.read_bytes() for path in sorted(_SOURCES.iterdir())]
    parts += [" ".join(_FLAGS).encode(), _processor()]
    return cache_folder() / f"native-{hashlib.blake2b(b'|'.join(parts), digest_size=8).hexdigest()}.so"


def _processor() -> bytes:
    """What `-march=native` looks at: the same home folder may be on machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().split(b"\n\n", 1)[0].split(b"\n")
    except OSError:
        return platform.processor().encode()
    return b"\n".join(line for line in lines if line.startswith((b"model name", b"flags", b"Features", b"CPU part")))


def _compile(compiler: list[str], path: Path) -> None:
    """Into a file of another name, which then takes its place: two processes at once both end up with a whole one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            complaint = _build([*compiler, *_FLAGS], Path(folder))
            if complaint is None:
                (Path(folder) / _LIBRARY).replace(path)
                return
    except OSError as error:
        raise UsageError(
            f"--compile cannot write to {path.parent}: {error.strerror}; set ROSEINFER_CACHE_DIR"
        ) from None
    raise UsageError(f"--compile: {compiler[0]} failed ({complaint}): name another one in CXX, or leave it out")


def _build(compiler: list[str], folder: Path) -> str | None:
    """Compile for each dtype, side by side, and link; the first error that the compiler complains about."""
    source = str(_SOURCES / "native.cpp")
    objects = {suffix: str(folder / f"{suffix}.o") for suffix in _DTYPES.values()}
    commands = [[*compiler, "-c", f"-D{suffix.upper()}", source, "-o", to] for suffix, to in objects.items()]
    for together in (commands, [[*compiler, "-shared", *objects.values(), "-o", str(folder / _LIBRARY)]]):
        try:
            runs = [
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                for command in together
            ]
        except OSError as error:
            return f"it cannot be started: {error.strerror}"
        complaints = [run.communicate()[1].strip().splitlines() for run in runs]  # all are waited for
        for run, lines in zip(runs, complaints, strict=True):
            if run.returncode:
                return next((line for line in lines if "error" in line), lines[0] if lines else "it said nothing")
    return None


if __name__ == "__main__":  # `make setup`: a machine without a compiler does without
    try:
        if not is_default():
            raise UsageError("this processor has no AVX-512; --compile makes the kernels all the same")
        load()
    except UsageError as error:
        sys.stderr.write(f"[setup] left to PyTorch: {error}\n")
