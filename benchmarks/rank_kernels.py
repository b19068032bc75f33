"""Check and time the kernels by which the GPUs of several ranks exchange data, beside NCCL.

    torchrun --standalone --nproc-per-node 4 -m benchmarks.rank_kernels

Prints one line of JSON per number of rows, for each kind of join: whether the ranks have the same bits, the largest
difference to NCCL's sum with a norm after it, and us per call inside a CUDA graph. `chosen` is the join of an engine,
`whole` sends everything to all ranks, `divided` sums some of the rows on each rank. The token with the largest logit
follows for numbers of rows that a decode step has.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable
from typing import Any

import torch

from roseinfer.distributed.peer_memory import JoinLimits, PeerMemory, new_peer_memory
from roseinfer.distributed.rank_group import COLLECTIVES_VARIABLE, RankGroup
from roseinfer.distributed.stores import torchrun_store
from roseinfer.distributed.torchrun import torchrun_rank
from roseinfer.models.norm_layers import RMSNorm

_SIZE, _VOCABULARY, _CALLS = 4096, 64128, 40
_MAX_DRAWS = 256


def main() -> None:
    """Run all sizes on all ranks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 3, 16, 64, 128, 256, 512, 1024, 2048, 8192])
    parser.add_argument("--max-mib", type=int, default=32, help="maximum size of the own joins [default: %(default)s]")
    options = parser.parse_args()
    place = torchrun_rank(int(os.environ["WORLD_SIZE"]))
    assert place is not None
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    store = torchrun_store(place)
    group = RankGroup(store, place.rank, place.size, device)
    group.prepare_joins(_SIZE, torch.bfloat16)
    max_bytes = options.max_mib << 20
    whole = new_peer_memory(group, _SIZE, torch.bfloat16, JoinLimits(max_bytes, 0))
    divided = None if place.size == 2 else new_peer_memory(group, _SIZE, torch.bfloat16, JoinLimits(0, max_bytes))
    os.environ[COLLECTIVES_VARIABLE] = "nccl"
    nccl = RankGroup(torch.distributed.PrefixStore("nccl", store), place.rank, place.size, device)
    if place.rank == 0:
        print(json.dumps({"peer_memory": group.uses_peer_memory, "nccl_alone": not nccl.uses_peer_memory}), flush=True)
    with torch.inference_mode(), torch.device(device):
        norm = RMSNorm(_SIZE, 1e-5).to(torch.bfloat16)
        norm.weight.normal_(generator=torch.Generator(device).manual_seed(1))
        for rows in options.rows:
            figures = _joins(group, nccl, {"whole": whole, "divided": divided}, norm, rows)
            if rows <= _MAX_DRAWS:
                figures |= _draws(group, nccl, rows)
            if place.rank == 0:
                print(json.dumps({"rows": rows} | figures), flush=True)
    for each in (group, nccl):
        each.meet()
        each.abort()


def _joins(
    group: RankGroup, nccl: RankGroup, kernels: dict[str, PeerMemory | None], norm: RMSNorm, rows: int
) -> dict[str, object]:
    generator = torch.Generator(group.device).manual_seed(100 * rows + group.rank)
    partial = torch.randn(rows, _SIZE, dtype=torch.bfloat16, generator=generator)
    residual = torch.randn(rows, _SIZE, dtype=torch.bfloat16, generator=generator.manual_seed(rows))
    found: dict[str, Any] = {}
    ways: dict[str, Callable[[torch.Tensor], Any]] = {"chosen": lambda x: group.join(x, residual, norm)}
    for name, memory in kernels.items():
        if memory is not None and memory.join(partial, residual, norm.description) is not None:
            ways[name] = lambda x, memory=memory: memory.join(x, residual, norm.description)
    _, expected = nccl.join(partial.clone(), residual, norm)
    for name, join in ways.items():
        worst, same = 0.0, True
        for _ in range(5):
            normed, stream = join(partial.clone())
            same &= _same_bits(nccl, normed) and _same_bits(nccl, stream)
            worst = max(worst, float((stream.float() - expected.float()).abs().max()))
        found[name] = {"same_bits": same, "largest_difference": round(worst, 4)}
    ways["nccl"] = lambda x: nccl.join(x, residual, norm)
    # NCCL overwrites its input, so all ways are checked before any is timed.
    for name, join in ways.items():
        found.setdefault(name, {})["us"] = _time_us(nccl, lambda join=join: join(partial))
    return found


def _draws(group: RankGroup, nccl: RankGroup, rows: int) -> dict[str, object]:
    generator = torch.Generator(group.device).manual_seed(group.rank)
    logits = torch.randn(rows, _VOCABULARY, dtype=torch.bfloat16, generator=generator)
    first = group.rank * _VOCABULARY
    return {
        "argmax_us": _time_us(nccl, lambda: group.argmax(logits, first)),
        "nccl_argmax_us": _time_us(nccl, lambda: nccl.argmax(logits, first)),
        "argmax_equal": bool((group.argmax(logits, first) == nccl.argmax(logits, first)).all()),
    }


def _same_bits(group: RankGroup, x: torch.Tensor) -> bool:
    total = int(x.view(torch.int16).long().sum())
    return group.least(total) == total and -group.least(-total) == total


def _time_us(group: RankGroup, run: Callable[[], object]) -> float:
    run()
    torch.cuda.synchronize()
    group.meet()
    graph = torch.cuda.CUDAGraph()
    kept = []
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for _ in range(_CALLS):
            kept.append(run())  # noqa: PERF401 - only what ran so far must stay
    group.meet()
    times = []
    for _ in range(7):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        group.meet()
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / _CALLS)
    return round(statistics.median(times), 2)


if __name__ == "__main__":
    main()
