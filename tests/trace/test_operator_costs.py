"""FLOPs of operators equal those of torch's own counter; bytes and unknown operators are checked by hand."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from roseinfer.trace.facts.operator_costs import OperatorCost, operator_cost
from roseinfer.trace.facts.operator_inputs import parse_inputs
from roseinfer.trace.reading.columns import OperatorInputs


def cost(name: str, dims: list[object], types: list[str], values: list[str] | None = None) -> OperatorCost | None:
    parsed = parse_inputs(OperatorInputs(json.dumps(dims), json.dumps(types), json.dumps(values or [])))
    return operator_cost(name, parsed) if parsed else None


def test_flops_equal_torchs_counter(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    functional = torch.nn.functional
    image = torch.randn(2, 4, 9, 11, requires_grad=True)
    models = [
        torch.nn.Conv2d(4, 6, 3, stride=2, padding=1),
        torch.nn.Conv2d(4, 6, (3, 5), dilation=2, padding=4, bias=False),
        torch.nn.ConvTranspose2d(4, 3, 3, stride=2),
    ]

    def work() -> None:
        for model in models:
            model(image).sum().backward()
        torch.nn.Linear(8, 5)(torch.randn(7, 8, requires_grad=True)).sum().backward()
        torch.bmm(torch.randn(3, 4, 5), torch.randn(3, 5, 6))
        torch.baddbmm(torch.randn(3, 4, 6), torch.randn(3, 4, 5), torch.randn(3, 5, 6))
        torch.mm(torch.randn(5, 4), torch.randn(4, 3))
        functional.conv1d(torch.randn(1, 4, 20), torch.randn(8, 2, 3), groups=2)

    with FlopCounterMode(display=False) as counter:
        work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profiler:
        work()
    path = tmp_path / "t.json"
    profiler.export_chrome_trace(str(path))
    found: defaultdict[str, int] = defaultdict(int)
    for one in json.loads(path.read_text())["traceEvents"]:
        if one.get("cat") == "cpu_op" and "Input Dims" in one["args"]:
            args = one["args"]
            made = cost(one["name"], args["Input Dims"], args["Input type"], args["Concrete Inputs"])
            if made is not None and made.flops:
                found[one["name"].removeprefix("aten::")] += made.flops
    counts = counter.get_flop_counts()["Global"]
    assert dict(found) == {str(name).removeprefix("aten."): flops for name, flops in counts.items()}
    assert {"convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm"} <= found.keys()


def test_attention_counts_both_products() -> None:
    shape = [2, 8, 128, 64]
    half = ["c10::Half"] * 3
    found = cost("aten::_scaled_dot_product_flash_attention", [shape] * 3, half)
    assert found == OperatorCost(2 * 2 * 2 * 8 * 128 * 128 * 64, 4 * 2 * 8 * 128 * 64 * 2, "float16")
    backward = cost("aten::_scaled_dot_product_flash_attention_backward", [shape] * 4, [*half, "c10::Half"])
    assert backward is not None
    assert backward.flops == 5 * 2 * 2 * 8 * 128 * 128 * 64


@pytest.mark.parametrize(
    "kind", ["flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention"]
)
def test_attention_of_every_kind_counts_two_products_and_five_backward(kind: str) -> None:
    shape, product = [2, 8, 128, 64], 2 * 2 * 8 * 128 * 128 * 64
    forward = cost(f"aten::_scaled_dot_product_{kind}", [shape] * 3, ["float"] * 3)
    backward = cost(f"aten::_scaled_dot_product_{kind}_backward", [shape] * 4, ["float"] * 4)
    assert forward is not None
    assert backward is not None
    assert (forward.flops, backward.flops) == (2 * product, 5 * product)


def test_a_transposed_convolution_in_groups_writes_the_channels_of_all_groups() -> None:
    values = ["", "", "", "[2, 2]", "[0, 0]", "[1, 1]", "True", "[0, 0]", "2"]
    types = ["float", "float", "", *["ScalarList"] * 3, "Scalar", "ScalarList", "Scalar"]
    found = cost("aten::convolution", [[1, 4, 8, 8], [4, 3, 2, 2], [], [], [], [], [], [], []], types, values)
    outputs = 2 * 3 * 16 * 16
    assert found == OperatorCost(2 * 8 * 8 * 4 * 3 * 2 * 2, 4 * (4 * 8 * 8 + 4 * 3 * 2 * 2 + outputs), "float32")


@pytest.mark.parametrize(
    ("name", "dims", "types", "num_bytes"),
    [
        ("aten::mm", [[16, 64], [64, 32]], ["c10::BFloat16"] * 2, 2 * (16 * 64 + 64 * 32 + 16 * 32)),
        ("aten::add", [[4, 8], [8], []], ["float", "float", "Scalar"], 4 * (32 + 8 + 32)),
        ("aten::mul", [[4, 8], []], ["c10::Half", "double"], 2 * 64),
        ("aten::native_layer_norm", [[4, 8], [], [8], [8], []], ["float", "ScalarList", "float", "float", ""], 4 * 80),
        ("aten::embedding", [[100, 8], [3]], ["float", "long int"], 2 * 3 * 8 * 4 + 3 * 8),
        ("aten::copy_", [[4], [4], []], ["c10::BFloat16", "float", "Scalar"], 4 * 2 + 4 * 4),
        ("aten::sum", [[4, 8]], ["float"], 128),
    ],
)
def test_bytes(name: str, dims: list[object], types: list[str], num_bytes: int) -> None:
    found = cost(name, dims, types)
    assert found is not None
    assert found.num_bytes == num_bytes


@pytest.mark.parametrize(
    ("name", "dims", "types"),
    [
        ("aten::linear", [[4, 8], [8, 8]], ["float", "float"]),
        ("aten::mm", [[4, 8], [9, 8]], ["float", "float"]),
        ("aten::mm", [[4, 8]], ["float"]),
        ("aten::mm", [[4, 8], [8, 2]], ["what", "what"]),
        ("aten::convolution", [[1, 3, 8, 8], [3, 3, 3, 3], [3]], ["float"] * 3),
        ("aten::add", [[4, 8], [7]], ["float", "float"]),
        ("aten::mm", [[[1 << 39], [2]], [1 << 39, 1 << 39]], ["TensorList", "float"]),
        ("aten::embedding", [[1 << 39, 1 << 39], [[1 << 39], [2]]], ["float", "TensorList"]),
        ("aten::mm", [[1 << 39, 1 << 39], [1 << 39, 1 << 39]], ["float", "float"]),
    ],
)
def test_an_operator_that_is_not_known_has_no_cost(name: str, dims: list[object], types: list[str]) -> None:
    assert cost(name, dims, types) is None
