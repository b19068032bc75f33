"""Reading weights from a trainer's checkpoint: a `.pt` file with `model`, a state dict, and `config`.

torch writes such a file as a zip archive whose tensors can be memory-mapped. They are read without running code from
the file (`weights_only`), and only when they are used. Anything else in the file, such as the optimizer's state, costs
address space only.

The archive has a checksum per record. Those of the pickled structure and of the model's tensors are checked.
"""

import pickle
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from roseinfer.errors import ModelError
from roseinfer.model_files import MAX_JSON_BYTES, reading, shortened
from roseinfer.progress import ProgressCallback
from roseinfer.weights.stored_tensor import ALL_WHOLE, StoredParts, StoredTensor

_WHAT_IT_IS = "a dict with `model`, a state dict, and `config`"
_NO_CHECKSUM = 0
"""Checksum of the records that torch writes after `torch.serialization.set_crc32_options(False)`."""
_HEADER_BYTES, _LENGTHS_OFFSET, _LENGTHS = 30, 26, struct.Struct("<HH")
"""Header before a record: its size without name and extra field, and where the lengths of these two are."""
_DESCRIPTOR_BYTES = (0, 16, 24)
"""Sizes of what may follow a record: nothing, or its checksum and sizes."""
_EMBEDDING, _HEAD = "token_embedding.weight", "lm_head.weight"


class TrainerReader:
    """Reads the tensors of one trainer checkpoint under their own names, such as `blocks.0.attn.qkv_proj.weight`.

    A language-model head that shares its memory with the token embedding is tied, and is omitted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._checksums = _read_checksums(path)
        checkpoint = _load(path)
        self._tensors = _part(checkpoint, "model", path)
        self._config = _part(checkpoint, "config", path)
        for name, tensor in self._tensors.items():
            if not isinstance(tensor, torch.Tensor):
                raise ModelError(
                    f"{path}: {shortened(name)} in `model` should be a tensor, not a {type(tensor).__name__}"
                )
            if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
                raise ModelError(
                    f"{path}: {shortened(name)} in `model` is no plain tensor with values: save {_WHAT_IT_IS}"
                )
        if _is_same(self._tensors.get(_HEAD), self._tensors.get(_EMBEDDING)):
            del self._tensors[_HEAD]

    @property
    def description(self) -> dict[str, Any]:
        """Model configuration: the checkpoint's `config`."""
        return self._config

    @property
    def total_bytes(self) -> int:
        """Stored size of all tensors, in bytes."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def names(self) -> list[str]:
        """Return the names of all tensors, in the file's order."""
        return list(self._tensors)

    def table(self) -> dict[str, StoredTensor]:
        """Return the shape and kind of every tensor, by name, without reading their values."""
        return {
            name: StoredTensor(tuple(tensor.shape), tensor.is_floating_point())
            for name, tensor in self._tensors.items()
        }

    def tensors(
        self, dtype: torch.dtype, on_progress: ProgressCallback | None = None, parts: StoredParts = ALL_WHOLE
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, tensor) for every tensor, on the CPU. Floating-point tensors are converted to `dtype`.

        Of the tensors in `parts`, only the part is returned.

        `on_progress` counts bytes. A tensor that is stored in `dtype` is a view of the mapped file: copy the values.
        """
        done = 0
        checked: set[int] = set()
        unread = self._checksums.copy()
        for name, tensor in self._tensors.items():
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in checked:
                checked.add(storage.data_ptr())
                self._check(name, storage, unread)
            part = parts[name].of(tensor) if name in parts else tensor
            yield name, part.to(dtype) if tensor.is_floating_point() else part
            done += tensor.nbytes
            if on_progress is not None:
                on_progress(done, self.total_bytes)

    def _check(self, name: str, storage: torch.UntypedStorage, unread: Counter[tuple[int, int]]) -> None:
        """Raise ModelError if no further record of the archive has the checksum of a tensor's bytes."""
        values = torch.tensor([], dtype=torch.uint8).set_(storage).numpy()
        if not len(values) or unread[len(values), _NO_CHECKSUM]:
            return
        key = len(values), zlib.crc32(values.data)
        unread[key] -= 1
        if unread[key] < 0:
            raise ModelError(
                f"{self._path} is damaged: the values of {shortened(name)} have another checksum: copy it again"
            )


def _read_checksums(path: Path) -> Counter[tuple[int, int]]:
    """Return how many records of an archive have each (size in bytes, checksum).

    Raises ModelError for an archive that torch does not write: with compressed records, which can be larger than
    memory, with a record twice, or with a pickled structure that is damaged or too large.
    """
    remedy = "save it again"
    with reading(path, remedy):
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ModelError(f"{path} is not a valid checkpoint: {shortened(str(error))}; {remedy}") from None
        with archive:
            records = archive.infolist()
            structures = [record for record in records if record.filename.endswith("/data.pkl")]
            if len(structures) != 1 or len({record.filename for record in records}) < len(records):
                raise ModelError(
                    f"{path} is not a valid checkpoint: it needs one data.pkl, and each record once; {remedy}"
                )
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise ModelError(f"{path} has compressed records, which torch does not write: {remedy}")
            if structures[0].file_size > MAX_JSON_BYTES:
                raise ModelError(f"{path} describes its tensors in more than {MAX_JSON_BYTES >> 20} MiB: {remedy}")
            if structures[0].CRC != _NO_CHECKSUM:
                archive.read(structures[0])
            for record in records:
                archive.open(record).close()  # compares the header before the record with the archive's directory
            _check_contiguous(path, records, archive.start_dir)
    return Counter((record.file_size, record.CRC) for record in records)


def _check_contiguous(path: Path, records: list[zipfile.ZipInfo], end: int) -> None:
    """Raise ModelError unless each record ends where the next one begins.

    torch finds a record's data by the lengths in the header before it. With a damaged length, it reads other data.
    """
    ordered = sorted(records, key=lambda record: record.header_offset)
    ends = [*(record.header_offset for record in ordered[1:]), end]
    with path.open("rb") as file:
        for record, following in zip(ordered, ends, strict=True):
            file.seek(record.header_offset + _LENGTHS_OFFSET)
            start = record.header_offset + _HEADER_BYTES + sum(_LENGTHS.unpack(file.read(_LENGTHS.size)))
            if following - start - record.file_size not in _DESCRIPTOR_BYTES:
                raise ModelError(
                    f"{path} is damaged: its record {shortened(record.filename)} has a wrong place: save it again"
                )


def _load(path: Path) -> Mapping[str, Any]:
    with reading(path, "save it again"):  # a pickle can call some of torch's functions, with any arguments
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError as error:
            why = _first_sentence(str(error).partition("WeightsUnpickler error:")[2]) or "unreadable"
            raise ModelError(f"{path} contains more than tensors and plain data ({why}): save {_WHAT_IT_IS}") from None
        except (RuntimeError, ValueError, EOFError, KeyError) as error:
            why = shortened(_first_sentence(str(error)))
            raise ModelError(f"{path} is not a valid checkpoint: {why}; save it again") from None
    if not isinstance(checkpoint, Mapping):
        raise ModelError(f"{path} is not a trainer checkpoint but a {type(checkpoint).__name__}: save {_WHAT_IT_IS}")
    return checkpoint


def _first_sentence(message: str) -> str:
    """Return the first sentence of one of torch's messages, which continue for a page."""
    return " ".join(message.split()).partition(". ")[0]


def _part(checkpoint: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    part = checkpoint.get(key)
    if not isinstance(part, Mapping) or not all(isinstance(name, str) for name in part):
        found = "is missing" if part is None else f"is of type {type(part).__name__}"
        raise ModelError(f"{path} is not a trainer checkpoint, because `{key}` {found}: save {_WHAT_IT_IS}")
    return dict(part)


def _is_same(head: torch.Tensor | None, embedding: torch.Tensor | None) -> bool:
    """True if two tensors share the same memory."""
    if head is None or embedding is None:
        return False
    return head.data_ptr() == embedding.data_ptr() and head.shape == embedding.shape
