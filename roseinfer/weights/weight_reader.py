"""The interface of weight readers, and the choice of the reader for a model's file format."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch

from roseinfer.errors import UsageError
from roseinfer.progress import ProgressCallback
from roseinfer.weights.gguf_file import GgufReader
from roseinfer.weights.mxfp4 import Mxfp4Reader
from roseinfer.weights.resolve import ModelSource
from roseinfer.weights.safetensors_files import SafetensorsReader
from roseinfer.weights.stored_tensor import ALL_WHOLE, StoredParts, StoredTensor
from roseinfer.weights.trainer_checkpoint import TrainerReader


class WeightReader(Protocol):
    """Reads the weights of one model, under the names in its files."""

    @property
    def total_bytes(self) -> int:
        """Stored size of all tensors, in bytes."""

    @property
    def description(self) -> dict[str, Any]:
        """Description of the model: the object in config.json, a GGUF's metadata, or a trainer's config."""

    def names(self) -> list[str]:
        """Return the names of all tensors."""

    def table(self) -> Mapping[str, StoredTensor]:
        """Return the shape and kind of every tensor, by name, without reading their values."""

    def tensors(
        self, dtype: torch.dtype, on_progress: ProgressCallback | None = None, parts: StoredParts = ALL_WHOLE
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, tensor) for every tensor, on the CPU. Linear weights are [out, in].

        Of the tensors in `parts`, only the part is read. Floating-point tensors are converted to `dtype`. `on_progress`
        counts bytes. A tensor may be a view of the mapped file: copy the values.
        """


def open_weights(source: ModelSource) -> SafetensorsReader | GgufReader | TrainerReader:
    """Open the weights of a model. Raises ModelError if a file is invalid, UsageError if the model has no weights."""
    if source.format == "safetensors" and source.path is not None:
        reader = SafetensorsReader(source.path, source.weight_files)
        quantization = reader.description.get("quantization_config")
        is_mxfp4 = isinstance(quantization, Mapping) and quantization.get("quant_method") == "mxfp4"
        return Mxfp4Reader(source.path, source.weight_files) if is_mxfp4 else reader
    if source.format == "gguf" and source.path is not None:
        return GgufReader(source.path, source.weight_files)
    if source.format == "trainer" and source.path is not None:
        return TrainerReader(source.path)
    raise UsageError(f"--model {source.name} with --load-format dummy has no weights to read: drop --load-format")
