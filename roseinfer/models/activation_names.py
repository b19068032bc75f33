"""Names of the activation functions of MLPs, ours and those in a config.json."""

from typing import Literal

from roseinfer.errors import ModelError
from roseinfer.model_files import quoted

ActivationName = Literal["gelu", "gelu_tanh", "silu", "clamped_swiglu"]

_HUGGING_FACE: dict[ActivationName, tuple[str, ...]] = {
    "gelu": ("gelu",),
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh"),
    "silu": ("silu", "swish"),
    "clamped_swiglu": (),
}


def activation_from_hf(key: str, name: object, supported: tuple[ActivationName, ...]) -> ActivationName:
    """Convert the activation `name`, the value of `key` in a config.json, to our name.

    Raises ModelError if the activation is not in `supported`.
    """
    for found in supported:
        if name in _HUGGING_FACE[found]:
            return found
    names = [spelled for found in supported for spelled in _HUGGING_FACE[found]]
    raise ModelError(f"{key} {quoted(name)} is not supported; supported: {', '.join(names)}")
