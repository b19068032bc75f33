"""Check and time the kernels by which the GPUs of two ranks exchange data, beside NCCL.

    torchrun --standalone --nproc-per-node 2 -m benchmarks.rank_kernels

Prints one line of JSON per number of rows: whether the ranks have the same bits, the largest difference to NCCL's sum
with a norm after it, and us per call inside a CUDA graph.
"""

import json
import os
import statistics
from collections.abc import Callable

import torch

from roseinfer.distributed.rank_group import COLLECTIVES_VARIABLE, RankGroup
from roseinfer.distributed.stores import torchrun_store
from roseinfer.distributed.torchrun import torchrun_rank
from roseinfer.models.norm_layers import RMSNorm

_SIZE, _VOCABULARY, _CALLS = 4096, 64128, 40


def main() -> None:
    """Run all sizes on both ranks."""
    place = torchrun_rank(int(os.environ["WORLD_SIZE"]))
    assert place is not None
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    store = torchrun_store(place)
    group = RankGroup(store, place.rank, place.size, device)
    group.prepare_joins(_SIZE, torch.bfloat16)
    os.environ[COLLECTIVES_VARIABLE] = "nccl"
    nccl = RankGroup(torch.distributed.PrefixStore("nccl", store), place.rank, place.size, device)
    if place.rank == 0:
        print(json.dumps({"peer_memory": group.uses_peer_memory, "nccl_alone": not nccl.uses_peer_memory}), flush=True)
    with torch.inference_mode(), torch.device(device):
        norm = RMSNorm(_SIZE, 1e-5).to(torch.bfloat16)
        norm.weight.normal_(generator=torch.Generator(device).manual_seed(1))
        for rows in (1, 3, 16, 64, 128, 256, 300):
            figures = _figures(group, nccl, norm, rows)
            if place.rank == 0:
                print(json.dumps({"rows": rows} | figures), flush=True)


def _figures(group: RankGroup, nccl: RankGroup, norm: RMSNorm, rows: int) -> dict[str, object]:
    generator = torch.Generator(group.device).manual_seed(100 * rows + group.rank)
    partial = torch.randn(rows, _SIZE, dtype=torch.bfloat16, generator=generator)
    residual = torch.randn(rows, _SIZE, dtype=torch.bfloat16, generator=generator.manual_seed(rows))
    logits = torch.randn(rows, _VOCABULARY, dtype=torch.bfloat16, generator=generator.manual_seed(group.rank))
    worst, same = 0.0, True
    for _ in range(5):
        normed, stream = group.join(partial.clone(), residual, norm)
        tokens = group.argmax(logits, group.rank * _VOCABULARY)
        _, expected = nccl.join(partial.clone(), residual, norm)
        same &= bool((tokens == nccl.argmax(logits, group.rank * _VOCABULARY)).all())
        same &= _same_bits(nccl, normed) and _same_bits(nccl, stream)
        worst = max(worst, float((stream.float() - expected.float()).abs().max()))
    timed = {
        "join_us": lambda: group.join(partial, residual, norm),
        "nccl_join_us": lambda: nccl.join(partial, residual, norm),
        "argmax_us": lambda: group.argmax(logits, group.rank * _VOCABULARY),
        "nccl_argmax_us": lambda: nccl.argmax(logits, group.rank * _VOCABULARY),
    }
    times = {name: _time_us(nccl, run) for name, run in timed.items()}
    return {"same_bits": same, "largest_difference": round(worst, 4)} | times


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
