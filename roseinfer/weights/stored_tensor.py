"""One entry of a checkpoint's table of tensors, as every reader describes it."""

from typing import NamedTuple


class StoredTensor(NamedTuple):
    """Shape and kind of a stored tensor, known before its values are read."""

    shape: tuple[int, ...]
    is_float: bool
    """True for floating-point and quantized values; False for integers, truth values and complex numbers."""
