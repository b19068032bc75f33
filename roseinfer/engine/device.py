"""Device, element type and quantization of an engine, and the memory that a device has left."""

import os
from typing import Literal

import torch

from roseinfer.config import DTypeName, EngineConfig
from roseinfer.errors import UsageError
from roseinfer.processors import usable_processors

_DTYPES: dict[DTypeName, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def resolve_device(name: str) -> torch.device:
    """Return the device called `auto`, `cpu`, `cuda` or `cuda:N`. Raises UsageError if it is unknown or absent."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()) or (kind == "cpu" and index):
        raise UsageError(f"invalid --device {name!r}: choose auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if int(index or 0) >= count:
        raise UsageError(f"--device {name} is not available: PyTorch {torch.__version__} sees {count} CUDA devices")
    return torch.device("cuda", int(index or 0))


def resolve_dtype(name: DTypeName, device: torch.device) -> torch.dtype:
    """Return the dtype of that name; `auto` is bfloat16 if the device computes in bfloat16, else float32."""
    if name != "auto":
        return _DTYPES[name]
    computes_bfloat16 = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_computes_bfloat16()
    return torch.bfloat16 if computes_bfloat16 else torch.float32


def resolve_quantization(
    config: EngineConfig, device: torch.device, dtype: torch.dtype, *, is_gguf: bool
) -> Literal["none", "int8", "int4", "stored"]:
    """Return the quantization of the weights in memory; "stored" is that of the GGUF file.

    Raises UsageError for a combination of quantization, device and dtype that has no kernels.
    """
    if config.quantize == "auto":
        keeps = is_gguf and config.dtype == "auto" and device.type == "cpu"
        return "stored" if keeps else "none"
    if config.quantize != "none" and device.type != "cpu":
        raise UsageError(f"--quantize {config.quantize} runs on a CPU only: drop it, or give --device cpu")
    if config.quantize != "none" and dtype not in (torch.bfloat16, torch.float32):
        raise UsageError(f"--quantize {config.quantize} computes in bfloat16 or float32: give one of them as --dtype")
    return config.quantize


def spare_memory_bytes(device: torch.device) -> int:
    """Return the bytes that can still be allocated on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not known on macOS
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def device_name(device: torch.device) -> str:
    """Return a readable name of the device: the GPU's model, or the CPU's threads and instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads != 1)}, {torch.backends.cpu.get_cpu_capability()}"


def num_threads() -> int:
    """Return the number of CPU threads that torch computes with."""
    return torch.get_num_threads()


def set_threads(count: int | None) -> None:
    """Let torch and the compiled kernels compute with `count` CPU threads; None changes nothing.

    Raises UsageError for more threads than this process may run at once, which would slow each other down.
    """
    if count is None:
        return
    available = len(usable_processors())
    if count > available:
        raise UsageError(f"--threads {count} is more than the {available} that this process may run at once: give less")
    torch.set_num_threads(count)


def _cpu_computes_bfloat16() -> bool:
    """True if the CPU has bfloat16 instructions; without them every product would convert the weights first."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
