"""Parse the recorded inputs of operators: shapes, types, and values of inputs that are no tensors."""

import functools
from typing import Any

import msgspec

from roseinfer.trace.reading.columns import OperatorInputs

_TYPES = {
    "float": "float32",
    "double": "float64",
    "long int": "int64",
    "long": "int64",
    "int": "int32",
    "short": "int16",
    "short int": "int16",
    "signed char": "int8",
    "unsigned char": "uint8",
    "c10::half": "float16",
    "c10::bfloat16": "bfloat16",
    "c10::complex<float>": "complex64",
    "c10::complex<double>": "complex128",
}
"""torch's names of types by the C++ names that the profiler writes."""
_NO_TENSORS = ("scalar", "scalarlist", "", "genericlist", "device", "none", "string")


class TensorInput(msgspec.Struct, frozen=True):
    """A tensor, or a list of tensors, that an operator received."""

    shape: tuple[Any, ...]
    """Lengths of the dimensions; of a list of tensors, the shape of each."""
    dtype: str
    """torch's name of the type, such as `bfloat16`; `list` for a list of tensors."""


class ParsedInputs(msgspec.Struct, frozen=True):
    """Inputs of an operator; `None` stands for an input that is no tensor."""

    tensors: tuple[TensorInput | None, ...]
    values: tuple[str, ...]
    """Values of all inputs as text, empty for tensors; empty altogether if they are not recorded."""

    @property
    def shapes(self) -> str:
        """Shapes of the tensors, such as `[16, 4096], [4096, 4096]`."""
        return ", ".join(str(_as_list(one.shape)) for one in self.tensors if one is not None)

    @property
    def dtypes(self) -> str:
        """Types of the tensors, such as `bfloat16, bfloat16`."""
        return ", ".join(one.dtype for one in self.tensors if one is not None)


@functools.lru_cache(maxsize=1 << 14)
def parse_inputs(inputs: OperatorInputs) -> ParsedInputs | None:
    """Return the inputs of an operator, or None if they are damaged."""
    dims, types = _list(inputs.dims), _list(inputs.types)
    if dims is None:
        return None
    types = types if types is not None and len(types) == len(dims) else ["unknown"] * len(dims)
    values = _list(inputs.values) or []
    tensors = tuple(_tensor(shape, kind) for shape, kind in zip(dims, types, strict=True))
    return ParsedInputs(tensors, tuple(one if isinstance(one, str) else str(one) for one in values))


def _tensor(shape: Any, kind: Any) -> TensorInput | None:
    name = kind.strip().lower() if isinstance(kind, str) else ""
    if not isinstance(shape, list):
        return None
    if name.startswith("tensorlist") or (name.startswith("genericlist") and shape):
        return TensorInput(tuple(tuple(one) if isinstance(one, list) else one for one in shape), "list")
    if name in _NO_TENSORS or name.startswith("genericlist") or not all(_is_length(one) for one in shape):
        return None
    return TensorInput(tuple(shape), _TYPES.get(name, name.removeprefix("c10::")))


def _as_list(shape: tuple[Any, ...]) -> list[Any]:
    return [_as_list(one) if isinstance(one, tuple) else one for one in shape]


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 40


def _list(text: str) -> list[Any] | None:
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return found if isinstance(found, list) else None
