"""Words about CPU operators: which are products, attention or copies, and how long they take."""

from roseinfer.trace.summary.finding_structs import OpSummary

ATTENTION = ("attention",)
PRODUCTS = ("mm", "matmul", "linear", "conv", "int8pack", "int4pack")
QUANTIZED = ("int4", "int8", "float8", "fp8", "quant")
COPIES = ("copy_", "cat", "clone", "contiguous", "index", "stack", "fill_", "zero_")


def is_any(op: OpSummary, words: tuple[str, ...]) -> bool:
    """True if the operator's name holds one of the words."""
    return any(word in op.name.lower() for word in words)


def is_product(op: OpSummary) -> bool:
    """True for matrix products and convolutions, but not for attention."""
    return is_any(op, PRODUCTS) and not is_any(op, ATTENTION)


def percent_of(ops: list[OpSummary], words: tuple[str, ...]) -> float:
    """Return the share of operator time in operators whose name holds one of the words."""
    return sum(op.percent for op in ops if is_any(op, words))


def calls_and_mean(ops: list[OpSummary]) -> tuple[int, float]:
    """Return (calls of all operators, mean self time per call in us)."""
    calls = sum(op.calls for op in ops)
    return calls, 1000 * sum(op.self_ms for op in ops) / calls


def either(choices: list[str]) -> str:
    """Join the choices as `a`, `a or b`, or `a, b, or c`."""
    if len(choices) < 3:
        return " or ".join(choices)
    return f"{', '.join(choices[:-1])}, or {choices[-1]}"
