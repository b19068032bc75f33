"""Weights from a trainer's checkpoint: a `.pt` file with `model`, a state dict, and `config`.

torch writes such a file as a zip archive whose tensors can be mapped; they are read without running code from it
(`weights_only`), and only when they are asked for. So whatever else the file holds, such as the optimizer's state,
costs address space and nothing more.
"""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from roseinfer.errors import ModelError
from roseinfer.progress import ProgressCallback

_WHAT_IT_IS = "a dict with `model`, a state dict, and `config`"
_EMBEDDING, _HEAD = "token_embedding.weight", "lm_head.weight"


class TrainerReader:
    """The tensors of one trainer checkpoint under their own names, such as `blocks.0.attn.qkv_proj.weight`.

    A head that shares its memory with the token embedding is tied, and is not named.
    """

    def __init__(self, path: Path) -> None:
        checkpoint = _load(path)
        self._tensors = _part(checkpoint, "model", path)
        self._config = _part(checkpoint, "config", path)
        for name, tensor in self._tensors.items():
            if not isinstance(tensor, torch.Tensor):
                raise ModelError(f"{path}: {name} in `model` should be a tensor, not a {type(tensor).__name__}")
        if _is_same(self._tensors.get(_HEAD), self._tensors.get(_EMBEDDING)):
            del self._tensors[_HEAD]

    @property
    def description(self) -> dict[str, Any]:
        """The checkpoint's `config`."""
        return self._config

    @property
    def total_bytes(self) -> int:
        """Stored size of all tensors, in bytes."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def names(self) -> list[str]:
        """Every tensor's name, in the file's order."""
        return list(self._tensors)

    def tensors(
        self, dtype: torch.dtype, on_progress: ProgressCallback | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor once, on the CPU, floating-point ones in `dtype`.

        A tensor that is stored in `dtype` already is a view of the mapped file: copy it, do not keep it.
        """
        done = 0
        for name, tensor in self._tensors.items():
            yield name, tensor.to(dtype) if tensor.is_floating_point() else tensor
            done += tensor.nbytes
            if on_progress is not None:
                on_progress(done, self.total_bytes)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = _first_sentence(str(error).partition("WeightsUnpickler error:")[2]) or "which cannot be read"
        raise ModelError(f"{path} holds more than tensors and plain data ({reason}): save {_WHAT_IT_IS}") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
    except (RuntimeError, ValueError, EOFError, KeyError) as error:
        raise ModelError(f"{path} is not a sound checkpoint: {_first_sentence(str(error))}") from None
    if not isinstance(checkpoint, Mapping):
        raise ModelError(f"{path} is no trainer checkpoint, {_WHAT_IT_IS}: it is a {type(checkpoint).__name__}")
    return checkpoint


def _first_sentence(message: str) -> str:
    """torch's messages go on for a page, about switching checks off or what may have happened to the file."""
    return " ".join(message.split()).partition(". ")[0]


def _part(checkpoint: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    part = checkpoint.get(key)
    if not isinstance(part, Mapping) or not all(isinstance(name, str) for name in part):
        found = "is missing" if part is None else f"is of type {type(part).__name__}"
        raise ModelError(f"{path} is no trainer checkpoint, {_WHAT_IT_IS}: its `{key}` {found}")
    return dict(part)


def _is_same(head: torch.Tensor | None, embedding: torch.Tensor | None) -> bool:
    """Whether two tensors are one and the same memory."""
    if head is None or embedding is None:
        return False
    return head.data_ptr() == embedding.data_ptr() and head.shape == embedding.shape
