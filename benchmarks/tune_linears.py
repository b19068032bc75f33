"""Measure how the linear layers of decode steps are computed fastest, and keep what wins.

A candidate is timed inside a chain: some layers of the model as it runs them, with attention over a short context and
more weights than the device caches, in one CUDA graph. So a kernel pays for what it does to its neighbours: it waits
for one and is waited for by the other, and what it does not take along they must do. Each layer's four products climb
in turn, a step to the best neighbour at a time, until none gets better or time is up.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from roseinfer.kernels.activations import Activation
from roseinfer.kernels.attention.paged_decode import append_and_attend
from roseinfer.kernels.linear.skinny_gemv import GemvTiles, gemv_tiles, skinny_gemv
from roseinfer.kernels.linear.skinny_linear import linear_key, skinny_linear, skinny_linear_reference
from roseinfer.kernels.linear.skinny_matmul import MatmulTiles, padded_rows, skinny_matmul
from roseinfer.kernels.norms import Norm
from roseinfer.kernels.tuning import Choice, remember, replay_us, tuned
from roseinfer.models.decoder import DecoderLayer
from roseinfer.models.embedding import Embedding
from roseinfer.models.gpt2 import GPT2Layer
from roseinfer.models.linear import Linear
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.rope import RotaryEmbedding

Tiles = GemvTiles | MatmulTiles

CONTEXT = 256
BLOCK_SIZE = 16
CHAIN_BYTES = 1 << 27
"""More weights than a device keeps close."""
SHARED_BYTES = 220 << 10
"""What a program's operands in flight may take."""
LEAST_GAIN = 0.003
"""A share of the time that is more than chance."""


@dataclass(frozen=True)
class Way:
    """How a slot is computed: by one kernel, by a kernel for the product and others for the rest, or by the library."""

    fused: bool
    tiles: Tiles | None

    def __str__(self) -> str:
        if self.tiles is None:
            return "library"
        return f"{'fused' if self.fused else 'apart'} {astuple(self.tiles)}"


LIBRARY = Way(False, None)


@dataclass
class Slot:
    """One of the products of a layer."""

    name: str
    linear: Linear | Embedding
    x: Tensor
    norm: Norm | None
    activation: Activation | None
    residual: Tensor | None
    way: Way = LIBRARY
    tried: set[Way] = field(default_factory=set)
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
        """Of the product with all that can be fused to it, and without what may stay apart."""
        rows = len(self.x)
        return (
            linear_key(rows, self.weight, self.norm, self.activation, self.residual),
            linear_key(rows, self.weight, None, self.activation, None),
        )

    def choices(self, way: Way) -> dict[str, Choice]:
        fused, apart = self.keys
        choice: Choice = () if way.tiles is None else astuple(way.tiles)
        return {fused: choice if way.fused or fused == apart else (), apart: choice}

    @property
    def bias(self) -> Tensor | None:
        return None if isinstance(self.linear, Embedding) else self.linear.bias

    @cached_property
    def expected(self) -> dict[bool, Tensor]:
        """The right results, with all that can be fused and without what may stay apart."""
        plain = {"activation": self.activation}
        whole = {**plain, "norm": self.norm, "residual": self.residual}
        return {
            fused: skinny_linear_reference(self.x, self.weight, self.bias, **parts)
            for fused, parts in ((True, whole), (False, plain))
        }

    def problem(self, way: Way) -> str | None:
        """Launch the kernel alone, which compiles it; what speaks against it."""
        kernel: Any = skinny_gemv if isinstance(way.tiles, GemvTiles) else skinny_matmul
        parts: dict[str, Any] = {"norm": self.norm, "residual": self.residual} if way.fused else {}
        try:
            out = kernel(self.x, self.weight, self.bias, activation=self.activation, tiles=way.tiles, **parts)
            error = (out - self.expected[way.fused]).abs().max() / self.expected[way.fused].abs().max()
            if not error.item() < 0.03:
                return f"wrong by {error.item():.3f} of the largest result"
        except Exception as error:  # no room on the device, or a compiler's limit: one candidate less
            return f"{type(error).__name__}: {str(error)[:120]!r}"
        return None


class Attention:
    """What layers take for a step: one new token each for some requests."""

    takes_projection = True

    def __init__(self, config: ModelConfig, rows: int, layers: int) -> None:
        blocks = CONTEXT // BLOCK_SIZE
        self.caches = [
            torch.randn(2, rows * blocks, BLOCK_SIZE, config.num_kv_heads, config.head_dim) for _ in range(layers)
        ]
        self.tables = torch.randperm(rows * blocks).view(rows, blocks).to(torch.int32)
        self.lengths = torch.full((rows,), CONTEXT - 3, dtype=torch.int32)
        self.rope = None
        if config.rope is not None:
            self.rope = RotaryEmbedding(config.rope, config.head_dim, CONTEXT).table

    def append_and_attend(
        self,
        layer: int,
        qkv: Tensor,
        num_heads: int,
        _num_kv_heads: int,
        _head_dim: int,
        q_norm: Any = None,
        k_norm: Any = None,
    ) -> Tensor:
        keys, values = self.caches[layer]
        return append_and_attend(
            qkv,
            self.rope,
            keys,
            values,
            self.tables,
            self.lengths,
            num_heads,
            None if q_norm is None else q_norm.weight,
            None if k_norm is None else k_norm.weight,
        )


class Chain:
    """Layers with random weights, and their slots."""

    def __init__(self, config: ModelConfig, rows: int) -> None:
        heads = config.num_heads * config.head_dim
        self.x = torch.randn(rows, config.hidden_size)
        make: Callable[[ModelConfig, int], nn.Module] = DecoderLayer if config.rope is not None else GPT2Layer
        first = _filled(make(config, 0))
        layer_bytes = sum(weight.numel() * weight.element_size() for weight in first.parameters())
        self.count = max(2, -(-CHAIN_BYTES // layer_bytes))
        self.layers = [first, *(_filled(make(config, index)) for index in range(1, self.count))]
        self.attention = Attention(config, rows, self.count)
        layer: Any = first
        widened, activation = (
            (layer.gate_up, "silu_and_mul") if config.rope is not None else (layer.up, layer.activation)
        )
        wide = torch.randn(rows, config.intermediate_size)
        self.slots = [
            Slot("qkv", layer.qkv, self.x, layer.attention_norm.description, None, None),
            Slot("output", layer.output, torch.randn(rows, heads), None, None, self.x),
            Slot("up", widened, self.x, layer.mlp_norm.description, activation, None),
            Slot("down", layer.down, wide, None, None, self.x),
        ]

    def run(self) -> None:
        hidden, residual = self.x, None
        for layer in self.layers:
            hidden, residual = layer(hidden, residual, self.attention)


class Head:
    """The last product alone."""

    def __init__(self, config: ModelConfig, rows: int) -> None:
        self.x = torch.randn(rows, config.hidden_size)
        size = 2 * config.vocab_size * config.hidden_size
        self.count = max(2, -(-CHAIN_BYTES // size))
        self.tables = [_filled(Embedding(config.vocab_size, config.hidden_size)) for _ in range(self.count)]
        self.slots = [Slot("head", self.tables[0], self.x, None, None, None)]

    def run(self) -> None:
        for head in self.tables:
            skinny_linear(self.x, head.table)


def _filled(module: Any) -> Any:
    for weight in module.parameters():
        weight.data.normal_(std=0.02)
    return module


def default_ways(slot: Slot) -> Iterator[Way]:
    """Where to begin: tiles of each width, with as many splits as fill the device."""
    outputs, size = slot.weight.shape
    outputs //= 2 if slot.gated else 1
    if len(slot.x) == 1:
        default = gemv_tiles(size, gated=slot.gated)
        wider = replace(default, outputs=default.outputs * 2, num_warps=default.num_warps * 2)
        seeds: list[Tiles] = [default, wider, replace(default, prefetch=1024), replace(wider, prefetch=1024)]
    else:
        seeds = []
        for width in (16, 32, 64, 128):
            programs = -(-outputs // width)
            splits = 1
            while programs * splits < 100 and size // (splits * 2) >= 128:
                splits *= 2
            warps = 8 if width == 128 or (slot.gated and width == 64) else 4
            seeds.append(MatmulTiles(width, 64 if size % 128 or slot.gated else 128, splits, warps, 3, 256))
    for tiles in seeds:
        if _fits(slot, tiles):
            yield Way(True, tiles)
            if slot.norm is not None or slot.residual is not None:
                yield Way(False, tiles)


def neighbours(slot: Slot, way: Way) -> Iterator[Way]:
    """Ways that differ in one thing, or in two that go together."""
    tiles = way.tiles
    if tiles is None:
        return
    yield replace(way, fused=not way.fused)
    yield replace(way, tiles=replace(tiles, early=1 - tiles.early))
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
            yield replace(way, tiles=replace(tiles, num_stages=stages))
    values = asdict(tiles)
    for change in changes:
        changed = {name: values[name] * factor for name, factor in change.items()}
        if all(value == int(value) > 0 for value in changed.values()):
            yield replace(way, tiles=replace(tiles, **{name: int(value) for name, value in changed.items()}))
    near = [tiles.prefetch // 2, tiles.prefetch * 2, 0, 256, 1024]
    for prefetch in prefetches.intersection(near) - {tiles.prefetch}:
        yield replace(way, tiles=replace(tiles, prefetch=prefetch))


def _fits(slot: Slot, tiles: Tiles) -> bool:
    """Whether such tiles are worth compiling."""
    outputs, size = slot.weight.shape
    matrices = 2 if slot.gated else 1
    programs = -(-outputs // matrices // tiles.outputs)
    if isinstance(tiles, GemvTiles):
        per_thread = tiles.outputs * tiles.columns * matrices // (32 * tiles.num_warps)
        return (
            tiles.outputs <= 16
            and 128 <= tiles.columns <= min(4096, 2 * size)
            and tiles.num_warps <= 16
            and 8 <= per_thread <= 64
        )
    padded = padded_rows(len(slot.x))
    in_flight = tiles.num_stages * tiles.columns * (tiles.outputs * matrices + padded) * slot.x.element_size()
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


class Tuner:
    """Climbs until its time is up."""

    def __init__(self, device: torch.device, seconds: float, jobs: int) -> None:
        self.device = device
        self.end = time.monotonic() + seconds
        self.pool = ThreadPoolExecutor(jobs)
        self.known = tuned(device)

    def tune(self, chain: Chain | Head, deadline: float) -> dict[str, Any]:
        """The chain's slots; microseconds a layer before and after, and with only the library."""
        slots = chain.slots
        before = {slot.name: self._current(slot) for slot in slots}
        library = self._time_with(chain, dict.fromkeys(before, LIBRARY))
        start = self._time_with(chain, before)
        # All slots set out with a kernel: a norm can only be inside one where the residual before it is, too.
        for slot in slots:
            _ = slot.expected  # made once, before there are threads
            if slot.way.tiles is None:
                self._apply(slot, self._first(slot))
        best = self._time(chain)
        for slot in slots:
            slot.report = {"default": str(before[slot.name])}
            slot.tried = {slot.way}
            best = self._step(chain, slot, self._measured(chain, slot, default_ways(slot), deadline), best)
            self._say(slot, best)
        while time.monotonic() < deadline and not all(slot.settled for slot in slots):
            for slot in slots:
                if not slot.settled and time.monotonic() < deadline:
                    found = self._measured(chain, slot, neighbours(slot, slot.way), deadline)
                    was, best = best, self._step(chain, slot, found, best)
                    slot.settled = was == best
                    self._say(slot, best)
        finished = all(slot.settled for slot in slots)
        for slot in slots:
            ways = [before[slot.name], LIBRARY, replace(slot.way, fused=not slot.way.fused)]
            found = {way: self._time_with(chain, {slot.name: way}, keep=False) for way in ways}
            slot.report |= {"us with default": round(found[ways[0]], 2), "us with library": round(found[LIBRARY], 2)}
            best = self._step(chain, slot, found, best)
        if min(library, start) < best:
            best = self._time_with(chain, before if start < library else dict.fromkeys(before, LIBRARY))
        choices: dict[str, Choice] = {}
        for slot in slots:
            choices |= slot.choices(slot.way)
        remember(self.device, choices)
        return {
            "us a layer": {"library": round(library, 2), "before": round(start, 2), "after": round(best, 2)},
            "finished": finished,
            "slots": {slot.name: {"key": slot.keys[0], "best": str(slot.way), **slot.report} for slot in slots},
        }

    def _current(self, slot: Slot) -> Way:
        """As skinny_linear would do it now."""
        fused, apart = (self.known.get(key) for key in slot.keys)
        kind: Any = GemvTiles if len(slot.x) == 1 else MatmulTiles
        if fused:
            return Way(True, kind(*fused))
        if fused is None and kind is GemvTiles:
            return Way(True, gemv_tiles(slot.weight.shape[1], gated=slot.gated))
        return Way(False, kind(*apart)) if apart else LIBRARY

    def _first(self, slot: Slot) -> Way:
        """The first of the ways to begin with that works here."""
        return next((way for way in default_ways(slot) if way.fused and _works(slot, way)), LIBRARY)

    def _time_with(self, chain: Chain | Head, ways: dict[str, Way], *, keep: bool = True) -> float:
        before = [(slot, slot.way) for slot in chain.slots]
        for slot in chain.slots:
            if slot.name in ways:
                self._apply(slot, ways[slot.name])
        found = self._time(chain)
        if not keep:
            for slot, way in before:
                self._apply(slot, way)
        return found

    def _apply(self, slot: Slot, way: Way) -> None:
        slot.way = way
        self.known.update(slot.choices(way))

    def _time(self, chain: Chain | Head) -> float:
        return replay_us(chain.run, runs=12) / chain.count

    def _measured(self, chain: Chain | Head, slot: Slot, ways: Iterable[Way], deadline: float) -> dict[Way, float]:
        """Microseconds a layer of each new way, as far as time allows."""
        new = [
            way
            for way in dict.fromkeys(ways)
            if way not in slot.tried and (way.tiles is None or _fits(slot, way.tiles))
        ]
        slot.tried.update(new)
        usable = list(self.pool.map(partial(_works, slot), new))  # compiled side by side
        kept, found = slot.way, {}
        for way, works in zip(new, usable, strict=True):
            if works and time.monotonic() < deadline:
                self._apply(slot, way)
                found[way] = self._time(chain)
        self._apply(slot, kept)
        return found

    def _step(self, chain: Chain | Head, slot: Slot, found: dict[Way, float], best: float) -> float:
        """To the best of what was found, if a second look confirms it."""
        kept = slot.way
        for way in sorted(found, key=found.__getitem__)[:2]:
            if found[way] < best * (1 - LEAST_GAIN):
                self._apply(slot, way)
                again = self._time(chain)
                if again < best * (1 - LEAST_GAIN):
                    return again
        self._apply(slot, kept)
        return best

    def _say(self, slot: Slot, best: float) -> None:
        at = f"{len(slot.tried):3} tried, {self.end - time.monotonic():4.0f} s left"
        print(
            f"  {slot.name:7}{slot.keys[0]:48} {best:9.2f} us a layer, {at}: {slot.way}",
            file=sys.stderr,
            flush=True,
        )


def _works(slot: Slot, way: Way) -> bool:
    problem = None if way.tiles is None else slot.problem(way)
    if problem is not None:
        print(f"  {slot.name}: {way}: {problem}", file=sys.stderr, flush=True)
    return problem is None


def tune_linears(
    models: dict[str, ModelConfig],
    rows: Iterable[int],
    device: torch.device,
    dtype: torch.dtype,
    seconds: float,
    jobs: int = 8,
) -> list[dict[str, Any]]:
    """For each model and number of rows what was fastest; kept for later processes, too."""
    tuner = Tuner(device, seconds, jobs)
    # Chains of layers take most of the time; a model's head comes right after its layers.
    shares = [
        (name, count, kind, share) for count in rows for name in models for kind, share in ((Chain, 4), (Head, 1))
    ]
    results = []
    torch.set_default_dtype(dtype)
    with torch.device(device):
        for index, (name, count, kind, share) in enumerate(shares):
            left = sum(share for *_, share in shares[index:])
            now = time.monotonic()
            deadline = now + (tuner.end - now) * share / left
            result: dict[str, Any] = {"model": name, "rows": count, "part": kind.__name__.lower()}
            print(f"{name}, {count} rows, {result['part']}", file=sys.stderr, flush=True)
            try:
                result |= tuner.tune(kind(models[name], count), deadline)
            except Exception as error:  # the others' results are worth having
                result["error"] = f"{type(error).__name__}: {str(error)[:300]}"
            torch.cuda.empty_cache()
            print(json.dumps(result), file=sys.stderr, flush=True)
            results.append(result)
    torch.set_default_dtype(torch.float32)
    return results
