"""The files of a hub repository that a model needs, and whether a cached copy has them all."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from roseinfer.errors import ModelError, UsageError
from roseinfer.weights.json_file import read_json

INDEX = "model.safetensors.index.json"

_SINGLE = "model.safetensors"
_SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
)
_TEMPLATES = "additional_chat_templates/"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_PICKLES = (".bin", ".pt", ".pth")
_PART = re.compile(r"(?P<stem>.*)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf")
_MAX_LISTED = 12
"""Maximum files that a message lists."""


def split_parts(file: str) -> list[str]:
    """Return the names of all parts of a split GGUF file, in order; the file's own name if it is not split."""
    match = _PART.fullmatch(file)
    if match is None:
        return [file]
    count = int(match["count"])
    return [f"{match['stem']}-{part:05d}-of-{count:05d}.gguf" for part in range(1, count + 1)]


def small_files(names: Collection[str]) -> list[str]:
    """Return the files that describe a model: its config, tokenizer and templates, and the index of its weights."""
    templates = [name for name in names if name.startswith(_TEMPLATES) and name.endswith(".jinja")]
    ranks = [name for name in names if name.endswith(".tiktoken") and "/" not in name]
    return [*(name for name in (*_SMALL, INDEX) if name in names), *sorted(templates), *sorted(ranks)]


def gguf_files(repo: str, names: Collection[str], wanted: str | None) -> list[str] | None:
    """Return the GGUF file to use with all of its parts, or None if the repository has safetensors instead.

    `wanted` is the file that the user names. Raises UsageError if the repository lacks that file, or if it has several
    files to choose from.
    """
    files = sorted(name for name in names if name.lower().endswith(".gguf"))
    if wanted is not None:
        parts = split_parts(wanted)
        if missing := [part for part in parts if part not in names]:
            raise UsageError(f"{repo} has no file {missing[0]}: give {_choices(repo, files)}")
        return parts
    if not files or any(_is_weights(name) for name in names):
        return None
    first_parts = [name for name in files if split_parts(name)[0] == name]
    models = [name for name in first_parts if not name.rpartition("/")[2].startswith("mmproj")]
    if len(models) != 1:
        raise UsageError(f"{repo} has {len(models)} GGUF models: give {_choices(repo, models)}")
    return split_parts(models[0])


def safetensors_files(repo: str, names: Collection[str], index: Path | None) -> list[str]:
    """Return the files of a model's weights. `index` is the path of the downloaded index, or None if there is none.

    Raises ModelError for a repository without safetensors.
    """
    if index is not None:
        return sorted({str(name) for name in _weight_map(index).values()})
    files = [name for name in names if _is_weights(name)]
    if _SINGLE in files or len(files) == 1:
        return [_SINGLE] if _SINGLE in files else files
    if files:
        raise ModelError(f"{repo} has {len(files)} .safetensors files but no {INDEX}: use another copy of the model")
    if pickles := sorted(name for name in names if name.endswith(_PICKLES)):
        raise ModelError(
            f"{repo} has pickled weights only ({pickles[0]}), which can run code when they are read: "
            "use a copy with safetensors or a GGUF file"
        )
    raise ModelError(f"{repo} has no weights in safetensors or GGUF: use another copy of the model")


def is_complete(folder: Path, *, with_weights: bool) -> bool:
    """True if a cached Hugging Face directory has a config, a tokenizer and, if wanted, all weights."""
    names = {path.name for path in folder.iterdir()}
    has_tokenizer = not names.isdisjoint(TOKENIZER_FILES) or any(name.endswith(".tiktoken") for name in names)
    if "config.json" not in names or not has_tokenizer:
        return False
    if not with_weights:
        return True
    try:
        files = safetensors_files("", names, folder / INDEX if INDEX in names else None)
    except ModelError:
        return False
    return all((folder / name).is_file() for name in files)


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors") and "/" not in name


def _weight_map(index: Path) -> dict[str, Any]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no weight_map: use another copy of the model")
    return weight_map


def _choices(repo: str, files: Iterable[str]) -> str:
    listed = list(files)
    shown = ", ".join(f"{repo}:{name}" for name in listed[:_MAX_LISTED])
    return shown + (f", or another of its {len(listed)} GGUF files" if len(listed) > _MAX_LISTED else "")
