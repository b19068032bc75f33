"""Reading weights from a GGUF file, dequantized or as 4-bit groups."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from roseinfer.errors import ModelError
from roseinfer.kernels.linear.quantized_weight import QuantizedWeight
from roseinfer.model_files import shortened
from roseinfer.progress import ProgressCallback
from roseinfer.weights.gguf_groups import read_groups
from roseinfer.weights.gguf_header import GgufHeader, GgufTensor, read_gguf_header
from roseinfer.weights.stored_tensor import ALL_WHOLE, Range, StoredPart, StoredParts, StoredTensor, columns_of

_CHUNK_BLOCKS = 4096
"""Quantization blocks to dequantize at a time. The temporaries then fit into the CPU's cache, which is twice as fast as
dequantizing a tensor as a whole."""

_PLAIN = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}


class GgufReader:
    """Reads the tensors of a .gguf file, whole or split, under their GGUF names, such as `blk.0.attn_q.weight`.

    Linear weights are [out, in]. The rows of Q and K are in the file's order, which for Llama is not Hugging Face's:
    the model's weight map reorders them.
    """

    def __init__(self, path: Path, parts: tuple[Path, ...] = ()) -> None:
        """`path` is the file, or the first part of a split one, whose parts are then all of `parts`, in order."""
        self._path = path
        self._gguf = _import_gguf()
        self._tensors: dict[str, GgufTensor] = {}
        self._bytes: dict[str, int] = {}
        self._part_of: dict[str, Path] = {}
        for part in parts or (path,):
            header = read_gguf_header(part)
            if part == path:
                self.metadata = header.metadata
            self._add(part, header)
        num_parts = self.metadata.get("split.count") or 1
        if num_parts != max(len(parts), 1):
            raise ModelError(
                f"{path} is one of {num_parts} parts: give the first one, as in name-00001-of-{num_parts:05d}.gguf"
            )

    def _add(self, part: Path, header: GgufHeader) -> None:
        for tensor in header.tensors:
            if tensor.name in self._tensors:
                raise ModelError(
                    f"{part} has {shortened(tensor.name)}, which another part has too: download them again"
                )
            self._tensors[tensor.name] = tensor
            self._bytes[tensor.name] = self._stored_bytes(tensor)
            self._part_of[tensor.name] = part
        self._check_places(part, header)

    @property
    def description(self) -> dict[str, Any]:
        """Metadata of the file: key -> int, float, bool, str, or a list of these."""
        return self.metadata

    @property
    def total_bytes(self) -> int:
        """Stored size of all tensors, in bytes."""
        return sum(self._bytes.values())

    def names(self) -> list[str]:
        """Return the names of all tensors, in the file's order."""
        return list(self._tensors)

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor in float32."""
        tensor = self._tensors[name]
        raw = self._mapped(self._part_of[name])[tensor.offset : tensor.offset + self._bytes[name]]
        return self._read(raw, tensor, torch.float32)

    def tensors(
        self, dtype: torch.dtype, on_progress: ProgressCallback | None = None, parts: StoredParts = ALL_WHOLE
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, tensor) for every tensor, on the CPU, dequantized to `dtype`. Integer tensors stay integers.

        Of the tensors in `parts`, only the part is read.

        `on_progress` counts bytes. A tensor that is stored in `dtype` is a view of the mapped file: copy the values.
        """
        for name, tensor, raw in self._stored(on_progress):
            yield name, self._read(raw, tensor, dtype, parts.get(name))

    def tensors_and_groups(
        self, dtype: torch.dtype, on_progress: ProgressCallback | None = None, parts: StoredParts = ALL_WHOLE
    ) -> Iterator[tuple[str, torch.Tensor | QuantizedWeight]]:
        """Yield (name, tensor or groups) for every tensor.

        A matrix stored in uniform 4-bit groups of 32 elements is yielded as a `QuantizedWeight`.
        Any other tensor is yielded as by `tensors`. Raises ModelError for a part that begins or ends inside a group.
        """
        for name, tensor, raw in self._stored(on_progress):
            kind = self._gguf.GGMLQuantizationType(tensor.ggml_type)
            blocks, shape, columns = self._blocks(raw, tensor, parts.get(name))
            groups = read_groups(kind.name, blocks, shape)
            if groups is not None and columns is not None:
                groups = self._cut(groups, columns, name)
            yield name, self._read(raw, tensor, dtype, parts.get(name)) if groups is None else groups

    def table(self) -> dict[str, StoredTensor]:
        """Return the shape and kind of every tensor, by name, from the file's header alone."""
        return {
            name: StoredTensor(tensor.shape, is_float=not self._kind(tensor).startswith("I") or self.is_quantized(name))
            for name, tensor in self._tensors.items()
        }

    def is_quantized(self, name: str) -> bool:
        """True if a tensor's values are stored in few bits with shared scales."""
        return self._kind(self._tensors[name]) not in _PLAIN

    def _kind(self, tensor: GgufTensor) -> str:
        return str(self._gguf.GGMLQuantizationType(tensor.ggml_type).name)

    def _stored(self, on_progress: ProgressCallback | None) -> Iterator[tuple[str, GgufTensor, npt.NDArray[np.uint8]]]:
        """Yield (name, table entry, bytes) for every tensor. The bytes are a view of the mapped file."""
        mapped = {part: self._mapped(part) for part in set(self._part_of.values())}
        done = 0
        for name, tensor in self._tensors.items():
            yield name, tensor, mapped[self._part_of[name]][tensor.offset : tensor.offset + self._bytes[name]]
            done += self._bytes[name]
            if on_progress is not None:
                on_progress(done, self.total_bytes)

    @staticmethod
    def _mapped(part: Path) -> npt.NDArray[np.uint8]:
        # Copy-on-write, because torch requires writable memory and the file must not change.
        return np.memmap(part, np.uint8, "c")

    def _blocks(
        self, raw: npt.NDArray[np.uint8], tensor: GgufTensor, part: StoredPart | None
    ) -> tuple[npt.NDArray[np.uint8], tuple[int, ...], tuple[Range, ...] | None]:
        """Return the quantization blocks of a part, [blocks, bytes], their shape, and columns still to be cut.

        Columns are cut here if they begin and end at the borders of blocks.
        """
        block_size, block_bytes = self._gguf.GGML_QUANT_SIZES[self._gguf.GGMLQuantizationType(tensor.ggml_type)]
        if part is None or len(tensor.shape) < 2:
            return raw.reshape(-1, block_bytes), tensor.shape, None
        rows = part.rows_of(torch.from_numpy(raw).view(tensor.shape[0], -1, block_bytes))
        width, columns = tensor.shape[1], part.columns
        if columns is not None and not any(border % block_size for borders in columns for border in borders):
            rows = columns_of(rows, tuple((start // block_size, stop // block_size) for start, stop in columns))
            width, columns = sum(stop - start for start, stop in columns), None
        return rows.reshape(-1, block_bytes).numpy(), (len(rows), width), columns

    def _cut(self, groups: QuantizedWeight, columns: tuple[Range, ...], name: str) -> QuantizedWeight:
        """Return some columns of a matrix, which begin and end at the borders of its groups."""
        size = groups.group_size
        for start, stop in columns:
            if start % size or stop % size:
                raise ModelError(
                    f"{self._path}: tensor {name} has groups of {size} columns, which columns {start} to {stop} of one "
                    "rank would cut: choose another --tensor-parallel, or give --quantize none"
                )
        in_groups = tuple((start // size, stop // size) for start, stop in columns)
        return groups.mapped(
            lambda plane: columns_of(plane, columns if plane.shape == groups.codes.shape else in_groups)
        )

    def _read(
        self, raw: npt.NDArray[np.uint8], tensor: GgufTensor, dtype: torch.dtype, part: StoredPart | None = None
    ) -> torch.Tensor:
        plain = _PLAIN.get(self._kind(tensor))
        if plain is None:
            return self._dequantize(raw, tensor, dtype, part)
        values = torch.from_numpy(raw).view(plain).view(tensor.shape)
        values = values if part is None else part.of(values)
        return values.to(dtype) if plain.is_floating_point else values

    def _dequantize(
        self, raw: npt.NDArray[np.uint8], tensor: GgufTensor, dtype: torch.dtype, part: StoredPart | None
    ) -> torch.Tensor:
        kind = self._gguf.GGMLQuantizationType(tensor.ggml_type)
        block_size = self._gguf.GGML_QUANT_SIZES[kind][0]
        blocks, shape, columns = self._blocks(raw, tensor, part)
        values = np.empty((len(blocks), block_size), np.float32)
        try:
            # NumPy copies the chunks on one thread. torch would copy each with all threads, and thousands of small
            # parallel copies take ten times as long on a busy machine.
            for start in range(0, len(blocks), _CHUNK_BLOCKS):
                # One long row, because the package works row by row, and a model's rows are short.
                row = blocks[start : start + _CHUNK_BLOCKS].reshape(1, -1)
                values[start : start + _CHUNK_BLOCKS] = self._gguf.dequantize(row, kind).reshape(-1, block_size)
        except NotImplementedError:
            raise ModelError(
                f"{self._path}: tensor {tensor.name} is quantized as {kind.name}, which cannot be dequantized: "
                "use another quantization of the model, such as Q8_0 or Q4_K_M"
            ) from None
        dense = torch.from_numpy(values).view(shape)
        return (dense if columns is None else columns_of(dense, columns)).to(dtype)

    def _check_places(self, part: Path, header: GgufHeader) -> None:
        """Raise ModelError unless the tensors lie one after another, padded to the alignment, as GGUF requires.

        With another offset, a damaged file would run with other weights.
        """
        expected = end = header.data_start
        for tensor in header.tensors:
            if tensor.offset != expected:
                raise ModelError(
                    f"{part}: tensor {shortened(tensor.name)} starts at byte {tensor.offset}, "
                    f"but the tensors before it end at {expected}: download it again"
                )
            end = expected + self._bytes[tensor.name]
            expected += -(-self._bytes[tensor.name] // header.alignment) * header.alignment
        size = part.stat().st_size
        if size < end:
            raise ModelError(f"{part} is truncated, with {size} of {end} bytes: download it again")

    def _stored_bytes(self, tensor: GgufTensor) -> int:
        try:
            kind = self._gguf.GGMLQuantizationType(tensor.ggml_type)
        except ValueError:
            raise ModelError(
                f"{self._path}: tensor {tensor.name} has the unknown type {tensor.ggml_type}: "
                "update the gguf package, or use another quantization of the model"
            ) from None
        block_size, block_bytes = self._gguf.GGML_QUANT_SIZES[kind]
        if tensor.num_elements % block_size:
            raise ModelError(f"{self._path}: tensor {tensor.name} is not whole {kind.name} blocks: download it again")
        return tensor.num_elements // int(block_size) * int(block_bytes)


def _import_gguf() -> ModuleType:
    """Import the gguf package when a GGUF file is read: nothing else needs it."""
    try:
        import gguf
    except ImportError:
        raise ModelError("reading a .gguf file needs the gguf package: run `python -m pip install gguf`") from None
    module: ModuleType = gguf
    return module
