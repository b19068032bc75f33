"""Jobs of several ranks with known compute times, waits and transfers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

Events = list[dict[str, Any]]
ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(args)"


class Rank:
    """The recording of one rank: a stream of kernels that runs as soon as its host has launched them."""

    def __init__(self, rank: int) -> None:
        self.rank, self.events, self.now, self.correlation = rank, [], 0.0, 0
        self.pid = 500 + rank

    def add(self, cat: str, name: str, ts: float, dur: float, **args: Any) -> None:
        self.events.append(
            {"ph": "X", "cat": cat, "name": name, "pid": self.pid, "tid": self.pid, "ts": ts, "dur": dur, "args": args}
        )

    def run(
        self,
        us: float,
        name: str = "gemm",
        *,
        at: float | None = None,
        stream: int = 7,
        launched: float | None = None,
        **args: Any,
    ) -> None:
        """Run a kernel for `us`, launched just before it begins, or at another time.

        `now` becomes its end if it runs in stream 7.
        """
        start = self.now if at is None else at
        self.correlation += 1
        launched = start - 1 if launched is None else launched
        self.add("cuda_runtime", "cudaLaunchKernel", launched, 0.5, correlation=self.correlation)
        own = {"device": self.rank, "stream": stream, "correlation": self.correlation, **args}
        self.add("kernel", name, start, us, **own)
        self.events[-1] |= {"pid": self.rank, "tid": stream}
        if stream == 7:
            self.now = start + us


class Collective(NamedTuple):
    """Truth about one collective, in us."""

    step: int
    transfer: float
    waits: dict[int, float]


class Job(NamedTuple):
    """Recordings of all ranks, and the truth about their collectives."""

    ranks: dict[int, Rank]
    truth: list[Collective]

    def waits(self) -> dict[int, float]:
        """Return the wait of each rank in ms."""
        return {rank: sum(one.waits.get(rank, 0.0) for one in self.truth) / 1000 for rank in self.ranks}

    def transfer(self) -> float:
        """Return the transfer of one rank in ms."""
        return sum(one.transfer for one in self.truth) / 1000

    def write(self, folder: Path, *, clock: dict[int, float] | None = None, drop: Sequence[int] = ()) -> Path:
        """Write a file per rank; `clock` shifts the clocks of some ranks by a time in us."""
        folder.mkdir(exist_ok=True)
        for rank, one in self.ranks.items():
            if rank not in drop:
                shift = (clock or {}).get(rank, 0.0)
                events = [event | {"ts": event["ts"] + shift} for event in one.events]
                (folder / f"rank{rank}.json").write_text(document(events, rank, len(self.ranks)))
        return folder

    def write_one_file(self, path: Path) -> Path:
        """Write all ranks into one file, with the labels that SGLang's merger gives to processes."""
        path.write_text(json.dumps({"traceEvents": self.labelled()}))
        return path

    def labelled(self) -> Events:
        """Return the events of all ranks, their processes labelled as by SGLang's merger."""
        return [
            event | {"pid": f"[TP{rank:02}] {event['pid']}"} for rank, one in self.ranks.items() for event in one.events
        ]


def document(events: Events, rank: int, size: int) -> str:
    """Return the file of one rank, with one event per line."""
    head = {
        "deviceProperties": [{"id": rank, "name": "NVIDIA H100"}],
        "distributedInfo": {"rank": rank, "world_size": size},
    }
    lines = ",\n".join(json.dumps(event) for event in events)
    return f'{json.dumps(head)[:-1]}, "traceEvents": [\n{lines}\n]}}\n'


def job(
    compute_us: Sequence[Sequence[float]],
    *,
    transfer_us: float = 1250,
    per_step: int = 1,
    late_us: dict[int, float] | None = None,
    **args: Any,
) -> Job:
    """Return a job whose step s computes `compute_us[s][rank]` before each of its `per_step` all-reduces.

    `late_us` is the time per step in which the host of a rank loads data before it launches anything.
    """
    ranks = {rank: Rank(rank) for rank in range(len(compute_us[0]))}
    truth: list[Collective] = []
    for step, times in enumerate(compute_us):
        begins = {}
        for rank, one in ranks.items():
            begins[rank] = one.now = one.now + 10
            if late := (late_us or {}).get(rank, 0.0):
                one.add("user_annotation", "enumerate(DataLoader)#_SingleProcess.__next__", one.now, late)
                one.now += late + 2
        for _ in range(per_step):
            for rank, one in ranks.items():
                one.run(times[rank])
            truth.append(all_reduce(list(ranks.values()), transfer_us, step, **args))
        for rank, one in ranks.items():
            one.add("user_annotation", f"ProfilerStep#{step + 3}", begins[rank] - 5, one.now - begins[rank] + 8)
    return Job(ranks, truth)


def led_job(compute_us: Sequence[float], host_us: Sequence[float], *, turns_us: float = 0.0, ranks: int = 2) -> Job:
    """Return a job of tensor parallelism: rank 0 launches a step ahead, the others launch when theirs has ended.

    In step s, each rank computes `compute_us[s]`, and then reduces for 50 us. The GPUs of ranks 1 and above idle for
    `host_us[s]` before, in which their hosts prepare inputs; `turns_us` more on the rank whose turn it is. Rank 0 reads
    the tokens of a step during the next one, so that its spans last as long as a step, but the first.
    """
    every = {rank: Rank(rank) for rank in range(ranks)}
    truth: list[Collective] = []
    begin = before = 1000.0
    for step, compute in enumerate(compute_us):
        second: dict[int, float] = {}
        for rank, one in every.items():
            host = host_us[step] + turns_us * (rank == 1 + step % max(1, ranks - 1))
            one.now = begin + (host if rank else 0.0)
            opened = begin + 20 if rank else before + 10 if step else begin - 60
            launched = one.now - 10 if rank else opened + 10
            if rank:
                one.add("user_annotation", "roseinfer.prepare_inputs", opened + 5, launched - opened - 10)
            one.run(compute, launched=launched)
            closed = launched + 60 if rank else begin + 5 if step else begin - 20
            one.add("user_annotation", "roseinfer.step[decode bs=4 tokens=4]", opened, closed - opened)
            second[rank] = launched + 1
        last = max(one.now for one in every.values())
        truth.append(Collective(step, 50, {rank: last - one.now for rank, one in every.items()}))
        for rank, one in every.items():
            one.run(last + 50 - one.now, ALL_REDUCE, launched=second[rank])
        before, begin = begin, last + 50
    return Job(every, truth)


def all_reduce(
    ranks: Sequence[Rank], transfer_us: float, step: int = 0, name: str = ALL_REDUCE, **args: Any
) -> Collective:
    """Run a collective that begins on each rank when the rank is ready, and ends on all at once."""
    last = max(one.now for one in ranks)
    waits = {one.rank: last - one.now for one in ranks}
    for one in ranks:
        one.run(last + transfer_us - one.now, name, **args)
    return Collective(step, transfer_us, waits)
