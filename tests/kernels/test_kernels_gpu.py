"""Tests on a GPU that every kernel agrees with its reference, at the sizes and dtypes of real models."""

import pytest
import torch
from devices import DEVICE, generator, tolerance
from paged_cases import paged_case
from projections import projection_of

from roseinfer.kernels import activations
from roseinfer.kernels.activations import GATED_ACTIVATIONS, Activation
from roseinfer.kernels.attention.attention_spec import Scoring
from roseinfer.kernels.attention.paged_decode import paged_decode_attention, paged_decode_attention_reference
from roseinfer.kernels.attention.paged_prefill import paged_prefill_attention, paged_prefill_attention_reference
from roseinfer.kernels.attention.rope_append import rope_append, rope_append_reference
from roseinfer.kernels.linear.skinny_gemv import GemvTiles, skinny_gemv
from roseinfer.kernels.linear.skinny_linear import skinny_linear, skinny_linear_reference
from roseinfer.kernels.linear.skinny_matmul import MatmulTiles, skinny_matmul
from roseinfer.kernels.norms import (
    Norm,
    add_layer_norm,
    add_layer_norm_reference,
    add_rms_norm,
    add_rms_norm_reference,
)

pytestmark = pytest.mark.gpu

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES)
# Each combination is compiled anew, so this is a selection: every dtype and every shape of heads.
HEADS = [(12, 12, 64), (16, 8, 128), (32, 8, 128), (8, 8, 80), (6, 2, 96), (8, 1, 256)]
EVERY_HEADS = pytest.mark.parametrize(
    ("dtype", "heads", "kv_heads", "head_dim"),
    [(torch.bfloat16, *shape) for shape in HEADS]
    + [(dtype, *shape) for dtype in DTYPES[1:] for shape in (HEADS[0], HEADS[1], HEADS[5])],
)
WINDOWS = pytest.mark.parametrize(("window", "softcap"), [(None, None), (100, None), (100, 2.0)])


@EVERY_HEADS
@WINDOWS
@pytest.mark.parametrize("lengths", [[700], [0, 1, 17, 64, 300, 1025], [40] * 64])
def test_decode_attention(
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    head_dim: int,
    window: int | None,
    softcap: float | None,
    lengths: list[int],
) -> None:
    case = paged_case(lengths, heads=heads, kv_heads=kv_heads, head_dim=head_dim, dtype=dtype, spare_blocks=200)
    scoring = Scoring(window=window, softcap=softcap)
    arguments = (case.q, case.key_cache, case.value_cache, case.block_tables, case.context_lens)
    expected = paged_decode_attention_reference(*arguments, scoring=scoring)
    for _ in range(2):
        ours = paged_decode_attention(*arguments, scoring=scoring)
        torch.testing.assert_close(ours, expected, **tolerance(dtype))


@EVERY_HEADS
@WINDOWS
@pytest.mark.parametrize("requests", [[(0, 1), (513, 200), (100, 33), (64, 64)], [(20, 1)] * 8])
def test_prefill_attention(
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    head_dim: int,
    window: int | None,
    softcap: float | None,
    requests: list[tuple[int, int]],
) -> None:
    new = [count for _, count in requests]
    case = paged_case(
        [past + count for past, count in requests],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        queries=sum(new),
    )
    starts = torch.tensor([0, *torch.tensor(new).cumsum(0).tolist()], dtype=torch.int32, device=DEVICE)
    arguments = (case.q, case.key_cache, case.value_cache, case.block_tables, starts, case.context_lens)
    options = {"max_query_len": max(new), "scoring": Scoring(window=window, softcap=softcap)}
    torch.testing.assert_close(
        paged_prefill_attention(*arguments, **options),
        paged_prefill_attention_reference(*arguments, **options),
        **tolerance(dtype),
    )


@EVERY_HEADS
@pytest.mark.parametrize("tokens", [1, 64, 1500])
@pytest.mark.parametrize("plain", [False, True])
def test_rope_append(dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int, tokens: int, plain: bool) -> None:
    source = generator(tokens)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source).to(dtype).to(DEVICE)

    qkv, table = random(tokens, (heads + 2 * kv_heads) * head_dim), None if plain else random(2048, head_dim)
    norms = (None, None) if plain else (random(head_dim), random(head_dim))
    positions = torch.randint(0, 2048, (tokens,), generator=source).to(DEVICE)
    slots = torch.randperm(16 * 100, generator=source)[:tokens].to(DEVICE)
    cache = random(2, 100, 16, kv_heads, head_dim)
    expected_cache = cache.clone()
    projection = projection_of(qkv, (heads, kv_heads), positions=positions, table=table, norms=norms)
    ours = rope_append(projection, slots, cache[0], cache[1])
    expected = rope_append_reference(projection, slots, *expected_cache)
    torch.testing.assert_close(ours, expected, **tolerance(dtype))
    torch.testing.assert_close(cache, expected_cache, **tolerance(dtype))


@EVERY_DTYPE
@pytest.mark.parametrize("size", [768, 1024, 4096])
@pytest.mark.parametrize("rows", [1, 64, 3000])
def test_norms_and_activations(dtype: torch.dtype, size: int, rows: int) -> None:
    x, residual = torch.randn(2, rows, size, generator=generator(size)).to(dtype).to(DEVICE)
    weight, bias = torch.randn(2, size, generator=generator(1)).to(dtype).to(DEVICE)
    close = tolerance(dtype)
    for added in (residual, None):
        for pair in (
            (add_rms_norm(x, added, weight, 1e-6), add_rms_norm_reference(x, added, weight, 1e-6)),
            (add_layer_norm(x, added, weight, bias, 1e-5), add_layer_norm_reference(x, added, weight, bias, 1e-5)),
        ):
            for ours, expected in zip(*pair, strict=True):
                torch.testing.assert_close(ours, expected, **close)
    for name in ("silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul", "gelu_tanh", "gelu"):
        expected = getattr(activations, f"{name}_reference")(x)
        torch.testing.assert_close(getattr(activations, name)(x), expected, **close)


@EVERY_DTYPE
@pytest.mark.parametrize(("outputs", "size"), [(2304, 768), (768, 3072), (1000, 1024), (50257, 768), (512, 14336)])
def test_skinny_gemv(dtype: torch.dtype, outputs: int, size: int) -> None:
    source = generator(1)
    x = torch.randn(1, size, generator=source).to(dtype).to(DEVICE)
    weight = (torch.randn(outputs, size, generator=source) * size**-0.5).to(dtype).to(DEVICE)
    bias = torch.randn(outputs, generator=source).to(dtype).to(DEVICE)
    ours = skinny_gemv(x, weight, bias)
    torch.testing.assert_close(ours, skinny_linear_reference(x, weight, bias), **tolerance(dtype))


@EVERY_DTYPE
@pytest.mark.parametrize("rows", [1, 2, 30])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("activation", [None, "silu_and_mul", "gelu_tanh_and_mul", "gelu", "gelu_tanh"])
def test_skinny_linear_with_its_neighbours(
    dtype: torch.dtype, rows: int, centered: bool, activation: Activation | None
) -> None:
    source = generator(rows)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source).to(dtype).to(DEVICE)

    x, residual = random(rows, 1024), random(rows, 3072)
    weight = random(6144 if activation in GATED_ACTIVATIONS else 3072, 1024) * 0.03
    parts = {
        "norm": Norm(random(1024), 1e-6, random(1024) if centered else None, centered),
        "activation": activation,
        "residual": residual,
    }
    ours = skinny_linear(x, weight, random(len(weight)) * 0, **parts)
    torch.testing.assert_close(ours, skinny_linear_reference(x, weight, **parts), **tolerance(dtype))


MATMUL_TILES = [
    MatmulTiles(16, 128, 4, 4, 3, 256),
    MatmulTiles(32, 64, 2, 4, 4, 1024, 1),
    MatmulTiles(64, 64, 8, 4, 3, 0, 1),
    MatmulTiles(64, 128, 1, 8, 2, 128),
    MatmulTiles(128, 64, 3, 8, 3, 256),
]


@pytest.mark.parametrize("tiles", MATMUL_TILES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "outputs", "size"),
    [
        (torch.bfloat16, 2304, 768),
        (torch.bfloat16, 768, 3072),
        (torch.bfloat16, 1000, 576),
        (torch.float16, 1000, 576),
    ],
)
def test_skinny_matmul(dtype: torch.dtype, outputs: int, size: int, tiles: MatmulTiles) -> None:
    source = generator(size)
    weight = (torch.randn(outputs, size, generator=source) * size**-0.5).to(dtype).to(DEVICE)
    bias = torch.randn(outputs, generator=source).to(dtype).to(DEVICE)
    for rows in (2, 4, 5, 16, 33, 64, 128):
        x = torch.randn(rows, size, generator=source).to(dtype).to(DEVICE)
        ours = skinny_matmul(x, weight, bias, tiles=tiles)
        torch.testing.assert_close(ours, skinny_linear_reference(x, weight, bias), **tolerance(dtype))
        for _ in range(5):  # equal, whichever split finishes last
            assert torch.equal(skinny_matmul(x, weight, bias, tiles=tiles), ours)


@pytest.mark.parametrize("tiles", MATMUL_TILES[:3], ids=str)
@pytest.mark.parametrize("rows", [2, 4, 9, 64])
@pytest.mark.parametrize(
    ("norm", "activation", "with_residual"),
    [
        ("rms", None, False),
        ("rms", "silu_and_mul", False),
        ("rms", "gelu_tanh_and_mul", False),
        ("layer", None, False),
        ("layer", "gelu_tanh", True),
        (None, "silu_and_mul", False),
        (None, None, True),
    ],
)
def test_skinny_matmul_with_its_neighbours(
    rows: int,
    norm: str | None,
    activation: Activation | None,
    with_residual: bool,
    tiles: MatmulTiles,
) -> None:
    source = generator(rows)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source).to(torch.bfloat16).to(DEVICE)

    x = random(rows, 768) + 0.5
    weight = random(2000 if activation in GATED_ACTIVATIONS else 1000, 768) * 0.03
    gain = random(768)
    before = {None: None, "rms": Norm(gain, 1e-6), "layer": Norm(gain, 1e-5, random(768), True)}[norm]
    parts = {"norm": before, "activation": activation, "residual": random(rows, 1000) if with_residual else None}
    bias = random(len(weight)) * 0.1
    ours = skinny_matmul(x, weight, bias, tiles=tiles, **parts)
    torch.testing.assert_close(ours, skinny_linear_reference(x, weight, bias, **parts), rtol=3e-2, atol=6e-2)


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_a_chain_with_dependent_launches_replays_in_a_graph(rows: int) -> None:
    """A kernel may start before its predecessor has finished, but must see its results, in every replay."""
    source = generator(0)
    weights = [(torch.randn(1024, 1024, generator=source) / 32).to(torch.bfloat16).to(DEVICE) for _ in range(20)]
    gain = torch.ones(1024, dtype=torch.bfloat16, device=DEVICE)
    x = torch.randn(rows, 1024, generator=source).to(torch.bfloat16).to(DEVICE)

    def chain(launch: bool) -> torch.Tensor:
        hidden = x
        for index, weight in enumerate(weights):
            parts = {"norm": Norm(gain, 1e-6), "residual": hidden}
            if not launch:
                hidden = skinny_linear_reference(hidden, weight, **parts)
            elif rows == 1:
                hidden = skinny_gemv(
                    hidden, weight, tiles=GemvTiles(2, 256, 1 + index % 2, 512, index % 3 // 2), **parts
                )
            else:
                hidden = skinny_matmul(hidden, weight, tiles=MATMUL_TILES[index % len(MATMUL_TILES)], **parts)
            hidden = (add_rms_norm if launch else add_rms_norm_reference)(hidden, None, gain, 1e-6)[0]
        return hidden

    chain(True)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = chain(True)
    for seed in range(5):
        x.copy_(torch.randn(rows, 1024, generator=generator(seed)))
        graph.replay()
        first = out.clone()
        torch.testing.assert_close(first, chain(False), rtol=0.1, atol=0.1)
        graph.replay()
        assert torch.equal(out, first)
