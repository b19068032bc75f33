"""Loading a model: its shape, then its weights, from a checkpoint or at random."""

from collections.abc import Iterator

import torch
from torch import Tensor

from roseinfer.errors import ModelError
from roseinfer.kernels.linear.quantized_weight import QuantizedWeight
from roseinfer.models.architectures import architecture, read_config
from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.dialect import Checkpoint, WeightPlace
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.shapes import SHAPES
from roseinfer.models.stored_packing import StoredPacking
from roseinfer.progress import ProgressCallback
from roseinfer.weights.dummy import fill_dummy
from roseinfer.weights.gguf_file import GgufReader
from roseinfer.weights.json_file import read_json
from roseinfer.weights.resolve import ModelSource
from roseinfer.weights.weight_reader import WeightReader


def load_config(source: ModelSource, reader: WeightReader | None) -> ModelConfig:
    """Return the ModelConfig of a model. `reader` is None if the model gets dummy weights.

    Raises ModelError for an unsupported feature.
    """
    if source.shape is not None:
        return SHAPES[source.shape]
    if reader is not None:
        read = reader.read if isinstance(reader, GgufReader) else None
        return read_config(source.format, Checkpoint(reader.description, reader.names(), read))
    assert source.path is not None
    return read_config(source.format, Checkpoint(read_json(source.path / "config.json")))


@torch.no_grad()
def load_weights(
    model: CausalLM,
    reader: WeightReader,
    source: ModelSource,
    dtype: torch.dtype,
    on_progress: ProgressCallback | None = None,
    *,
    keep_quantized: bool = False,
) -> None:
    """Copy every tensor of the checkpoint into its slot of the model's weight map.

    With `keep_quantized`, quantized weights of a GGUF file stay quantized, as `StoredPacking` describes.
    Raises ModelError for a weight that is missing, of another shape, or not part of the architecture: a model that
    silently ran without that weight would be wrong.
    """
    missing = model.weight_map()
    packing = StoredPacking(model) if keep_quantized and isinstance(reader, GgufReader) else None
    for name, tensor in _tensors(reader, dtype, on_progress, keep_groups=packing is not None):
        place = _place(name, model.config, source)
        if place is None:
            continue
        target, transform = place
        if target == "lm_head.weight" and model.config.tie_word_embeddings:
            continue  # a copy of the embedding, which some tied checkpoints contain
        slot = missing.pop(target, None)
        if slot is None:
            raise ModelError(
                f"{source.name}: weight {name} is not part of the {model.config.architecture} architecture"
            )
        view = slot.view
        values = tensor.codes if isinstance(tensor, QuantizedWeight) else tensor
        if transform is not None:
            values = transform(values)
        if values.shape != view.shape:
            expected, found = tuple(view.shape), tuple(values.shape)
            raise ModelError(f"{source.name}: weight {name} has shape {found}, but the config says {expected}")
        if isinstance(tensor, QuantizedWeight):
            assert packing is not None
            packing.add_groups(slot, tensor, transform)
            continue
        view.copy_(values)
        if packing is not None and isinstance(reader, GgufReader) and reader.is_quantized(name):
            packing.add_dequantized(slot)
    if missing:
        naming = "" if source.format == "safetensors" else " (its Hugging Face name)"
        first = next(iter(missing))
        raise ModelError(f"{source.name}: {len(missing)} weights are missing, the first is {first}{naming}")
    if packing is not None:
        packing.finish()


@torch.no_grad()
def fill_dummy_weights(model: CausalLM, seed: int) -> None:
    """Fill matrices with random values, norm weights with 1 and biases with 0, so that activations stay in range."""
    matrices: list[Tensor] = []
    for name, view in model.weight_views().items():
        if view.dim() > 1:
            matrices.append(view)
        else:
            view.fill_(0.0 if name.endswith("bias") else 1.0)
    fill_dummy(matrices, seed)


def _tensors(
    reader: WeightReader, dtype: torch.dtype, on_progress: ProgressCallback | None, *, keep_groups: bool
) -> Iterator[tuple[str, Tensor | QuantizedWeight]]:
    if keep_groups and isinstance(reader, GgufReader):
        return reader.tensors_and_groups(dtype, on_progress)
    return reader.tensors(dtype, on_progress)


def _place(name: str, config: ModelConfig, source: ModelSource) -> WeightPlace | None:
    rules = architecture(config.architecture).dialect(source.format)
    assert rules is not None, "the config was read by this dialect"
    return rules.weight(name, config)
