"""Loading a model: its shape, then its weights, from a checkpoint or at random."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from roseinfer.errors import ModelError
from roseinfer.kernels.linear.quantized_weight import QuantizedWeight
from roseinfer.model_files import shortened
from roseinfer.models.architectures import architecture, read_config
from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.dialect import Checkpoint, Transform
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.shapes import SHAPES
from roseinfer.models.stored_packing import StoredPacking
from roseinfer.models.weight_map import WeightSlot
from roseinfer.models.weight_slices import RankPart, RankSlices, stored_part
from roseinfer.progress import ProgressCallback
from roseinfer.weights.dummy import fill_dummy
from roseinfer.weights.gguf_file import GgufReader
from roseinfer.weights.json_file import read_json
from roseinfer.weights.resolve import ModelSource
from roseinfer.weights.stored_tensor import StoredPart, StoredParts
from roseinfer.weights.weight_reader import WeightReader


def load_config(source: ModelSource, reader: WeightReader | None) -> ModelConfig:
    """Return the ModelConfig of a model. `reader` is None if the model gets dummy weights.

    Raises ModelError, naming the file, for an unsupported feature or value.
    """
    if source.shape is not None:
        return SHAPES[source.shape]
    assert source.path is not None
    file = source.path / "config.json" if source.path.is_dir() else source.path
    try:
        if reader is None:
            return read_config(source.format, Checkpoint(read_json(file)))
        read = reader.read if isinstance(reader, GgufReader) else None
        return read_config(source.format, Checkpoint(reader.description, reader.names(), read))
    except ModelError as error:
        message = str(error)
        raise ModelError(message if str(file) in message else f"{file}: {message}") from error


def check_weights(config: ModelConfig, reader: WeightReader, source: ModelSource) -> None:
    """Raise ModelError unless the checkpoint has every weight of the model, in its shape, and no other.

    Only the checkpoint's table is read, and nothing is allocated: a config may claim any size.
    """
    num_tensors = len(reader.names())
    if config.num_layers > num_tensors:
        raise ModelError(
            f"{source.name}: the config says {config.num_layers} layers, but there are only {num_tensors} weights"
        )
    with torch.device("meta"):
        _placed(architecture(config.architecture).build(config), reader, source)


@torch.no_grad()
def load_weights(
    model: CausalLM,
    reader: WeightReader,
    source: ModelSource,
    dtype: torch.dtype,
    on_progress: ProgressCallback | None = None,
    *,
    keep_quantized: bool = False,
    check_finite: bool = False,
    rank: RankPart | None = None,
) -> None:
    """Copy every tensor of the checkpoint into its slot of the model's weight map; of a rank's model, its part alone.

    With `keep_quantized`, quantized weights of a GGUF file stay quantized, as `StoredPacking` describes.
    Raises ModelError for a weight that is missing, of another shape, or not part of the architecture: a model that
    silently ran without that weight would be wrong. With `check_finite`, also for one with NaN or infinite values.
    """
    placed = _placed(model, reader, source, rank)
    packing = StoredPacking(model) if keep_quantized and isinstance(reader, GgufReader) else None
    parts = {} if rank is None else _divided(placed, rank.slices)
    for name, tensor in _tensors(reader, dtype, on_progress, parts, keep_groups=packing is not None):
        if name not in placed:
            continue
        if check_finite:
            _check_finite(name, tensor, source)
        for slot, fit in placed[name]:
            if isinstance(tensor, QuantizedWeight):
                if rank is not None and len(placed[name]) > 1:
                    raise ModelError(
                        f"{source.name}: --tensor-parallel does not divide experts that stay quantized: "
                        "give --quantize none"
                    )
                assert packing is not None
                packing.add_groups(slot, tensor, fit)
                continue
            slot.view.copy_(tensor if fit is None else fit(tensor))
            if packing is not None and isinstance(reader, GgufReader) and reader.is_quantized(name):
                packing.add_dequantized(slot)
    if packing is not None:
        packing.finish()


def _divided(placed: dict[str, list[tuple[WeightSlot, Transform | None]]], slices: RankSlices) -> dict[str, StoredPart]:
    """Let the transforms of `placed` return what this rank holds. Returns the parts of stored tensors to read for them.

    A tensor that fills several slots is read whole.
    """
    parts: dict[str, StoredPart] = {}
    for name, places in placed.items():
        for at, (slot, transform) in enumerate(places):
            kept = slices.get(slot)
            if kept is None:
                continue
            if len(places) == 1:
                parts[name], transform = stored_part(kept, transform)
                places[at] = slot, _then(transform, kept.padded) if kept.padding else transform
            else:
                places[at] = slot, _then(transform, kept.of)
    return parts


def _then(transform: Transform | None, after: Transform) -> Transform:
    return after if transform is None else lambda stored: after(transform(stored))


@torch.no_grad()
def fill_dummy_weights(model: CausalLM, seed: int, rank: RankPart | None = None) -> None:
    """Fill matrices with random values, norm weights with 1 and biases with 0, so that activations stay in range.

    A rank's model gets its part of what the whole model would get.
    """
    matrices: list[WeightSlot] = []
    for name, slot in model.weight_map().items():
        if slot.view.dim() > 1:
            matrices.append(slot)
        else:
            slot.view.fill_(0.0 if name.endswith("bias") else 1.0)
    fill_dummy(_whole_matrices(matrices, {} if rank is None else rank.slices), seed)


def _whole_matrices(slots: Iterable[WeightSlot], slices: RankSlices) -> Iterator[Tensor]:
    """Yield each slot's matrix to be filled. Of a matrix that a rank holds in part, a whole one is filled and cut."""
    for slot in slots:
        kept, view = slices.get(slot), slot.view
        if kept is None:
            yield view
        else:
            shape = kept.whole_shape(view)
            # The values depend on the order in memory.
            whole = view.new_empty(shape[::-1]).t() if slot.transposed else view.new_empty(shape)
            yield whole
            view.copy_(kept.of(whole))


def _tensors(
    reader: WeightReader,
    dtype: torch.dtype,
    on_progress: ProgressCallback | None,
    parts: StoredParts,
    *,
    keep_groups: bool,
) -> Iterator[tuple[str, Tensor | QuantizedWeight]]:
    if keep_groups and isinstance(reader, GgufReader):
        return reader.tensors_and_groups(dtype, on_progress, parts)
    return reader.tensors(dtype, on_progress, parts)


def _placed(
    model: CausalLM, reader: WeightReader, source: ModelSource, rank: RankPart | None = None
) -> dict[str, list[tuple[WeightSlot, Transform | None]]]:
    """Return the slots of each stored tensor that the model uses, with the transforms that make the tensor fit."""
    config, slices = (model.config, {}) if rank is None else (rank.whole, rank.slices)
    rules = architecture(model.config.architecture).dialect(source.format)
    assert rules is not None, "the config was read by this dialect"
    missing = model.weight_map()
    placed: dict[str, list[tuple[WeightSlot, Transform | None]]] = {}
    for name, stored in reader.table().items():
        places = rules.weight(name, config)
        if places is None:
            continue
        for target, transform in places if isinstance(places, list) else [places]:
            if target == "lm_head.weight" and model.config.tie_word_embeddings:
                continue  # a copy of the embedding, which some tied checkpoints contain
            slot = missing.pop(target, None)
            if slot is None:
                raise ModelError(
                    f"{source.name}: weight {shortened(name)} is not part of the {model.config.architecture} "
                    "architecture"
                )
            if not stored.is_float:
                raise ModelError(
                    f"{source.name}: weight {name} holds integers: download a model with floating-point weights"
                )
            expected = slices[slot].whole_shape(slot.view) if slot in slices else tuple(slot.view.shape)
            found = _shape_after(transform, stored.shape)
            if found != expected:
                raise ModelError(f"{source.name}: weight {name} has shape {found}, but the config says {expected}")
            placed.setdefault(name, []).append((slot, transform))
    if missing:
        naming = "" if source.format == "safetensors" else " (its Hugging Face name)"
        first = next(iter(missing))
        raise ModelError(f"{source.name}: {len(missing)} weights are missing, the first is {first}{naming}")
    return placed


def _shape_after(transform: Transform | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a transformed tensor; `shape` itself if the transform cannot take it."""
    if transform is None or 0 in shape:
        return shape
    try:
        return tuple(transform(torch.empty(shape, device="meta")).shape)
    except RuntimeError:
        return shape


def _check_finite(name: str, tensor: Tensor | QuantizedWeight, source: ModelSource) -> None:
    parts = [tensor] if isinstance(tensor, Tensor) else [tensor.scales, tensor.offsets]
    count = sum(int((~part.isfinite()).sum()) for part in parts if part is not None)
    if count:
        what = "values" if isinstance(tensor, Tensor) else "scales"
        raise ModelError(
            f"{source.name}: weight {name} has {count:,} {what} that are NaN or infinite: download it again"
        )
