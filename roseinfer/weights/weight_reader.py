"""Reading weights: one small interface, and one reader behind it for each format."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch

from roseinfer.errors import UsageError
from roseinfer.progress import ProgressCallback
from roseinfer.weights.gguf_file import GgufReader
from roseinfer.weights.resolve import ModelSource
from roseinfer.weights.safetensors_files import SafetensorsReader
from roseinfer.weights.trainer_checkpoint import TrainerReader


class WeightReader(Protocol):
    """The weights of one model, under the names that their file gives them."""

    @property
    def total_bytes(self) -> int:
        """Stored size of all tensors, in bytes."""

    @property
    def description(self) -> dict[str, Any]:
        """What the model says of itself: config.json's object, the GGUF's metadata, or the trainer's config."""

    def names(self) -> list[str]:
        """Every tensor's name."""

    def tensors(
        self, dtype: torch.dtype, on_progress: ProgressCallback | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor once, on the CPU, floating-point ones in `dtype`; linear weights are [out, in].

        A tensor may be a view of the mapped file: copy it, do not keep it.
        """


def open_weights(source: ModelSource) -> SafetensorsReader | GgufReader | TrainerReader:
    """The reader for a model with weights. Raises ModelError when a file is not what it should be."""
    if source.format == "safetensors" and source.path is not None:
        return SafetensorsReader(source.path, source.weight_files)
    if source.format == "gguf" and source.path is not None:
        return GgufReader(source.path)
    if source.format == "trainer" and source.path is not None:
        return TrainerReader(source.path)
    raise UsageError(f"model {source.name} with load format dummy has no weights to read")
