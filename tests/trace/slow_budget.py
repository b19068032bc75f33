"""The time budget, computed microsecond by microsecond from a list of events: slow, and obviously right.

Times are whole microseconds. Host events of a thread nest without shared starts; GPU events of a device start one by
one; no launch waits long enough to show that the device did unrecorded work.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

Event = dict[str, Any]
PARTS_OF_CALLS = {
    "cudaStreamSynchronize": "synchronizing_calls",
    "cudaMalloc": "allocation",
    "cudaEventRecord": "launch_calls",
    "cudaLaunchKernel": "launch_calls",
}
LOADING = ("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", "load_batch", "data.py(7): load_batch")
COLLECTIVES = ("ncclDevKernel_AllReduce", "gloo:all_reduce")
SHORT_US, FRAME_US = 200, 50
GPU = ("kernel", "gpu_memcpy")
WORKING = ("cpu_op", "cuda_runtime")


class SlowBudget:
    """The budget of a recording with one rank."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.gpu = sorted((event for event in events if event["cat"] in GPU), key=_start)
        self.launch = {event["args"]["correlation"]: event for event in events if event["cat"] == "cuda_runtime"}
        self.steps = sorted((event for event in events if event["name"].startswith("roseinfer.step")), key=_start)
        self.autograd = {event["tid"] for event in events if event["name"].startswith("autograd::")}
        others = [event for event in events if event["cat"] not in GPU and event["tid"] not in self.autograd]
        self.main = self.steps[-1]["tid"] if self.steps else others[0]["tid"]
        self.devices = sorted({event["pid"] for event in self.gpu})
        timed = [event for event in events if event["cat"] != "python_function"]
        first, last = min(map(_start, timed)), max(map(_end, timed))
        if self.steps:
            first, last = self.steps[0]["ts"], max([self._step_end(-1), *map(_end, self.gpu)])
        self.recording = range(first, last)

    def parts(self, ticks: Iterable[int], device: int | None) -> Counter[str]:
        """Return the microseconds of each part; `device` is None on a CPU run."""
        return Counter(self._part(tick, device) for tick in ticks)

    def step_ticks(self, index: int) -> range:
        """Return the wall time of one step: until the next one, or its GPU events where phases can be told apart."""
        starts, ends = [step["ts"] for step in self.steps], [self._step_end(one) for one in range(len(self.steps))]
        if len({step["name"].split()[0] for step in self.steps}) > 1 and ends == sorted(set(ends)):
            starts[1:] = [max(start, end) for start, end in zip(starts[1:], ends, strict=False)]
        return range(starts[index], [*starts[1:], ends[-1]][index])

    def _step_end(self, index: int) -> int:
        step = self.steps[index]
        launched = [event for event in self.gpu if (call := self._launch_of(event)) and _covers(step, call["ts"])]
        return max([_end(step), *map(_end, launched)])

    def _launch_of(self, event: Event) -> Event | None:
        return self.launch.get(event["args"]["correlation"])

    def _part(self, tick: int, device: int | None) -> str:
        if device is None:
            return self._cpu_part(tick)
        mine = [event for event in self.gpu if event["pid"] == device]
        running = [event for event in mine if _covers(event, tick)]
        if any(event["cat"] == "kernel" and event["name"] not in COLLECTIVES for event in running):
            return "compute"
        if any(event["name"] in COLLECTIVES for event in running):
            return "exposed_communication"
        return "exposed_copy" if running else self._idle_part(tick, mine)

    def _idle_part(self, tick: int, mine: list[Event]) -> str:
        later = [event for event in mine if event["ts"] > tick]
        if self._ran_unrecorded(tick, mine):
            return "not_recorded"
        if not later:
            return self._host_part(tick, self.main)
        call = self._launch_of(later[0])
        is_first = later[0] is mine[0]
        if call is None or (is_first and later[0]["ts"] - _end(call) >= SHORT_US):
            return "not_recorded"
        if tick < call["ts"]:
            return self._host_part(tick, call["tid"])
        return PARTS_OF_CALLS[call["name"]] if tick < _end(call) else "queue"

    def _ran_unrecorded(self, tick: int, mine: list[Event]) -> bool:
        """True if a missing kernel may have run: between the events launched just before and just after it."""
        answered = {event["args"]["correlation"] for event in self.gpu}
        launched = [(call["ts"], event) for event in mine if (call := self._launch_of(event))]
        launched.sort(key=lambda pair: pair[0])
        for number, call in self.launch.items():
            if call["name"] == "cudaLaunchKernel" and number not in answered:
                before = [_end(event) for ts, event in launched if ts < call["ts"]]
                after = [_start(event) for ts, event in launched if ts > call["ts"]]
                if max([call["ts"], *before[-1:]]) <= tick < min([1_000_000, *after[:1]]):
                    return True
        return False

    def _host_part(self, tick: int, thread: int) -> str:
        thread = self._thread_that_matters(tick, thread)
        if self._loads_data(tick, thread):
            return "data_loading"
        active = [event for event in self._of(thread, WORKING) if _covers(event, tick)]
        if not active:
            return "python"
        innermost = max(active, key=_start)
        return PARTS_OF_CALLS[innermost["name"]] if innermost["cat"] == "cuda_runtime" else "operators"

    def _thread_that_matters(self, tick: int, thread: int) -> int:
        """Autograd's thread, from its first to its last activity while the main thread does nothing new."""
        if thread != self.main and thread not in self.autograd:
            return thread
        edges = [edge for event in self._of(self.main, WORKING) for edge in (event["ts"], _end(event))]
        low = max((edge for edge in edges if edge <= tick), default=-1_000_000)
        high = min((edge for edge in edges if edge > tick), default=1_000_000)
        for other in self.autograd:
            active = [event for event in self._of(other, WORKING) if _end(event) > low and event["ts"] < high]
            if active and min(map(_start, active)) <= tick < max(map(_end, active)):
                return other
        return self.main

    def _loads_data(self, tick: int, thread: int) -> bool:
        loading = [event for event in self._of(thread) if event["name"] in LOADING and _covers(event, tick)]
        return any(event["cat"] != "python_function" or event["dur"] >= FRAME_US for event in loading)

    def _cpu_part(self, tick: int) -> str:
        threads = {event["tid"] for event in self.events}
        open_on = {thread: [event for event in self._of(thread) if _covers(event, tick)] for thread in threads}
        talking = {thread for thread, found in open_on.items() if any(event["name"] in COLLECTIVES for event in found)}
        for thread, found in open_on.items():
            is_other = thread in talking or self._loads_data(tick, thread)
            if not is_other and any(event["cat"] == "cpu_op" for event in found):
                return "compute"
        return "exposed_communication" if talking else self._host_part(tick, self.main)

    def _of(self, thread: int, categories: tuple[str, ...] | None = None) -> list[Event]:
        return [
            event
            for event in self.events
            if event["cat"] not in GPU and event["tid"] == thread and (categories is None or event["cat"] in categories)
        ]


class RandomTrace:
    """Random events of several host threads, streams and devices, with launches, steps and missing records."""

    def __init__(self, below: Callable[[int], int], *, gpu: bool) -> None:
        self._below = below
        self._numbers = itertools.count(1)
        self._is_gpu = gpu
        self._span_us = 120 + below(400)
        marked = below(3) > 0
        self.events: list[Event] = []
        self._nest("main", 0, self._span_us, 0, is_autograd=False)
        self._tops = self._pauses()
        self.events.append(self._host("main", "cpu_op", "aten::mm", self._span_us + 1, 2))
        if below(2):
            self._nest("autograd", 5, self._span_us, 0, is_autograd=True)
        if marked and self._mark_steps() and below(2):
            self._nest("worker", 0, self._span_us, 0, is_autograd=False)
        if gpu:
            self._run_kernels()

    def _host(self, thread: str, cat: str, name: str, ts: int, dur: int) -> Event:
        tid = {"main": 1, "autograd": 2, "worker": 3}[thread]
        args = {"correlation": next(self._numbers)} if cat == "cuda_runtime" else {}
        return {"ph": "X", "cat": cat, "name": name, "pid": 9, "tid": tid, "ts": ts, "dur": dur, "args": args}

    def _nest(self, thread: str, low: int, high: int, depth: int, *, is_autograd: bool) -> None:
        """Add host events inside (low, high), some with events inside."""
        at = low + 1 + self._below(20)
        while at < high - 2 and depth < 4:
            end = min(at + 1 + self._below(120 >> depth), high - 1)
            cat, name = self._kind(is_autograd=is_autograd, is_top=depth == 0)
            self.events.append(self._host(thread, cat, name, at, end - at))
            if cat != "cuda_runtime":
                self._nest(thread, at, end, depth + 1, is_autograd=is_autograd)
            at = end + self._below(25)

    def _kind(self, *, is_autograd: bool, is_top: bool) -> tuple[str, str]:
        if is_autograd and is_top:
            return "cpu_op", "autograd::engine::evaluate_function: MmBackward0"
        kinds = [("cpu_op", "aten::mm"), ("cpu_op", "aten::add"), ("user_annotation", "load_batch")]
        kinds += [("python_function", LOADING[2]), ("python_function", "train.py(3): train"), ("cpu_op", LOADING[0])]
        kinds += [("user_annotation", "forward")]
        if self._is_gpu:
            kinds += [("cuda_runtime", name) for name in PARTS_OF_CALLS] * 2
        else:
            kinds += [("user_annotation", COLLECTIVES[1])] * 2
        return kinds[self._below(len(kinds))]

    def _mark_steps(self) -> bool:
        """Add steps, which may have pauses around them; return True if there are any."""
        edges = [_end(event) for event in self._tops if self._below(2)]
        for index, (low, high) in enumerate(zip(edges[::2], edges[1::2], strict=False)):
            step = self._host("main", "user_annotation", f"roseinfer.step[decode bs={index}]", low, high - low)
            self.events.append(step)
        return len(edges) > 1

    def _pauses(self) -> list[Event]:
        """Return the outermost events after which the thread does nothing for a while."""
        tops: list[Event] = []
        for event in sorted(self.events, key=_start):
            if not tops or event["ts"] >= _end(tops[-1]):
                tops.append(event)
        return [one for one, after in itertools.pairwise(tops) if _end(one) < after["ts"]]

    def _run_kernels(self) -> None:
        calls = [event for event in self.events if event["name"] == "cudaLaunchKernel"]
        used: set[tuple[int, int]] = set()
        for call in [*calls, None, None]:
            if call is not None and self._below(6) == 0:
                continue  # the kernel is missing
            ts = self._below(self._span_us) if call is None else call["ts"] + self._below(60)
            device, copies = self._below(2), self._below(4) == 0
            while (device, ts) in used:
                ts += 1
            used.add((device, ts))
            name = "Memcpy DtoD" if copies else ("gemm", COLLECTIVES[0])[self._below(2)]
            number = 100_000 + ts if call is None else call["args"]["correlation"]
            args = {"device": device, "stream": self._below(2), "correlation": number}
            cat = "gpu_memcpy" if copies else "kernel"
            self.events.append(
                {"ph": "X", "cat": cat, "name": name, "pid": device, "tid": 7, "ts": ts, "dur": 1 + self._below(70)}
                | {"args": args}
            )


def _start(event: Event) -> int:
    return int(event["ts"])


def _end(event: Event) -> int:
    return int(event["ts"] + event["dur"])


def _covers(event: Event, tick: int) -> bool:
    return _start(event) <= tick < _end(event)
