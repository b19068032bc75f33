"""Reading weights from the safetensors files of a Hugging Face directory, memory-mapped."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from roseinfer.errors import ModelError
from roseinfer.model_files import reading, shortened
from roseinfer.progress import ProgressCallback
from roseinfer.weights.json_file import read_json
from roseinfer.weights.stored_tensor import ALL_WHOLE, StoredParts, StoredTensor

_FLOATS = ("F", "BF")
"""Starts of the names of floating-point dtypes."""


class SafetensorsReader:
    """Reads the tensors of one or more safetensors files, and the directory's config.json."""

    def __init__(self, folder: Path, files: tuple[Path, ...]) -> None:
        self.hf_config = read_json(folder / "config.json")
        tables = {path: _table(path) for path in files}
        self._files = {
            path: {name: num_bytes for name, (num_bytes, _) in rows.items()} for path, rows in tables.items()
        }
        self._table = {name: stored for rows in tables.values() for name, (_, stored) in rows.items()}
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

    def table(self) -> dict[str, StoredTensor]:
        """Return the shape and kind of every tensor, by name, from the files' headers alone."""
        return self._table

    def tensors(
        self, dtype: torch.dtype, on_progress: ProgressCallback | None = None, parts: StoredParts = ALL_WHOLE
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, tensor) for every tensor, on the CPU. Floating-point tensors are converted to `dtype`.

        Of the tensors in `parts`, only the part is read.

        `on_progress` counts bytes. A tensor that is stored in `dtype` is a view of the mapped file: copy the values.
        """
        done = 0
        for path, sizes in self._files.items():
            with reading(path), safe_open(path, framework="pt", device="cpu") as file:
                for name, num_bytes in sizes.items():
                    tensor = file.get_tensor(name)
                    if name in parts:
                        tensor = parts[name].of(tensor)
                    yield name, tensor.to(dtype) if tensor.is_floating_point() else tensor
                    done += num_bytes
                    if on_progress is not None:
                        on_progress(done, self.total_bytes)


def _table(path: Path) -> dict[str, tuple[int, StoredTensor]]:
    """Return (stored bytes, shape and kind) of each tensor in a file. Only the file's header is read."""
    with reading(path):
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                rows = ((name, part.get_dtype(), part.get_shape()) for name, part in slices.items())
                return {
                    name: (_num_bytes(dtype, shape), StoredTensor(tuple(shape), dtype.startswith(_FLOATS)))
                    for name, dtype, shape in rows
                }
        except SafetensorError as error:
            what = shortened(str(error))
            raise ModelError(f"{path} is not a valid safetensors file: {what}; download it again") from None


def _num_bytes(dtype: str, shape: list[int]) -> int:
    """Return the stored bytes of a tensor. The safetensors dtype (F32, BF16, I64, F8_E4M3, ...) names the bits."""
    bits = 8 if dtype == "BOOL" else int(dtype.lstrip("FBIUC").partition("_")[0])
    return math.prod(shape) * bits // 8
