"""Reading weights from a trainer's checkpoint: a `.pt` file with `model`, a state dict, and `config`.

torch writes such a file as a zip archive whose tensors can be memory-mapped. They are read without running code from
the file (`weights_only`), and only when they are used. Anything else in the file, such as the optimizer's state, costs
address space only.
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
    """Reads the tensors of one trainer checkpoint under their own names, such as `blocks.0.attn.qkv_proj.weight`.

    A language-model head that shares its memory with the token embedding is tied, and is omitted.
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
        """Model configuration: the checkpoint's `config`."""
        return self._config

    @property
    def total_bytes(self) -> int:
        """Stored size of all tensors, in bytes."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def names(self) -> list[str]:
        """Return the names of all tensors, in the file's order."""
        return list(self._tensors)

    def tensors(
        self, dtype: torch.dtype, on_progress: ProgressCallback | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, tensor) for every tensor, on the CPU. Floating-point tensors are converted to `dtype`.

        `on_progress` counts bytes. A tensor that is stored in `dtype` is a view of the mapped file: copy the values.
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
        reason = _first_sentence(str(error).partition("WeightsUnpickler error:")[2]) or "unreadable"
        raise ModelError(f"{path} contains more than tensors and plain data ({reason}): save {_WHAT_IT_IS}") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
    except (RuntimeError, ValueError, EOFError, KeyError) as error:
        raise ModelError(f"{path} is not a valid checkpoint: {_first_sentence(str(error))}; save it again") from None
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
