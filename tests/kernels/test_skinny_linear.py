"""Tests that a fused linear layer of one row agrees with its separate operations; and of the tuned choices."""

from pathlib import Path

import pytest
import torch
from devices import DEVICE, DTYPES, generator, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st

from roseinfer.kernels import tuning
from roseinfer.kernels.activations import GATED_ACTIVATIONS, Activation
from roseinfer.kernels.linear.skinny_gemv import GemvTiles, gemv_tiles, skinny_gemv
from roseinfer.kernels.linear.skinny_linear import skinny_linear, skinny_linear_reference
from roseinfer.kernels.norms import Norm

pytestmark = pytest.mark.usefixtures("single_threaded")


def compare(
    dtype: torch.dtype,
    outputs: int,
    size: int,
    *,
    with_bias: bool = False,
    norm: str | None = None,
    activation: Activation | None = None,
    with_residual: bool = False,
    tiles: GemvTiles | None = None,
    seed: int = 0,
) -> None:
    source = generator(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source).to(dtype).to(DEVICE)

    x = random(1, size) + 0.5
    weight = random(outputs * (2 if activation in GATED_ACTIVATIONS else 1), size) * size**-0.5
    bias = random(len(weight)) if with_bias else None
    before = None
    if norm is not None:
        before = Norm(random(size), 1e-5, random(size) if norm == "shifted layer" else None, norm != "rms")
    residual = random(1, outputs) if with_residual else None
    ours = skinny_gemv(x, weight, bias, norm=before, activation=activation, residual=residual, tiles=tiles)
    expected = skinny_linear_reference(x, weight, bias, norm=before, activation=activation, residual=residual)
    torch.testing.assert_close(ours, expected, **tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "size"), [(6, 768), (5, 1024), (3, 2304), (7, 96), (4, 100)])
def test_products(dtype: torch.dtype, outputs: int, size: int) -> None:
    compare(dtype, outputs, size)


@given(
    outputs=st.integers(1, 11),
    size=st.integers(1, 150),
    with_bias=st.booleans(),
    norm=st.sampled_from([None, "rms", "layer", "shifted layer"]),
    activation=st.sampled_from([None, "silu_and_mul", "gelu_tanh_and_mul", "gelu", "gelu_tanh"]),
    with_residual=st.booleans(),
    per_program=st.sampled_from([1, 2, 4]),
    columns=st.sampled_from([32, 64]),
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=40, deadline=None)
def test_everything_fused(
    outputs: int,
    size: int,
    with_bias: bool,
    norm: str | None,
    activation: Activation | None,
    with_residual: bool,
    per_program: int,
    columns: int,
    seed: int,
) -> None:
    compare(
        torch.float32,
        outputs,
        size,
        with_bias=with_bias,
        norm=norm if size > 8 else None,  # the norm of a row of few numbers is ill-conditioned
        activation=activation,
        with_residual=with_residual,
        tiles=GemvTiles(per_program, columns, 4),
        seed=seed,
    )


@pytest.mark.parametrize("rows", [1, 20])
@pytest.mark.parametrize("centered", [False, True])
def test_the_entry_computes_the_same_part_by_part(rows: int, centered: bool) -> None:
    x, residual = torch.randn(2, rows, 16, dtype=torch.float64, device=DEVICE)
    weight = torch.randn(32, 16, dtype=torch.float64, device=DEVICE)
    bias, gain = torch.randn(32, dtype=torch.float64, device=DEVICE), torch.rand(16, dtype=torch.float64, device=DEVICE)
    parts = {"norm": Norm(gain, 1e-6, None, centered), "activation": "silu_and_mul", "residual": residual}
    torch.testing.assert_close(
        skinny_linear(x, weight, bias, **parts),
        skinny_linear_reference(x, weight, bias, **parts),
    )


@pytest.mark.parametrize("size", [10, 768, 1024, 3072, 4096, 14336])
@pytest.mark.parametrize("gated", [False, True])
def test_tiles_are_powers_of_two_that_fit(size: int, gated: bool) -> None:
    tiles = gemv_tiles(size, gated=gated)
    assert tiles.outputs & (tiles.outputs - 1) == 0
    assert tiles.columns & (tiles.columns - 1) == 0
    assert tiles.outputs * tiles.columns <= 16384


def test_tuned_choices_are_kept_across_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSEINFER_CACHE_DIR", str(tmp_path))
    device = torch.device("cpu")
    tuning.tuned.cache_clear()
    try:
        assert tuning.tuned(device) == {}
        tuning.remember(device, {"linear bfloat16 1x4x8": (2, 512, 4), "linear bfloat16 8x4x8": ()})
        tuning.tuned.cache_clear()  # as in a new process
        assert tuning.tuned(device) == {"linear bfloat16 1x4x8": (2, 512, 4), "linear bfloat16 8x4x8": ()}
        (only,) = (tmp_path / "kernels").iterdir()
        only.write_text("not JSON")
        tuning.tuned.cache_clear()
        assert tuning.tuned(device) == {}
    finally:
        tuning.tuned.cache_clear()


@pytest.mark.parametrize(
    ("name", "capability", "multiprocessors", "is_tuned"),
    [
        ("NVIDIA H200", (9, 0), 132, True),
        ("NVIDIA H100 80GB HBM3", (9, 0), 132, True),
        ("NVIDIA H100 PCIe", (9, 0), 114, False),
        ("NVIDIA A100-SXM4-80GB", (8, 0), 108, False),
    ],
)
def test_choices_serve_every_card_with_the_same_processor(
    name: str,
    capability: tuple[int, int],
    multiprocessors: int,
    is_tuned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROSEINFER_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(tuning, "num_multiprocessors", lambda _device: multiprocessors)
    tuning.tuned.cache_clear()
    try:
        assert ("plain bfloat16 16x4096x4096" in tuning.tuned(torch.device("cuda", 0))) == is_tuned
    finally:
        tuning.tuned.cache_clear()
