"""Find the fastest kernels and tiles for the linear layers of decode steps, and store them for later processes.

A candidate is timed inside a chain: a few layers of the model in one CUDA graph, with attention over a short context
and more weights than the device's caches hold. The time thus includes the effect on neighboring kernels: their waits
for each other, and work such as a norm that a candidate leaves to another kernel. The search is hill climbing. The four
products of a layer take turns moving to their best neighboring candidate, until none improves or time is up.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.linear_candidates import LIBRARY, Candidate, Product, first_candidates, fits, neighbors
from roseinfer.kernels.attention.append_and_attend import append_and_attend
from roseinfer.kernels.attention.projection import AttentionLayer, Projection
from roseinfer.kernels.linear.skinny_gemv import GemvTiles, gemv_tiles
from roseinfer.kernels.linear.skinny_linear import skinny_linear
from roseinfer.kernels.linear.skinny_matmul import MatmulTiles
from roseinfer.kernels.tuning import Choice, remember, replay_us, tuned
from roseinfer.models.decoder import DecoderLayer
from roseinfer.models.embedding import Embedding
from roseinfer.models.experts import ExpertsMLP
from roseinfer.models.gpt2 import GPT2Layer
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.rope import RotaryEmbedding

CONTEXT = 256
BLOCK_SIZE = 16
CHAIN_BYTES = 1 << 27
"""Minimum bytes of a chain's weights: more than a device's caches hold."""
LEAST_GAIN = 0.003
"""Minimum share of the time that a candidate must save; smaller differences are noise."""


class Attention:
    """Attention of a step for the layers of a chain: one new token per request, over CONTEXT tokens."""

    rows = None
    last_layer = -1

    def __init__(self, config: ModelConfig, rows: int, layers: int) -> None:
        blocks = CONTEXT // BLOCK_SIZE
        self.caches = [
            torch.randn(2, rows * blocks, BLOCK_SIZE, config.num_kv_heads, config.head_dim) for _ in range(layers)
        ]
        self.tables = torch.randperm(rows * blocks).view(rows, blocks).to(torch.int32)
        self.lengths = torch.full((rows,), CONTEXT - 3, dtype=torch.int32)
        self.positions = self.lengths - 1

    def attend(self, qkv: Tensor, layer: AttentionLayer) -> Tensor:
        keys, values = self.caches[layer.index]
        return append_and_attend(Projection(qkv, self.positions, layer), keys, values, self.tables, self.lengths)


class Chain:
    """A few layers with random weights, and the products of the first."""

    def __init__(self, config: ModelConfig, rows: int, *, apart_from_norms: bool = False) -> None:
        """With `apart_from_norms`, norms and residual additions are in the kernels between which the products run."""
        heads = config.num_heads * config.head_dim
        self.x = torch.randn(rows, config.hidden_size)
        rope = None if config.rope is None else RotaryEmbedding(config.rope, config.head_dim, CONTEXT)
        make: Callable[[ModelConfig, int], nn.Module] = (
            GPT2Layer if rope is None else lambda config, index: DecoderLayer(config, index, rope)
        )
        first = _filled(make(config, 0))
        layer_bytes = sum(weight.numel() * weight.element_size() for weight in first.parameters())
        self.count = max(2, -(-CHAIN_BYTES // layer_bytes))
        self.layers = [first, *(_filled(make(config, index)) for index in range(1, self.count))]
        self.attention = Attention(config, rows, self.count)
        layer: Any = first
        self.products = [
            Product("qkv", layer.attention.qkv, self.x, layer.attention_norm.description, None, None),
            Product("output", layer.attention.output, torch.randn(rows, heads), None, None, self.x),
        ]
        if isinstance(layer.mlp, ExpertsMLP):
            return  # benchmarks.tune_experts tunes its products
        widened, activation = (
            (layer.mlp.gate_up, "silu_and_mul") if config.rope is not None else (layer.mlp.up, layer.mlp.activation)
        )
        wide = torch.randn(rows, config.intermediate_size)
        self.products += [
            Product("up", widened, self.x, layer.mlp_norm.description, activation, None),
            Product("down", layer.mlp.down, wide, None, None, self.x),
        ]
        if apart_from_norms:
            self.products = [replace(product, norm=None, residual=None) for product in self.products]

    def run(self) -> None:
        hidden, residual = self.x, None
        for layer in self.layers:
            hidden, residual = layer(hidden, residual, self.attention)


class Head:
    """The language-model head alone, over several copies of its weight."""

    def __init__(self, config: ModelConfig, rows: int, *, apart_from_norms: bool = False) -> None:
        self.x = torch.randn(rows, config.hidden_size)
        size = 2 * config.vocab_size * config.hidden_size
        self.count = max(2, -(-CHAIN_BYTES // size))
        self.tables = [_filled(Embedding(config.vocab_size, config.hidden_size)) for _ in range(self.count)]
        self.products = [Product("head", self.tables[0], self.x, None, None, None)]

    def run(self) -> None:
        for head in self.tables:
            skinny_linear(self.x, head.table)


def _filled(module: Any) -> Any:
    for weight in module.parameters():
        weight.data.normal_(std=0.02)
    return module


class Tuner:
    """Hill climbing over the candidates of each product, within a time limit."""

    def __init__(self, device: torch.device, seconds: float, jobs: int) -> None:
        self.device = device
        self.end = time.monotonic() + seconds
        self.pool = ThreadPoolExecutor(jobs)
        self.known = tuned(device)

    def tune(self, chain: Chain | Head, deadline: float) -> dict[str, Any]:
        """Tune the chain's products and store the best candidates.

        Returns a report: us per layer before and after tuning and with cuBLAS only, and the best candidate per product.
        """
        products = chain.products
        before = {product.name: self._current(product) for product in products}
        library = self._time_with(chain, dict.fromkeys(before, LIBRARY))
        start = self._time_with(chain, before)
        # Every product starts with a fused kernel: a norm can be fused only if the residual before it is fused too.
        for product in products:
            _ = product.expected  # computed once, before threads read it
            if product.candidate.tiles is None:
                self._apply(product, self._first(product))
        best = self._time(chain)
        for product in products:
            product.report = {"default": str(before[product.name])}
            product.tried = {product.candidate}
            best = self._step(chain, product, self._measured(chain, product, first_candidates(product), deadline), best)
            self._say(product, best)
        while time.monotonic() < deadline and not all(product.settled for product in products):
            for product in products:
                if not product.settled and time.monotonic() < deadline:
                    found = self._measured(chain, product, neighbors(product, product.candidate), deadline)
                    was, best = best, self._step(chain, product, found, best)
                    product.settled = was == best
                    self._say(product, best)
        finished = all(product.settled for product in products)
        for product in products:
            candidates = [before[product.name], LIBRARY, replace(product.candidate, fused=not product.candidate.fused)]
            found = {
                candidate: self._time_with(chain, {product.name: candidate}, keep=False) for candidate in candidates
            }
            product.report |= {
                "us with default": round(found[candidates[0]], 2),
                "us with library": round(found[LIBRARY], 2),
            }
            best = self._step(chain, product, found, best)
        if min(library, start) < best:
            best = self._time_with(chain, before if start < library else dict.fromkeys(before, LIBRARY))
        choices: dict[str, Choice] = {}
        for product in products:
            choices |= product.choices(product.candidate)
        remember(self.device, choices)
        return {
            "us a layer": {"library": round(library, 2), "before": round(start, 2), "after": round(best, 2)},
            "finished": finished,
            "slots": {
                product.name: {"key": product.keys[0], "best": str(product.candidate), **product.report}
                for product in products
            },
        }

    def _current(self, product: Product) -> Candidate:
        """Return the candidate that skinny_linear runs now."""
        fused, apart = (self.known.get(key) for key in product.keys)
        kind: Any = GemvTiles if len(product.x) == 1 else MatmulTiles
        if fused:
            return Candidate(True, kind(*fused))
        if fused is None and kind is GemvTiles:
            return Candidate(True, gemv_tiles(product.weight.shape[1], gated=product.gated))
        return Candidate(False, kind(*apart)) if apart else LIBRARY

    def _first(self, product: Product) -> Candidate:
        """Return the first fused candidate that works on this device, or the library."""
        return next(
            (candidate for candidate in first_candidates(product) if candidate.fused and _works(product, candidate)),
            LIBRARY,
        )

    def _time_with(self, chain: Chain | Head, candidates: dict[str, Candidate], *, keep: bool = True) -> float:
        before = [(product, product.candidate) for product in chain.products]
        for product in chain.products:
            if product.name in candidates:
                self._apply(product, candidates[product.name])
        found = self._time(chain)
        if not keep:
            for product, candidate in before:
                self._apply(product, candidate)
        return found

    def _apply(self, product: Product, candidate: Candidate) -> None:
        product.candidate = candidate
        self.known.update(product.choices(candidate))

    def _time(self, chain: Chain | Head) -> float:
        return replay_us(chain.run, runs=12) / chain.count

    def _measured(
        self, chain: Chain | Head, product: Product, candidates: Iterable[Candidate], deadline: float
    ) -> dict[Candidate, float]:
        """Return us per layer of each candidate not tried before; candidates past the deadline are left out."""
        new = [
            candidate
            for candidate in dict.fromkeys(candidates)
            if candidate not in product.tried and (candidate.tiles is None or fits(product, candidate.tiles))
        ]
        product.tried.update(new)
        usable = list(self.pool.map(partial(_works, product), new))  # compile in parallel
        kept, found = product.candidate, {}
        for candidate, works in zip(new, usable, strict=True):
            if works and time.monotonic() < deadline:
                self._apply(product, candidate)
                found[candidate] = self._time(chain)
        self._apply(product, kept)
        return found

    def _step(self, chain: Chain | Head, product: Product, found: dict[Candidate, float], best: float) -> float:
        """Move to the best candidate found, if a second measurement confirms it; return the best us per layer."""
        kept = product.candidate
        for candidate in sorted(found, key=found.__getitem__)[:2]:
            if found[candidate] < best * (1 - LEAST_GAIN):
                self._apply(product, candidate)
                again = self._time(chain)
                if again < best * (1 - LEAST_GAIN):
                    return again
        self._apply(product, kept)
        return best

    def _say(self, product: Product, best: float) -> None:
        at = f"{len(product.tried):3} tried, {self.end - time.monotonic():4.0f} s left"
        print(
            f"  {product.name:7}{product.keys[0]:48} {best:9.2f} us a layer, {at}: {product.candidate}",
            file=sys.stderr,
            flush=True,
        )


def _works(product: Product, candidate: Candidate) -> bool:
    problem = None if candidate.tiles is None else product.problem(candidate)
    if problem is not None:
        print(f"  {product.name}: {candidate}: {problem}", file=sys.stderr, flush=True)
    return problem is None


def tune_linears(
    models: dict[str, ModelConfig],
    rows: Iterable[int],
    device: torch.device,
    dtype: torch.dtype,
    seconds: float,
    jobs: int = 8,
    *,
    apart_from_norms: bool = False,
) -> list[dict[str, Any]]:
    """Tune the linear layers and head of each model for each number of rows; return one report per chain."""
    tuner = Tuner(device, seconds, jobs)
    # (model, rows, chain, share of the time): layers need more time than a head.
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
                result |= tuner.tune(kind(models[name], count, apart_from_norms=apart_from_norms), deadline)
            except Exception as error:  # report it and tune the others
                result["error"] = f"{type(error).__name__}: {str(error)[:300]}"
            torch.cuda.empty_cache()
            print(json.dumps(result), file=sys.stderr, flush=True)
            results.append(result)
    torch.set_default_dtype(torch.float32)
    return results
