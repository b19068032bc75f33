"""Tell torch's own operators from custom ones, by namespace."""

_TORCH_NAMESPACES = {"aten", "prim", "prims", "quantized", "mkldnn", "onednn", "torch"}
"""Namespaces of the operators that torch.compile can see inside."""


def is_custom(operator: str) -> bool:
    """True if the operator's namespace is not torch's own, so that torch.compile cannot see inside it."""
    namespace, separator, _ = operator.partition("::")
    return bool(separator) and namespace not in _TORCH_NAMESPACES
