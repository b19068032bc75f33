"""Filling a model's parameters from a checkpoint."""

import torch
from torch import Tensor

from roseinfer.errors import ModelError
from roseinfer.models.base import CausalLM, Transform
from roseinfer.models.registry import architecture
from roseinfer.weights.dummy import fill_dummy
from roseinfer.weights.reader import ProgressCallback, WeightReader
from roseinfer.weights.resolve import ModelSource


@torch.no_grad()
def load_weights(
    model: CausalLM,
    reader: WeightReader,
    source: ModelSource,
    dtype: torch.dtype,
    on_progress: ProgressCallback | None = None,
) -> None:
    """Copy every tensor of the checkpoint to where the model wants it.

    Raises ModelError for a weight that is missing, of another shape, or not part of the architecture: a model that
    silently runs without it would be wrong.
    """
    missing = model.weight_views()
    for name, tensor in reader.tensors(dtype, on_progress):
        known = _known(name, model, source)
        if known is None:
            continue
        target, transform = known
        if target == "lm_head.weight" and model.config.tie_word_embeddings:
            continue  # a tied head that was saved all the same
        view = missing.pop(target, None)
        if view is None:
            raise ModelError(
                f"{source.name}: weight {name} has no place in the {model.config.architecture} architecture"
            )
        tensor = tensor if transform is None else transform(tensor)
        if tensor.shape != view.shape:
            expected, found = tuple(view.shape), tuple(tensor.shape)
            raise ModelError(f"{source.name}: weight {name} has shape {found}, but the config says {expected}")
        view.copy_(tensor)
    if missing:
        raise ModelError(f"{source.name}: {len(missing)} weights are missing, the first is {next(iter(missing))}")


@torch.no_grad()
def fill_dummy_weights(model: CausalLM, seed: int) -> None:
    """Random matrices; norms that normalize and biases that add nothing, so that activations stay in range."""
    matrices: list[Tensor] = []
    for name, view in model.weight_views().items():
        if view.dim() > 1:
            matrices.append(view)
        else:
            view.fill_(0.0 if name.endswith("bias") else 1.0)
    fill_dummy(matrices, seed)


def _known(name: str, model: CausalLM, source: ModelSource) -> tuple[str, Transform | None] | None:
    """The name in `weight_views` of a file's tensor, and what to do to it; None for what is no weight."""
    rules = architecture(model.config.architecture)
    if source.format == "gguf":
        return rules.gguf_weight(name, model.config)
    target = rules.hf_weight(name)
    return None if target is None else (target, None)
