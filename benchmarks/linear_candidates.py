"""Candidates for computing the products of a decode step's layers: kernels, tiles and what is fused."""

from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from roseinfer.kernels.activations import Activation
from roseinfer.kernels.linear.skinny_gemv import GemvTiles, gemv_tiles, skinny_gemv
from roseinfer.kernels.linear.skinny_linear import linear_key, skinny_linear_reference
from roseinfer.kernels.linear.skinny_matmul import MatmulTiles, padded_rows, skinny_matmul
from roseinfer.kernels.norms import Norm
from roseinfer.kernels.tuning import Choice
from roseinfer.models.embedding import Embedding
from roseinfer.models.linear import Linear

Tiles = GemvTiles | MatmulTiles

SHARED_BYTES = 220 << 10
"""Maximum bytes of shared memory for the operands that a program has in flight."""


@dataclass(frozen=True)
class Candidate:
    """One way to compute a product: a fused kernel, a kernel for the product alone, or cuBLAS if `tiles` is None."""

    fused: bool
    tiles: Tiles | None

    def __str__(self) -> str:
        if self.tiles is None:
            return "library"
        return f"{'fused' if self.fused else 'apart'} {astuple(self.tiles)}"


LIBRARY = Candidate(False, None)


@dataclass
class Product:
    """One of a layer's matrix products with its inputs, and the state of its search."""

    name: str
    linear: Linear | Embedding
    x: Tensor
    norm: Norm | None
    activation: Activation | None
    residual: Tensor | None
    candidate: Candidate = LIBRARY
    tried: set[Candidate] = field(default_factory=set)
    settled: bool = False
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def weight(self) -> Tensor:
        return self.linear.table if isinstance(self.linear, Embedding) else self.linear.weight

    @property
    def gated(self) -> bool:
        return self.activation == "silu_and_mul"

    @property
    def keys(self) -> tuple[str, str]:
        """Tuning keys of the product with norm and residual fused, and without them."""
        rows = len(self.x)
        return (
            linear_key(rows, self.weight, self.norm, self.activation, self.residual),
            linear_key(rows, self.weight, None, self.activation, None),
        )

    def choices(self, candidate: Candidate) -> dict[str, Choice]:
        fused, apart = self.keys
        choice: Choice = () if candidate.tiles is None else astuple(candidate.tiles)
        return {fused: choice if candidate.fused or fused == apart else (), apart: choice}

    @property
    def bias(self) -> Tensor | None:
        return None if isinstance(self.linear, Embedding) else self.linear.bias

    @cached_property
    def expected(self) -> dict[bool, Tensor]:
        """Reference results with norm and residual fused (True), and without them (False)."""
        plain = {"activation": self.activation}
        whole = {**plain, "norm": self.norm, "residual": self.residual}
        return {
            fused: skinny_linear_reference(self.x, self.weight, self.bias, **parts)
            for fused, parts in ((True, whole), (False, plain))
        }

    def problem(self, candidate: Candidate) -> str | None:
        """Compile and launch the candidate's kernel; return why it cannot be used, or None."""
        kernel: Any = skinny_gemv if isinstance(candidate.tiles, GemvTiles) else skinny_matmul
        parts: dict[str, Any] = {"norm": self.norm, "residual": self.residual} if candidate.fused else {}
        try:
            out = kernel(self.x, self.weight, self.bias, activation=self.activation, tiles=candidate.tiles, **parts)
            error = (out - self.expected[candidate.fused]).abs().max() / self.expected[candidate.fused].abs().max()
            if not error.item() < 0.03:  # also true for NaN
                return f"wrong by {error.item():.3f} of the largest result"
        except Exception as error:  # such as too much shared memory: skip the candidate
            return f"{type(error).__name__}: {str(error)[:120]!r}"
        return None


def first_candidates(product: Product) -> Iterator[Candidate]:
    """Yield the candidates to start from: tiles of each width, with enough splits to fill the device."""
    outputs, size = product.weight.shape
    outputs //= 2 if product.gated else 1
    if len(product.x) == 1:
        default = gemv_tiles(size, gated=product.gated)
        wider = replace(default, outputs=default.outputs * 2, num_warps=default.num_warps * 2)
        seeds: list[Tiles] = [default, wider, replace(default, prefetch=1024), replace(wider, prefetch=1024)]
    else:
        seeds = []
        for width in (16, 32, 64, 128):
            programs = -(-outputs // width)
            splits = 1
            while programs * splits < 100 and size // (splits * 2) >= 128:
                splits *= 2
            warps = 8 if width == 128 or (product.gated and width == 64) else 4
            seeds.append(MatmulTiles(width, 64 if size % 128 or product.gated else 128, splits, warps, 3, 256))
    for tiles in seeds:
        if fits(product, tiles):
            yield Candidate(True, tiles)
            if product.norm is not None or product.residual is not None:
                yield Candidate(False, tiles)


def neighbors(product: Product, candidate: Candidate) -> Iterator[Candidate]:
    """Yield the candidates that differ in one parameter, or in two that trade off against each other."""
    tiles = candidate.tiles
    if tiles is None:
        return
    yield replace(candidate, fused=not candidate.fused)
    yield replace(candidate, tiles=replace(tiles, early=1 - tiles.early))
    if isinstance(tiles, GemvTiles):
        changes: list[dict[str, float]] = [
            {"outputs": 2},
            {"outputs": 0.5},
            {"columns": 2},
            {"columns": 0.5},
            {"num_warps": 2},
            {"num_warps": 0.5},
            {"outputs": 2, "num_warps": 2},
            {"outputs": 0.5, "num_warps": 0.5},
            {"outputs": 2, "columns": 0.5},
            {"outputs": 0.5, "columns": 2},
            {"columns": 2, "num_warps": 2},
            {"columns": 0.5, "num_warps": 0.5},
        ]
        prefetches = {0, 512, 1024, 4096}
    else:
        changes = [
            {"outputs": 2},
            {"outputs": 0.5},
            {"columns": 2},
            {"columns": 0.5},
            {"splits": 2},
            {"splits": 0.5},
            {"splits": 1.5},
            {"num_warps": 2},
            {"num_warps": 0.5},
            {"outputs": 2, "splits": 2},
            {"outputs": 0.5, "splits": 0.5},
        ]
        prefetches = {0, 128, 256, 512, 1024}
        for stages in (tiles.num_stages - 1, tiles.num_stages + 1):
            yield replace(candidate, tiles=replace(tiles, num_stages=stages))
    values = asdict(tiles)
    for change in changes:
        changed = {name: values[name] * factor for name, factor in change.items()}
        if all(value == int(value) > 0 for value in changed.values()):
            yield replace(candidate, tiles=replace(tiles, **{name: int(value) for name, value in changed.items()}))
    near = [tiles.prefetch // 2, tiles.prefetch * 2, 0, 256, 1024]
    for prefetch in prefetches.intersection(near) - {tiles.prefetch}:
        yield replace(candidate, tiles=replace(tiles, prefetch=prefetch))


def fits(product: Product, tiles: Tiles) -> bool:
    """True if the tiles respect the device's limits and are likely enough to be fast to try them."""
    outputs, size = product.weight.shape
    matrices = 2 if product.gated else 1
    programs = -(-outputs // matrices // tiles.outputs)
    if isinstance(tiles, GemvTiles):
        per_thread = tiles.outputs * tiles.columns * matrices // (32 * tiles.num_warps)
        return (
            tiles.outputs <= 16
            and 128 <= tiles.columns <= min(4096, 2 * size)
            and tiles.num_warps <= 16
            and 8 <= per_thread <= 64
        )
    padded = padded_rows(len(product.x))
    in_flight = tiles.num_stages * tiles.columns * (tiles.outputs * matrices + padded) * product.x.element_size()
    sums = tiles.outputs * matrices * padded // (32 * tiles.num_warps)
    return (
        16 <= tiles.outputs <= 256
        and 32 <= tiles.columns <= 256
        and tiles.splits <= 32
        and size // tiles.splits >= tiles.columns
        and programs * tiles.splits <= max(1056, programs)
        and 4 <= tiles.num_warps <= 8
        and 2 <= tiles.num_stages <= 6
        and in_flight <= SHARED_BYTES
        and sums <= 128
    )
