"""Traces of an engine whose host launches steps of several phases while the GPU still runs earlier ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

from traces import event, kernel, launch

Events = list[dict[str, Any]]


class Step(NamedTuple):
    """A step with one kernel; times are in us."""

    phase: str
    host: float
    """Duration of the span, on the host."""
    gpu: float
    """Duration of the kernel."""
    pause: float = 5
    """Time between the end of the span before and the span's start."""
    planning: float = 5
    """Time between the span's start and the launch."""
    tokens: int = 4


def steps_ahead(
    steps: list[Step], *, engine: str = "roseinfer.step[{phase} bs=4 tokens={tokens}]", device: int = 0
) -> Events:
    """Return the events of steps whose kernels run one after the other, as soon as they are launched."""
    made: Events = []
    at = done = 0.0
    for index, one in enumerate(steps):
        at += one.pause if index else 0.0
        made.append(event("user_annotation", engine.format(phase=one.phase, tokens=one.tokens), at, one.host))
        made.append(launch(at + one.planning, 2, index + 1))
        start = max(done, at + one.planning + 5)
        made.append(kernel(start, one.gpu, index + 1, "gemm", device=device))
        at, done = at + one.host, start + one.gpu
    return made


def random_steps_ahead(below: Callable[[int], int], phases: tuple[str, ...]) -> Events:
    """Return random steps with operators, waits, kernels and copies on two devices.

    Copies run on a stream of their own, and may end after the kernels of the next step.
    """
    made: Events = []
    at, number, has_copies = 1 + below(5), 1, below(2) == 0
    done = {(device, stream): 0 for device in (0, 1) for stream in (7, 9)}
    started: set[tuple[int, int]] = set()
    for _ in range(2 + below(5)):
        begin = at
        at += 1 + below(5)
        for _ in range(1 + below(4)):
            call, host = launch(at + 1, 1 + below(3), number), 4 + below(8)
            made += [event("cpu_op", "aten::mm", at, host), call]
            device, is_copy = below(2), has_copies and below(3) == 0
            stream = 9 if is_copy else 7
            start = max(done[device, stream], at + 5 + below(5)) + below(4)
            while (device, start) in started:
                start += 1
            started.add((device, start))
            name, cat = ("Memcpy DtoD", "gpu_memcpy") if is_copy else ("gemm", "kernel")
            made.append(kernel(start, 5 + below(60), number, name, stream=stream, device=device, cat=cat))
            done[device, stream] = start + made[-1]["dur"]
            at, number = at + host + below(8), number + 1
        if below(2):
            wait = 5 + below(40)
            made.append(launch(at + 1, wait, 1000 + number, "cudaStreamSynchronize"))
            at += wait + 2
        end = at + 1 + below(3)
        made.append(event("user_annotation", f"roseinfer.step[{phases[below(len(phases))]} bs=4]", begin, end - begin))
        at = end + 1 + below(12)
    return made
