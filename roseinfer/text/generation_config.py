"""Sampling settings that a model's own files recommend, as defaults for requests that do not set them."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from roseinfer.config import SamplingParams
from roseinfer.config_file import sampling_with
from roseinfer.errors import ModelError, UsageError
from roseinfer.weights.gguf_header import read_gguf_header
from roseinfer.weights.json_file import read_optional_json
from roseinfer.weights.resolve import ModelSource

_SAMPLED = ("temperature", "top_k", "top_p", "min_p")
"""Keys of generation_config.json that apply if the file has `do_sample`, as in transformers."""

_GGUF_KEYS = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
"""Settings by their names in the `general.sampling.*` keys of a GGUF file. Penalties are separate."""


def recommended_sampling(source: ModelSource) -> SamplingParams:
    """Return the sampling settings in a model's generation_config.json or GGUF file; the defaults if it has none.

    Raises ModelError, naming the key, for a wrong value. Without `do_sample`, generation_config.json means greedy
    decoding, whatever else it says, as in transformers. A GGUF file samples if it has any of temperature, top-k, top-p
    and min-p. The temperature is then 1 unless set.
    """
    if source.path is None:
        return SamplingParams()
    if source.format == "gguf" and source.path.is_file():
        status = source.path.stat()
        return _gguf_recommendation(source.path, status.st_mtime_ns, status.st_size)
    if not source.path.is_dir():
        return SamplingParams()
    generation_config = read_optional_json(source.path / "generation_config.json")
    settings: dict[str, Any] = {"repetition_penalty": generation_config.get("repetition_penalty")}
    if generation_config.get("do_sample"):
        settings |= {"temperature": 1.0}
        settings |= {key: generation_config[key] for key in _SAMPLED if generation_config.get(key) is not None}
    return _checked(settings, source.path / "generation_config.json", "correct or delete the key")


def recommendation_origin(source: ModelSource) -> str:
    """Return where the settings of `recommended_sampling` are from, for messages."""
    return "GGUF metadata" if source.format == "gguf" else "generation_config.json"


@lru_cache(maxsize=1)
def _gguf_recommendation(path: Path, _modified: int, _size: int) -> SamplingParams:
    """Return a GGUF file's settings. Cached by time and size of the file, since a command and its engine both ask."""
    settings = gguf_sampling(read_gguf_header(path).metadata)
    return _checked(settings, path, "convert the model again")


def gguf_sampling(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in the `general.sampling.*` keys of a GGUF file, by our names.

    llama.cpp's repetition penalty is off if it looks at the last 0 tokens. Ours looks at all tokens, whatever the file
    says. Samplers that we do not have, such as mirostat, are left out.
    """
    stored = {key: value for key in _GGUF_KEYS if (value := metadata.get(f"general.sampling.{key}")) is not None}
    settings = {_GGUF_KEYS[key]: value for key, value in stored.items()}
    if isinstance(settings.get("top_k"), int):
        settings["top_k"] = max(settings["top_k"], 0)  # llama.cpp: 0 and less for all tokens
    if settings:
        settings.setdefault("temperature", 1.0)
    temperature = settings.get("temperature")
    if isinstance(temperature, (int, float)) and temperature <= 0:
        settings = {}  # greedy, where filters have no effect
    if metadata.get("general.sampling.penalty_last_n") != 0:
        settings["repetition_penalty"] = metadata.get("general.sampling.penalty_repeat")
    return settings


def _checked(settings: Mapping[str, Any], path: Path, advice: str) -> SamplingParams:
    try:
        return sampling_with(SamplingParams(), {key: value for key, value in settings.items() if value is not None})
    except UsageError as error:
        raise ModelError(f"{path}: {error}; {advice}") from None
