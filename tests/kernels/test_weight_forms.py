"""Every weight form follows one protocol, and one place chooses among the forms."""

from collections.abc import Callable

import pytest
import torch

from roseinfer.kernels import activations
from roseinfer.kernels.activations import Activation
from roseinfer.kernels.linear import skinny_weight
from roseinfer.kernels.linear.form_choice import choose_form, choose_table_form, plain_form, plain_table
from roseinfer.kernels.linear.onednn_weight import OneDnnWeight
from roseinfer.kernels.linear.plain_weight import PlainTable, PlainWeight
from roseinfer.kernels.linear.quantized_weight import QuantizedWeight
from roseinfer.kernels.linear.skinny_linear import skinny_linear_reference
from roseinfer.kernels.linear.skinny_weight import SkinnyTable, SkinnyWeight
from roseinfer.kernels.linear.torch_quantized import Int4Groups, Int8Rows
from roseinfer.kernels.linear.weight_form import TableForm, WeightForm
from roseinfer.models.linear import FusedLinear, Linear
from roseinfer.models.norm_layers import RMSNorm

pytestmark = pytest.mark.usefixtures("single_threaded")

FORMS: dict[str, Callable[[torch.Tensor], WeightForm]] = {
    "plain": PlainWeight,
    "plain table": lambda weight: PlainTable(torch.cat((weight, torch.full_like(weight, torch.nan))), len(weight)),
    "skinny": SkinnyWeight,
    "skinny table": lambda weight: SkinnyTable(torch.cat((weight, torch.full_like(weight, torch.nan))), len(weight)),
    "oneDNN": OneDnnWeight.pack,
    "int8": lambda weight: Int8Rows.pack(QuantizedWeight.int8_rows(weight)),
    "int4": lambda weight: Int4Groups.pack(QuantizedWeight.int4_groups(weight)),
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> WeightForm:
    torch.manual_seed(0)
    weight = torch.randn(256, 256) / 16
    if (request.param == "oneDNN" and not OneDnnWeight.fits(weight)) or (
        request.param == "int4" and not Int4Groups.fits(weight)
    ):
        pytest.skip(f"no {request.param} kernels on this processor")
    return FORMS[request.param](weight)


def norm_of(size: int) -> RMSNorm:
    norm = RMSNorm(size, 1e-6)
    norm.weight.data.uniform_(0.5, 1.5)
    return norm


@pytest.mark.parametrize("activation", [None, "silu_and_mul", "gelu_tanh"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_all_forms_add_a_bias_apply_an_activation_and_join_a_norm(
    form: WeightForm, activation: Activation | None, with_bias: bool
) -> None:
    x, residual, stream = torch.randn(3, 256).bfloat16().float().repeat(3, 1, 1).unbind(0)
    bias = torch.randn(256) if with_bias else None
    values, norm = form.values(torch.float32), norm_of(256)

    def expected(of: torch.Tensor) -> torch.Tensor:
        return skinny_linear_reference(of, values, bias, activation=activation)

    close = {"atol": 0.06, "rtol": 0.02}  # quantized forms multiply in bfloat16
    torch.testing.assert_close(form.linear(x, bias, activation), expected(x), **close)
    for before in (None, residual):
        out, total = form.after_norm(norm, x, before, bias, activation)
        normed, expected_total = norm.after(x, before)
        assert torch.equal(total, expected_total)
        torch.testing.assert_close(out, expected(normed), **close)
    added, rest = form.onto(x, stream, bias)
    torch.testing.assert_close(
        added if rest is None else added + rest, stream + form.matmul(x, bias), atol=1e-5, rtol=1e-5
    )


def test_a_skinny_weight_lets_one_kernel_take_the_norm_the_activation_and_the_residual(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[set[str]] = []

    def fused(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, **parts: object) -> torch.Tensor:
        calls.append({name for name, part in parts.items() if part is not None})
        return skinny_linear_reference(x, weight, bias, **parts)

    monkeypatch.setattr(skinny_weight, "fused_linear", fused)
    torch.manual_seed(0)
    form, norm, x, stream = SkinnyWeight(torch.randn(32, 32)), norm_of(32), torch.randn(2, 32), torch.randn(2, 32)
    out, total = form.after_norm(norm, x, None, activation="silu_and_mul")
    assert total is x
    torch.testing.assert_close(out, activations.silu_and_mul(form.matmul(norm(x))))
    added, rest = form.onto(x, stream)
    assert rest is None
    torch.testing.assert_close(added, form.matmul(x) + stream)
    assert calls == [{"norm", "activation"}, {"residual"}]
    form.after_norm(norm, x, stream)  # the residual must be added first, so the norm is a kernel of its own
    assert len(calls) == 2


def test_a_skinny_weight_adds_many_rows_to_the_stream_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skinny_weight, "_MANY_ROWS", 2)
    torch.manual_seed(0)
    form, x, stream = SkinnyWeight(torch.randn(24, 32)), torch.randn(2, 32), torch.randn(2, 24)
    expected = form.matmul(x) + stream
    added, rest = form.onto(x, stream)
    assert rest is None
    assert added.data_ptr() == stream.data_ptr()
    torch.testing.assert_close(added, expected)
    added, rest = form.onto(x, stream, torch.ones(24))
    torch.testing.assert_close(added if rest is None else added + rest, expected + form.matmul(x) + 1)


def test_a_layer_computes_before_and_after_its_form_is_chosen() -> None:
    torch.manual_seed(0)
    layer = FusedLinear(256, {"gate": 160, "up": 96}, bias=True)
    for parameter in layer.parameters():
        parameter.data.normal_()  # a loader fills the parameter after the form exists
    x = torch.randn(3, 256)
    before = layer(x)
    torch.testing.assert_close(before, torch.nn.functional.linear(x, layer.weight, layer.bias))
    layer.pack()
    torch.testing.assert_close(layer(x), before, atol=1e-3, rtol=1e-4)


def test_weights_that_no_packed_form_takes_stay_plain_and_share_memory() -> None:
    weight = torch.randn(8, 24, dtype=torch.float64)
    for packing in ("none", "int8", "int4"):
        form = choose_form(weight, packing, 8)
        assert type(form) is PlainWeight
        assert form.values(torch.float64) is weight
    table = choose_table_form(weight, 5, "int8")
    assert isinstance(table, TableForm)
    assert table.values(torch.float64).data_ptr() == weight.data_ptr()
    assert table.nbytes == 5 * 24 * 8
    assert table.row_bytes == 24 * 8


def test_a_quantized_weight_has_scales_per_row_or_per_group() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 64)
    rows, groups = QuantizedWeight.int8_rows(weight), QuantizedWeight.int4_groups(weight)
    assert rows.group_size == 64
    assert groups.group_size == 32
    torch.testing.assert_close(rows.values(torch.float32), weight, atol=0.03, rtol=0)
    torch.testing.assert_close(groups.values(torch.float32), weight, atol=0.25, rtol=0)
    for quantized in (rows, groups):
        joined = QuantizedWeight.concatenated([quantized, quantized.mapped(lambda plane: plane.flip(0))])
        values = quantized.values(torch.float32)
        assert torch.equal(joined.values(torch.float32), torch.cat((values, values.flip(0))))


@pytest.mark.gpu
def test_on_a_gpu_a_layer_has_the_skinny_form_from_the_start() -> None:
    with torch.device("cuda"):
        layer = Linear(64, 64, bias=False)
    assert type(layer.form) is SkinnyWeight
    layer.pack()
    assert type(layer.form) is SkinnyWeight
    assert layer.packed is None
    assert type(plain_form(layer.weight)) is SkinnyWeight
    assert type(plain_table(layer.weight, 63)) is SkinnyTable
    assert type(choose_table_form(layer.weight, 63, "none")) is SkinnyTable
