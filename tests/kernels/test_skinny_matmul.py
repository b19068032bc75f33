"""Tests that a fused linear layer of a decode batch agrees with its separate operations."""

import pytest
import torch
from devices import DEVICE, DTYPES, generator, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st

from roseinfer.kernels.activations import GATED_ACTIVATIONS, Activation
from roseinfer.kernels.linear import skinny_linear as entry
from roseinfer.kernels.linear.skinny_gemv import GemvTiles
from roseinfer.kernels.linear.skinny_linear import fused_tiles, linear_key, skinny_linear, skinny_linear_reference
from roseinfer.kernels.linear.skinny_matmul import MAX_MATMUL_ROWS, MatmulTiles, skinny_matmul
from roseinfer.kernels.norms import Norm
from roseinfer.kernels.runtime import arrivals

pytestmark = pytest.mark.usefixtures("single_threaded")

# (norm, activation, with_residual, with_bias) of the linear layers of Llama-style decoders and GPT-2.
MODEL_LAYERS: list[tuple[str | None, Activation | None, bool, bool]] = [
    ("rms", None, False, False),
    ("rms", None, False, True),
    ("rms", "silu_and_mul", False, False),
    ("shifted layer", None, False, True),
    ("shifted layer", "gelu_tanh", False, True),
    ("shifted layer", "gelu", False, True),
    ("layer", None, False, False),
    (None, None, True, False),
    (None, None, True, True),
    (None, "silu_and_mul", False, False),
    ("rms", "gelu_tanh_and_mul", False, False),
    (None, "gelu_tanh", False, True),
    (None, None, False, False),
]


def compare(
    dtype: torch.dtype,
    rows: int,
    outputs: int,
    size: int,
    tiles: MatmulTiles,
    *,
    norm: str | None = None,
    activation: Activation | None = None,
    with_residual: bool = False,
    with_bias: bool = False,
    seed: int = 0,
) -> None:
    source = generator(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source).to(dtype).to(DEVICE)

    # Rows are not adjacent: x is a slice of columns.
    x = (random(rows, size + 16) + 0.5)[:, :size]
    weight = random(outputs * (2 if activation in GATED_ACTIVATIONS else 1), size) * size**-0.5
    bias = random(len(weight)) if with_bias else None
    before = None
    if norm is not None:
        before = Norm(random(size), 1e-5, random(size) if norm == "shifted layer" else None, norm != "rms")
    parts = {"norm": before, "activation": activation, "residual": random(rows, outputs) if with_residual else None}
    ours = skinny_matmul(x, weight, bias, tiles=tiles, **parts)
    close = tolerance(dtype)
    if norm is not None and dtype == torch.float16:
        close["atol"] *= 3  # operands are rounded before the mean is subtracted and the scale applied
    torch.testing.assert_close(ours, skinny_linear_reference(x, weight, bias, **parts), **close)
    assert torch.equal(skinny_matmul(x, weight, bias, tiles=tiles, **parts), ours)
    assert not arrivals(x.device).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("norm", "activation", "with_residual", "with_bias"), MODEL_LAYERS)
@pytest.mark.parametrize(
    ("rows", "tiles"), [(2, MatmulTiles(64, 64, 2, 4, 3, 0)), (64, MatmulTiles(32, 128, 1, 4, 3, 0))]
)
def test_the_layers_of_models(
    dtype: torch.dtype,
    rows: int,
    tiles: MatmulTiles,
    norm: str | None,
    activation: Activation | None,
    with_residual: bool,
    with_bias: bool,
) -> None:
    compare(
        dtype,
        rows,
        72,
        192,
        tiles,
        norm=norm,
        activation=activation,
        with_residual=with_residual,
        with_bias=with_bias,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [4, 16, 33, 64])
@pytest.mark.parametrize(("outputs", "size", "splits"), [(30, 576, 4), (17, 768, 3), (65, 100, 1), (20, 3072, 16)])
def test_sizes_that_tiles_do_not_divide(dtype: torch.dtype, rows: int, outputs: int, size: int, splits: int) -> None:
    compare(dtype, rows, outputs, size, MatmulTiles(16 if outputs < 30 else 64, 128, splits, 4, 3, 0), norm="rms")


@given(
    rows=st.integers(1, 70),
    outputs=st.integers(1, 70),
    size=st.integers(9, 150),
    layer=st.sampled_from(MODEL_LAYERS),
    width=st.sampled_from([16, 32, 64]),
    columns=st.sampled_from([16, 32, 64]),
    splits=st.integers(1, 6),
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=40, deadline=None)
def test_any_sizes_and_tiles(
    rows: int,
    outputs: int,
    size: int,
    layer: tuple[str | None, Activation | None, bool, bool],
    width: int,
    columns: int,
    splits: int,
    seed: int,
) -> None:
    norm, activation, with_residual, with_bias = layer
    compare(
        torch.float32,
        rows,
        outputs,
        size,
        MatmulTiles(width, columns, splits, 4, 3, 0),
        norm=norm,
        activation=activation,
        with_residual=with_residual,
        with_bias=with_bias,
        seed=seed,
    )


def test_which_kernel_takes_what(monkeypatch: pytest.MonkeyPatch) -> None:
    def tensors(rows: int, dtype: torch.dtype = torch.bfloat16) -> tuple[torch.Tensor, torch.Tensor, Norm]:
        return (
            torch.ones(rows, 64, dtype=dtype),
            torch.ones(96, 64, dtype=dtype),
            Norm(torch.ones(64, dtype=dtype), 1e-6),
        )

    known: dict[str, tuple[int, ...]] = {}
    monkeypatch.setattr(entry, "runs_triton", lambda *_: True)
    monkeypatch.setattr(entry, "tuned", lambda _: known)
    x, weight, norm = tensors(1)
    assert isinstance(fused_tiles(x, weight), GemvTiles)
    assert fused_tiles(x, weight, norm=norm) is None  # separate kernels, unless the fused one was measured to be faster
    known[linear_key(1, weight, norm, None, None)] = (2, 64, 2, 0, 0)
    assert fused_tiles(x, weight, norm=norm) == GemvTiles(2, 64, 2)
    x, weight, norm = tensors(2)
    assert fused_tiles(x, weight) is None
    known[linear_key(16, weight, None, None, None)] = (32, 64, 2, 4, 3, 0)
    assert fused_tiles(x, weight) == MatmulTiles(32, 64, 2, 4, 3, 0)
    x, weight, norm = tensors(40)
    assert fused_tiles(x, weight, norm=norm) is None
    chosen = MatmulTiles(64, 64, 2, 4, 3, 256)
    known[linear_key(64, weight, norm, None, None)] = (64, 64, 2, 4, 3, 256)
    assert fused_tiles(x, weight, norm=norm) == chosen  # 40 and 64 rows use the same tile
    assert fused_tiles(x, weight) is None
    assert fused_tiles(tensors(20)[0], weight, norm=norm) is None
    assert fused_tiles(tensors(MAX_MATMUL_ROWS + 1)[0], weight, norm=norm) is None
    # float16 has enough range for a product, but not for a norm whose division comes last.
    x, weight, norm = tensors(64, torch.float16)
    known[linear_key(64, weight, norm, None, None)] = known[linear_key(64, weight, None, None, None)] = (
        64,
        64,
        2,
        4,
        3,
        0,
    )
    assert fused_tiles(x, weight, norm=norm) is None
    assert fused_tiles(x, weight) is not None
    # An empty choice: cuBLAS was faster.
    x, weight, norm = tensors(1)
    known[linear_key(1, weight, norm, None, None)] = ()
    assert fused_tiles(x, weight, norm=norm) is None


def test_parts_that_win_apart_are_computed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(6, 64, device=DEVICE).half(), torch.randn(48, 64, device=DEVICE).half()
    norm, residual = Norm(torch.ones_like(x[0]), 1e-6), torch.randn(6, 48, device=DEVICE).half()
    monkeypatch.setattr(entry, "runs_triton", lambda *_: True)
    monkeypatch.setattr(entry, "tuned", lambda _: {linear_key(6, weight, None, None, residual): (16, 32, 2, 4, 3, 0)})
    torch.testing.assert_close(
        skinny_linear(x, weight, norm=norm, residual=residual),
        skinny_linear_reference(x, weight, norm=norm, residual=residual),
        rtol=1e-2,
        atol=2e-2,
    )
