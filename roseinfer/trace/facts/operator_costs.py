"""FLOPs and bytes of operators from their recorded shapes, with the formulas of `torch.utils.flop_counter`.

Bytes are those of all inputs, read once, and of the output, written once: the least that a kernel moves.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from roseinfer.trace.facts.operator_inputs import ParsedInputs, TensorInput

_ITEM_BYTES = {
    "float64": 8,
    "int64": 8,
    "float32": 4,
    "int32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
}


_MOST = 1 << 80
"""FLOPs or bytes beyond which the recorded shapes are damaged."""


class OperatorCost(NamedTuple):
    """Least work of one call of an operator."""

    flops: int
    """FLOPs of products; 0 for operators that only move data."""
    num_bytes: int
    dtype: str
    """Type of the products, or of the output."""


Shape = tuple[int, ...]
_Rule = Callable[[ParsedInputs], OperatorCost | None]


def operator_cost(name: str, inputs: ParsedInputs) -> OperatorCost | None:
    """Return the least work of an operator; None if its name is not known, or if its inputs do not fit the name.

    Operators that only call others, such as `aten::linear`, have no cost: the operators that they call have it.
    """
    rule = _RULES.get(name)
    if rule is None:
        return None
    try:
        found = rule(inputs)
    except (IndexError, ValueError, TypeError, KeyError, ArithmeticError, msgspec.DecodeError):
        return None
    return found if found is not None and 0 <= found.flops < _MOST and 0 < found.num_bytes < _MOST else None


def _tensor(inputs: ParsedInputs, index: int) -> TensorInput:
    found = inputs.tensors[index]
    if found is None or found.dtype == "list":
        raise ValueError("no tensor")
    return found


def _bytes(tensor: TensorInput) -> int:
    return _ITEM_BYTES[tensor.dtype] * int(math.prod(tensor.shape))


def _product(first: int) -> _Rule:
    """Return the rule of a product of the inputs `first` and `first + 1`, `[..., m, k]` and `[..., k, n]`."""

    def rule(inputs: ParsedInputs) -> OperatorCost:
        left, right = _tensor(inputs, first), _tensor(inputs, first + 1)
        *batch, rows, inner = left.shape
        columns = right.shape[-1]
        if right.shape[-2] != inner or list(right.shape[:-2]) != batch:
            raise ValueError("shapes do not fit")
        outputs = math.prod(batch) * rows * columns
        size = _ITEM_BYTES[left.dtype]
        given = sum(_bytes(one) for one in inputs.tensors[:first] if one is not None)
        return OperatorCost(
            2 * outputs * inner, given + _bytes(left) + _bytes(right) + outputs * max(size, 2), left.dtype
        )

    return rule


def _convolution(inputs: ParsedInputs) -> OperatorCost:
    image, weight = _tensor(inputs, 0), _tensor(inputs, 1)
    stride, padding, dilation = (_numbers(inputs.values[index]) for index in (3, 4, 5))
    is_transposed = _flag(inputs.values[6])
    filters, size = weight.shape[2:], image.shape[2:]
    outputs = [
        _transposed_size(*dimension) if is_transposed else _convolved_size(*dimension)
        for dimension in zip(
            size, filters, _each(stride, size), _each(padding, size), _each(dilation, size), strict=True
        )
    ]
    positions = size if is_transposed else outputs
    flops = 2 * math.prod(positions) * math.prod(weight.shape) * image.shape[0]
    channels = weight.shape[1] * int(inputs.values[8]) if is_transposed else weight.shape[0]
    written = image.shape[0] * channels * math.prod(outputs) * _ITEM_BYTES[image.dtype]
    return OperatorCost(flops, _bytes(image) + _bytes(weight) + written, image.dtype)


def _convolution_backward(inputs: ParsedInputs) -> OperatorCost:
    gradient, image, weight = (_tensor(inputs, index) for index in range(3))
    is_transposed, wanted = _flag(inputs.values[7]), [_flag(one) for one in _list_of(inputs.values[10])]
    positions = (image if is_transposed else gradient).shape[2:]
    once = 2 * math.prod(positions) * math.prod(weight.shape) * image.shape[0]
    moved = _bytes(gradient) + sum(
        _bytes(one) * (1 + wanted[at]) for at, one in enumerate((image, weight)) if wanted[at] or wanted[1 - at]
    )
    return OperatorCost(once * (wanted[0] + wanted[1]), moved, image.dtype)


def _convolved_size(size: int, taps: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1


def _transposed_size(size: int, taps: int, stride: int, padding: int, dilation: int) -> int:
    return (size - 1) * stride - 2 * padding + dilation * (taps - 1) + 1


def _attention(first: int, *, is_backward: bool = False) -> _Rule:
    """Return the rule of attention whose queries `[batch, heads, queries, head_dim]` are input `first`.

    The forward pass computes 2 products, and the backward pass 5, since it computes the scores again. Every key counts,
    also for causal attention.
    """

    def rule(inputs: ParsedInputs) -> OperatorCost:
        query, key, value = (_tensor(inputs, index) for index in range(first, first + 3))
        batch, heads, queries, head_dim = query.shape
        keys, value_dim = key.shape[2], value.shape[3]
        pairs = batch * heads * queries * keys
        dims = 3 * head_dim + 2 * value_dim if is_backward else head_dim + value_dim
        moved = (
            sum(_bytes(one) for one in (query, key, value))
            + batch * heads * queries * value_dim * _ITEM_BYTES[query.dtype]
        )
        return OperatorCost(2 * pairs * dims, moved * (2 if is_backward else 1), query.dtype)

    return rule


def _elementwise(inputs: ParsedInputs) -> OperatorCost:
    given = [one for one in inputs.tensors if one is not None and one.dtype != "list"]
    large = [one for one in given if one.shape]
    if not large or len(given) != sum(one is not None for one in inputs.tensors):
        raise ValueError("no tensors")
    output = _broadcast([one.shape for one in large])
    return OperatorCost(
        0, sum(_bytes(one) for one in large) + math.prod(output) * _ITEM_BYTES[large[0].dtype], large[0].dtype
    )


def _same_shape(inputs: ParsedInputs) -> OperatorCost:
    """Norms and softmax: the first input is read, an output of its shape is written, and other inputs are read."""
    first = _tensor(inputs, 0)
    others = [one for one in inputs.tensors[1:] if one is not None and one.dtype != "list"]
    return OperatorCost(0, 2 * _bytes(first) + sum(_bytes(one) for one in others), first.dtype)


def _reduction(inputs: ParsedInputs) -> OperatorCost:
    first = _tensor(inputs, 0)
    return OperatorCost(0, _bytes(first), first.dtype)


def _embedding(inputs: ParsedInputs) -> OperatorCost:
    weight, indices = _tensor(inputs, 0), _tensor(inputs, 1)
    rows = math.prod(indices.shape) * math.prod(weight.shape[1:]) * _ITEM_BYTES[weight.dtype]
    return OperatorCost(0, 2 * rows + _bytes(indices), weight.dtype)


def _copy(inputs: ParsedInputs) -> OperatorCost:
    target, source = _tensor(inputs, 0), _tensor(inputs, 1)
    return OperatorCost(0, _bytes(target) + _bytes(source), target.dtype)


def _broadcast(shapes: list[Shape]) -> Shape:
    length = max(len(shape) for shape in shapes)
    padded = [(1,) * (length - len(shape)) + tuple(shape) for shape in shapes]
    found = tuple(max(sizes) for sizes in zip(*padded, strict=True))
    if any(one not in (1, size) for shape in padded for one, size in zip(shape, found, strict=True)):
        raise ValueError("shapes do not broadcast")
    return found


def _numbers(text: str) -> list[int]:
    return [int(str(one)) for one in _list_of(text)]


def _each(values: list[int], size: tuple[int, ...]) -> list[int]:
    """Return one value per dimension: a single one counts for all."""
    return values * len(size) if len(values) == 1 else values


def _list_of(text: str) -> list[object]:
    found = msgspec.json.decode(text.replace("True", "true").replace("False", "false"))
    if not isinstance(found, list):
        raise ValueError("no list")
    return found


def _flag(value: object) -> bool:
    return value is True or value in ("True", "true", "1")


_POINTWISE = [
    "add",
    "add_",
    "sub",
    "sub_",
    "mul",
    "mul_",
    "div",
    "div_",
    "gelu",
    "silu",
    "silu_",
    "relu",
    "relu_",
    "sigmoid",
    "tanh",
    "exp",
    "log",
    "neg",
    "rsqrt",
    "sqrt",
    "pow",
    "abs",
    "sin",
    "cos",
    "clamp",
    "clamp_min",
    "clamp_min_",
    "where",
    "threshold_backward",
    "gelu_backward",
    "silu_backward",
    "sigmoid_backward",
    "tanh_backward",
    "leaky_relu",
    "hardtanh",
    "hardtanh_",
    "eq",
    "ne",
    "lt",
    "gt",
    "le",
    "ge",
    "logical_and",
    "logical_or",
    "bitwise_and",
    "bitwise_or",
    "masked_fill_",
]
_NORMS = [
    "native_layer_norm",
    "native_group_norm",
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_softmax",
    "_log_softmax",
    "_fused_rms_norm",
]
_RULES: dict[str, _Rule] = {
    "aten::mm": _product(0),
    "aten::bmm": _product(0),
    "aten::_scaled_mm": _product(0),
    "aten::addmm": _product(1),
    "aten::addmm_": _product(1),
    "aten::_addmm_activation": _product(1),
    "aten::baddbmm": _product(1),
    "aten::convolution": _convolution,
    "aten::convolution_backward": _convolution_backward,
    "aten::_scaled_dot_product_flash_attention": _attention(0),
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention(0),
    "aten::_scaled_dot_product_efficient_attention": _attention(0),
    "aten::_scaled_dot_product_cudnn_attention": _attention(0),
    "aten::_scaled_dot_product_flash_attention_backward": _attention(1, is_backward=True),
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _attention(1, is_backward=True),
    "aten::_scaled_dot_product_efficient_attention_backward": _attention(1, is_backward=True),
    "aten::_scaled_dot_product_cudnn_attention_backward": _attention(1, is_backward=True),
    "aten::embedding": _embedding,
    "aten::index_select": _embedding,
    "aten::copy_": _copy,
    "aten::sum": _reduction,
    "aten::mean": _reduction,
    "aten::argmax": _reduction,
    **{f"aten::{name}": _elementwise for name in _POINTWISE},
    **{f"aten::{name}": _same_shape for name in _NORMS},
}
"""Rules by name. An operator of the table must not call another one of it with the same work."""
