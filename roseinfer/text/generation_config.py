"""Sampling settings that a model's own files recommend, as defaults for requests that do not set them."""

from typing import Any

from roseinfer.config import SamplingParams
from roseinfer.config_file import sampling_with
from roseinfer.errors import ModelError, UsageError
from roseinfer.weights.json_file import read_optional_json
from roseinfer.weights.resolve import ModelSource

_SAMPLED = ("temperature", "top_k", "top_p", "min_p")
"""Keys of generation_config.json that apply if the file has `do_sample`, as in transformers."""


def recommended_sampling(source: ModelSource) -> SamplingParams:
    """Return the sampling settings in the generation_config.json of a model; the defaults if it has no such file.

    Raises ModelError, naming the key, for a wrong value. Without `do_sample` the file means greedy decoding, whatever
    else it says, as in transformers. With it, the temperature is 1 unless set.
    """
    if source.path is None or not source.path.is_dir():
        return SamplingParams()
    generation_config = read_optional_json(source.path / "generation_config.json")
    settings: dict[str, Any] = {"repetition_penalty": generation_config.get("repetition_penalty")}
    if generation_config.get("do_sample"):
        settings |= {"temperature": 1.0}
        settings |= {key: generation_config[key] for key in _SAMPLED if generation_config.get(key) is not None}
    try:
        return sampling_with(SamplingParams(), {key: value for key, value in settings.items() if value is not None})
    except UsageError as error:
        raise ModelError(f"{source.path / 'generation_config.json'}: {error}; correct or delete the key") from None
