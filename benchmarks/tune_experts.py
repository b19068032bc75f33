"""Check the kernels of experts on this GPU, find the fastest tiles, and store them for later processes.

    python -m benchmarks.tune_experts [--model qwen3-30b-a3b] [--tokens 1,64,4096] [--check-only]

Each product is timed by itself in a CUDA graph, over several random routings in turn, so that the caches hold no
expert from one call to the next. A row is printed as soon as it is measured; the last line is JSON, with the choices.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from roseinfer.kernels.experts.expert_order import order_by_expert
from roseinfer.kernels.experts.expert_weights import StackedExperts
from roseinfer.kernels.experts.experts_mlp import (
    Tiles,
    as_choice,
    default_tiles,
    experts_key,
    experts_mlp_loop,
    experts_mlp_triton,
)
from roseinfer.kernels.experts.grouped_products import GroupTiles, grouped_down, grouped_gate_up, sum_pairs
from roseinfer.kernels.experts.routing import Routing, route, route_reference
from roseinfer.kernels.experts.token_products import TokenTiles, token_down, token_gate_up
from roseinfer.kernels.tuning import remember, replay_us
from roseinfer.models.shapes import SHAPES

ROUTINGS = 6
"""Routings per graph: their experts do not fit into the caches together."""
MAX_TOKENS_EACH = 16
"""Maximum tokens for which products token by token are tried."""

TOKEN_TILES = {
    "gate_up": [
        TokenTiles(*each)
        for each in (
            (2, 1024, 4),
            (2, 2048, 8),
            (1, 2048, 4),
            (4, 512, 4),
            (4, 1024, 8),
            (2, 512, 2),
            (1, 1024, 2),
            (8, 256, 4),
            (4, 256, 2),
        )
    ],
    "down": [
        TokenTiles(*each)
        for each in (
            (4, 256, 2),
            (8, 256, 2),
            (8, 256, 4),
            (2, 256, 1),
            (2, 256, 2),
            (16, 256, 4),
            (4, 128, 1),
            (2, 1024, 4),
            (4, 512, 4),
        )
    ],
}
FEW_ROWS = (
    (32, 128, 16, 4, 4),
    (64, 128, 16, 4, 3),
    (64, 128, 16, 4, 4),
    (64, 64, 16, 4, 5),
    (64, 128, 16, 8, 3),
    (32, 256, 16, 4, 3),
    (128, 64, 16, 8, 4),
    (128, 128, 16, 8, 3),
)
MANY_ROWS = (
    (128, 64, 8, 8, 3),
    (128, 64, 16, 8, 4),
    (128, 32, 8, 8, 4),
    (64, 64, 8, 4, 4),
    (128, 64, 8, 4, 3),
    (256, 64, 8, 8, 3),
    (128, 128, 8, 8, 3),
)


class Layer:
    """The experts of one layer with random weights, and routings of some tokens."""

    def __init__(self, num_experts: int, top_k: int, width: int, size: int) -> None:
        self.gate_up = StackedExperts(torch.randn(num_experts * 2 * width, size).mul_(size**-0.5), num_experts)
        self.down = StackedExperts(torch.randn(num_experts * size, width).mul_(width**-0.5), num_experts)
        self.router = torch.randn(num_experts, size).mul_(size**-0.5)
        self.top_k = top_k

    def routings(self, tokens: int) -> list[Routing]:
        """Return routings of random tokens: all choices of experts are equally likely."""
        return [
            Routing(
                torch.rand(tokens, len(self.router), dtype=torch.float32).topk(self.top_k).indices.to(torch.int32),
                torch.full((tokens, self.top_k), 1.0 / self.top_k, dtype=torch.float32),
            )
            for _ in range(ROUTINGS)
        ]


def check(layer: Layer, dtype: torch.dtype) -> None:
    """Print the largest relative error of the kernels against the loop over experts in float32."""
    size, experts = layer.router.shape[1], len(layer.router)
    wide = [StackedExperts(each.weight.float(), experts) for each in (layer.gate_up, layer.down)]
    narrow = [StackedExperts(each.weight.to(dtype), experts) for each in (layer.gate_up, layer.down)]
    for tokens in (1, 2, 3, 17, 64, 300, 2000):
        x = torch.randn(tokens, size).to(dtype)
        found = route(x, layer.router.to(dtype), None, layer.top_k, normalized=True)
        exact = route_reference(x, layer.router.to(dtype), None, layer.top_k, normalized=True)
        differing = int((found.experts != exact.experts).sum())
        expected = experts_mlp_loop(x.float(), exact, wide[0], wide[1], "silu_and_mul")
        residual = torch.randn(tokens, size).to(dtype)
        errors = {}
        kinds: list[Tiles] = [default_tiles(tokens, layer.top_k, narrow[0]), (GroupTiles(64, 64, 64, 8, 4, 3),) * 2]
        kinds += [(TOKEN_TILES["gate_up"][0], TOKEN_TILES["down"][0])] if tokens <= 64 else []
        for tiles in kinds:
            out = experts_mlp_triton(x, exact, narrow[0], narrow[1], "silu_and_mul", residual, tiles=tiles)
            error = (out.float() - residual.float() - expected).norm() / expected.norm()
            again = experts_mlp_triton(x, exact, narrow[0], narrow[1], "silu_and_mul", residual, tiles=tiles)
            errors[type(tiles[0]).__name__ + str(getattr(tiles[0], "rows", ""))] = (
                f"{error:.1e}{'' if torch.equal(out, again) else ' NOT REPEATABLE'}"
            )
        print(f"check {dtype} {tokens:5} tokens: {differing} experts differ; relative errors {errors}", flush=True)


def products(layer: Layer, tokens: int) -> dict[str, tuple[list[Any], Callable[[Any], Callable[[], None]]]]:
    """Return candidates of tiles by product, and for each product a function from tiles to the function to time."""
    size, experts = layer.router.shape[1], len(layer.router)
    width = layer.down.stacked.shape[2]
    x, active = torch.randn(tokens, size), torch.randn(tokens * layer.top_k, width)
    routings = layer.routings(tokens)
    orders = [order_by_expert(each.experts, experts) for each in routings]

    def each_routing(call: Callable[[Routing, Any], object]) -> Callable[[], None]:
        def run() -> None:
            for routing, order in zip(routings, orders, strict=True):
                call(routing, order)

        return run

    up, down = layer.gate_up.stacked, layer.down.stacked
    found: dict[str, tuple[list[Any], Callable[[Any], Callable[[], None]]]] = {}
    if tokens <= MAX_TOKENS_EACH:
        found["token gate_up"] = (
            TOKEN_TILES["gate_up"],
            lambda tiles: each_routing(lambda r, _: token_gate_up(x, r, up, None, "silu_and_mul", tiles)),
        )
        found["token down"] = (
            TOKEN_TILES["down"],
            lambda tiles: each_routing(lambda r, _: token_down(active, r, down, None, x, tiles)),
        )
    mean = tokens * layer.top_k / experts
    rows = [16] if mean <= 6 else [16, 32] if mean <= 24 else [32, 64] if mean <= 48 else [64, 128]
    candidates = [GroupTiles(count, *each) for count in rows for each in (FEW_ROWS if mean <= 48 else MANY_ROWS)]
    if tokens > 1:
        found["group gate_up"] = (
            candidates,
            lambda tiles: each_routing(
                lambda _, order: grouped_gate_up(x, order, layer.top_k, up, None, "silu_and_mul", tiles)
            ),
        )
        found["group down"] = (
            candidates,
            lambda tiles: each_routing(lambda r, order: grouped_down(active, order, r.weights, down, None, tiles)),
        )
    return found


def compiled(tiles: Any, timed: Callable[[Any], Callable[[], None]]) -> str | None:
    """Compile the kernel for some tiles; return what is wrong with them, or None."""
    try:
        timed(tiles)()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    return None


def tune(layer: Layer, tokens: int, pool: ThreadPoolExecutor, device: torch.device) -> dict[str, tuple[int, ...]]:
    """Time the candidates for a number of tokens, print the best, and return the choice."""
    size, experts = layer.router.shape[1], len(layer.router)
    hits = experts * (1 - (1 - layer.top_k / experts) ** tokens)
    best: dict[str, Any] = {}
    total: dict[str, float] = {"token": 0.0, "group": 0.0}
    for name, (candidates, timed) in products(layer, tokens).items():
        problems = list(pool.map(partial(_compiled_in, device, timed), candidates))
        times = {}
        for tiles, problem in zip(candidates, problems, strict=True):
            if problem is None:
                times[tiles] = replay_us(timed(tiles), runs=6) / ROUTINGS
            else:
                print(f"  {tiles}: {problem}", flush=True)
        ranked = sorted(times, key=times.__getitem__)
        best[name] = ranked[0]
        total[name.partition(" ")[0]] += times[ranked[0]]
        matrix = (layer.gate_up if name.endswith("gate_up") else layer.down).stacked[0]
        read = hits * matrix.numel() * matrix.itemsize / times[ranked[0]] / 1e6
        flops = 2 * tokens * layer.top_k * matrix.numel() / times[ranked[0]] / 1e6
        shown = ", ".join(f"{times[each]:.1f} {_numbers(each)}" for each in (*ranked[:4], ranked[-1]))
        print(f"{tokens:5} tokens {name:14} {read:5.2f} TB/s {flops:6.1f} TFLOP/s; us: {shown}", flush=True)
    x = torch.randn(tokens, size)
    routings = layer.routings(tokens)
    pairs = torch.randn(tokens * layer.top_k, size)
    parts = {
        "route": lambda: route(x, layer.router, None, layer.top_k, normalized=True),
        "order": lambda: order_by_expert(routings[0].experts, experts),
        "sum": lambda: sum_pairs(pairs, tokens, x),
    }
    print(f"{tokens:5} tokens us: " + ", ".join(f"{name} {_us(run):.1f}" for name, run in parts.items()), flush=True)
    whole: dict[str, float] = {}
    for kind in ("token", "group"):
        if f"{kind} down" in best:
            tiles = best[f"{kind} gate_up"], best[f"{kind} down"]
            whole[kind] = _us(partial(_whole, layer, x, cycle(routings), tiles))
    kind = min(whole, key=whole.__getitem__)
    tiles = best[f"{kind} gate_up"], best[f"{kind} down"]
    print(f"{tokens:5} tokens whole layer us: { {each: round(us, 1) for each, us in whole.items()} }", flush=True)
    return {experts_key(x, routings[0], layer.gate_up): as_choice(tiles)}


def _whole(layer: Layer, x: Tensor, routings: Iterator[Routing], tiles: Any) -> None:
    routing = next(routings)
    routed = route(x, layer.router, None, layer.top_k, normalized=True)
    experts_mlp_triton(
        x, Routing(routing.experts, routed.weights), layer.gate_up, layer.down, "silu_and_mul", x, tiles=tiles
    )


def _us(run: Callable[[], object]) -> float:
    def several() -> None:
        for _ in range(ROUTINGS):
            run()

    return replay_us(several, runs=6) / ROUTINGS


def _compiled_in(device: torch.device, timed: Callable[[Any], Callable[[], None]], tiles: Any) -> str | None:
    with torch.inference_mode(), torch.cuda.device(device):
        return compiled(tiles, timed)


def _numbers(tiles: Any) -> str:
    return "x".join(map(str, vars(tiles).values()))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen3-30b-a3b", help="built-in shape [default: %(default)s]")
    parser.add_argument("--tokens", default="1,2,4,8,16,32,64,128,256,512,1024,4096", help="numbers of tokens")
    parser.add_argument("--check-only", action="store_true", help="compare with the loop over experts, and stop")
    parser.add_argument("--jobs", type=int, default=12, help="kernels to compile in parallel [default: %(default)s]")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.tune_experts needs a CUDA device")
    device = torch.device("cuda", torch.cuda.current_device())
    config = SHAPES[arguments.model]
    spec = config.experts
    if spec is None:
        sys.exit(f"{arguments.model} has no experts")
    torch.manual_seed(0)
    choices: dict[str, tuple[int, ...]] = {}
    with torch.device(device):
        small = Layer(16, 4, 192, 256)
        for dtype in (torch.float32, torch.bfloat16):
            check(small, dtype)
        torch.set_default_dtype(torch.bfloat16)
        layer = Layer(spec.num_experts, spec.top_k, spec.intermediate_size, config.hidden_size)
        check(layer, torch.bfloat16)
        if not arguments.check_only:
            with ThreadPoolExecutor(arguments.jobs) as pool:
                for tokens in map(int, arguments.tokens.split(",")):
                    choices |= tune(layer, tokens, pool, device)
                    remember(device, choices)
    print(json.dumps({"device": torch.cuda.get_device_name(device), "choices": choices}))


if __name__ == "__main__":
    main()
