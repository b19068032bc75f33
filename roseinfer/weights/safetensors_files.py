"""Reading weights from the safetensors files of a Hugging Face directory, memory-mapped."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from roseinfer.errors import ModelError
from roseinfer.progress import ProgressCallback
from roseinfer.weights.json_file import read_json


class SafetensorsReader:
    """Reads the tensors of one or more safetensors files, and the directory's config.json."""

    def __init__(self, folder: Path, files: tuple[Path, ...]) -> None:
        self.hf_config = read_json(folder / "config.json")
        self._files = {path: _sizes(path) for path in files}
        owners: dict[str, Path] = {}
        for path, sizes in self._files.items():
            for name in sizes:
                if name in owners:
                    raise ModelError(f"tensor {name} is in both {owners[name]} and {path.name}: download them again")
                owners[name] = path

    @property
    def description(self) -> dict[str, Any]:
        """Object in config.json."""
        return self.hf_config

    @property
    def total_bytes(self) -> int:
        """Stored size of all tensors, in bytes."""
        return sum(sum(sizes.values()) for sizes in self._files.values())

    def names(self) -> list[str]:
        """Return the names of all tensors, file by file."""
        return [name for sizes in self._files.values() for name in sizes]

    def tensors(
        self, dtype: torch.dtype, on_progress: ProgressCallback | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, tensor) for every tensor, on the CPU. Floating-point tensors are converted to `dtype`.

        `on_progress` counts bytes. A tensor that is stored in `dtype` is a view of the mapped file: copy the values.
        """
        done = 0
        for path, sizes in self._files.items():
            with safe_open(path, framework="pt", device="cpu") as file:
                for name, num_bytes in sizes.items():
                    tensor = file.get_tensor(name)
                    yield name, tensor.to(dtype) if tensor.is_floating_point() else tensor
                    done += num_bytes
                    if on_progress is not None:
                        on_progress(done, self.total_bytes)


def _sizes(path: Path) -> dict[str, int]:
    """Return the stored bytes of each tensor in a file. Only the file's header is read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return {name: _num_bytes(part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    except SafetensorError as error:
        raise ModelError(f"{path} is not a valid safetensors file: {_one_line(error)}; download it again") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None


def _num_bytes(dtype: str, shape: list[int]) -> int:
    """Return the stored bytes of a tensor. The safetensors dtype (F32, BF16, I64, F8_E4M3, ...) names the bits."""
    bits = 8 if dtype == "BOOL" else int(dtype.lstrip("FBIUC").partition("_")[0])
    return math.prod(shape) * bits // 8


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
