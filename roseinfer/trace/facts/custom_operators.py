"""Operators that are not part of torch, told by their namespace."""

_TRANSPARENT = {"aten", "prim", "prims", "quantized", "mkldnn", "onednn", "torch"}
"""Namespaces of operators that torch.compile knows."""


def is_custom(operator: str) -> bool:
    """Whether the operator is of a namespace that is not torch's own: a compiler cannot look into it."""
    namespace, separator, _ = operator.partition("::")
    return bool(separator) and namespace not in _TRANSPARENT
