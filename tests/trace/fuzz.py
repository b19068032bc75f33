"""Fuzz `summarize` with damaged and hostile traces: it must not crash, hang or compute a wrong sum.

    python tests/trace/fuzz.py --seconds 600

Uses atheris, guided by coverage, if it is installed (`python -m pip install atheris`), else random mutations. The run
ends with the first finding and saves its input under `--findings`; `--replay .../trace.json` runs this input again.
"""

import argparse
import contextlib
import gzip
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

try:
    import atheris
except ImportError:
    atheris = None

if atheris is not None and __name__ == "__main__":
    with atheris.instrument_imports(include=["roseinfer.trace", "roseinfer.cli"]):
        import roseinfer.cli.rendering.html_page
        import roseinfer.cli.rendering.markdown
        import roseinfer.cli.rendering.terminal
        import roseinfer.trace.pipeline  # noqa: F401

import msgspec
from rich.console import Console
from sums import check_sums
from traces import LAYOUTS, MATMUL, as_text, event, kernel, launch

from roseinfer.cli.rendering.html_page import to_html
from roseinfer.cli.rendering.markdown import to_markdown
from roseinfer.cli.rendering.terminal import print_summary
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.trace import Summary, compare, summarize_trace

_BASELINE = summarize_trace(MATMUL)
HANG_SECONDS = 20
MAX_BYTES = 1 << 15


class Draw(Protocol):
    """Source of choices: a random generator or the fuzzer's bytes."""

    def pick(self, options: Sequence[Any]) -> Any: ...
    def integer(self, low: int, high: int) -> int: ...


class Chance:
    """Choices drawn from a seeded random generator."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def pick(self, options: Sequence[Any]) -> Any:
        return self._random.choice(options)

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)


class Bytes:
    """Choices derived from the fuzzer's bytes."""

    def __init__(self, data: bytes) -> None:
        self._provider = atheris.FuzzedDataProvider(data)

    def pick(self, options: Sequence[Any]) -> Any:
        return options[self._provider.ConsumeIntInRange(0, len(options) - 1)]

    def integer(self, low: int, high: int) -> int:
        return int(self._provider.ConsumeIntInRange(low, high))


NAMES: list[Any] = [
    "k", "aten::mm", "aten::item", "cudaLaunchKernel", "cudaGraphLaunch", "hipLaunchKernel", "cudaStreamSynchronize",
    "cudaMemcpyAsync", "Memcpy DtoH (Device -> Pageable)", "ncclDevKernel_AllReduce", "ProfilerStep#1",
    "ProfilerStep#2", "roseinfer.step[decode bs=1 tokens=1]", "roseinfer.step[prefill bs=2 tokens=9999999999999999999]",
    "cudaStreamBeginCapture", "cudaStreamEndCapture", "step[DECODE bs=3]", "execute_context_0(0)_generation_32(32)",
    "roseinfer.model.forward", "roseinfer.decode_step_sessions.total", "void k<a<b, c>>(int, float)",
    "", " ", "(", ")", "<", "[", "[]",
    "a\n|`*_b", "\x00", "é" * 70, "\ud800", None, 7, True, ["k"],
]  # fmt: skip
CATEGORIES: list[Any] = [
    "cpu_op", "user_annotation", "cuda_runtime", "cuda_driver", "kernel", "gpu_memcpy", "gpu_memset", "overhead",
    "gpu_user_annotation", "python_function", "ac2g", "Kernel", "Operator", "hip_runtime", "xpu_runtime",
    "mtia_ccp_events", "unheard of", "", None, 3,
]  # fmt: skip
IDS: list[Any] = [
    0, 1, 2, 3, 4, 5, 6, "1", "2", "stream 7", "", None, -1, 1.0, 1e300, 2**31, 2**63, 10**30, "9" * 40, True, [1], {},
]  # fmt: skip
TIMES: list[Any] = [
    0, -1, -0.001, 0.0004, 1e-9, 1e3, 1.5e9, 1e15, 4e15, 1e19, 1e300, 2**63, 10**40, "12.5", "x", None, True, [],
    float("nan"), float("inf"),
]  # fmt: skip


def hostile_event(draw: Draw) -> Any:
    """Return an event, perhaps with fields that no profiler writes."""
    if draw.integer(0, 30) == 0:
        return draw.pick([None, 1, "event", [], [[]], {}, {"ph": "X"}, {"args": {"args": {}}}])
    at, duration = draw.integer(0, 400), draw.integer(0, 60)
    category = draw.pick(CATEGORIES[:7])
    args = {"correlation": draw.integer(1, 12), "device": draw.integer(0, 1), "stream": draw.integer(1, 2)}
    made = {
        "ph": "X", "cat": category, "name": draw.pick(NAMES), "pid": 1, "tid": draw.integer(1, 2), "ts": at,
        "dur": duration, "args": args,
    }  # fmt: skip
    for _ in range(draw.pick([0, 0, 0, 1, 2])):
        field = draw.pick(list(made))
        values = {
            "cat": CATEGORIES,
            "name": NAMES,
            "ts": TIMES,
            "dur": TIMES,
            "ph": ["X", "M", "i", "s", "B", "", None],
        }
        if field == "args":
            made["args"] = draw.pick([None, [], "x", {}, {**args, draw.pick(list(args)): draw.pick(IDS)}])
        else:
            made[field] = draw.pick(values.get(field, IDS))
        if draw.integer(0, 9) == 0:
            del made[field]
            break
    return made


def hostile_trace(draw: Draw) -> bytes:
    """Return a file of hostile events, in any layout, perhaps with wrong metadata, truncated or with flipped bytes."""
    events = [hostile_event(draw) for _ in range(draw.integer(0, 40))]
    text = as_text(events, draw.pick(LAYOUTS[:-1]))
    swaps = [
        (b'"schemaVersion": 1', b'"schemaVersion": [null]'),
        (b'"schemaVersion": 1', b'"distributedInfo": {"rank": "x"}'),
        (b'"schemaVersion": 1', b'"distributedInfo": {"rank": -1e999}'),
        (b'"id": 0', b'"id": {}'),
        (b'"traceEvents"', b'"traceEvents" \n'),
    ]
    if draw.integer(0, 3) == 0:
        text = text.replace(*draw.pick(swaps))
    return damaged(draw, text)


def hostile_manifest(draw: Draw) -> bytes:
    """Return a manifest with a graph map, work and ceilings, some of them wrong."""
    numbers = [0, 1, -1, 0.08, 1e6, 1e300, None, "x"]
    events = [
        {"name": draw.pick(NAMES), "span": draw.pick(["roseinfer.attention", "roseinfer.model.forward", None, 3])}
        for _ in range(draw.integer(0, 3))
    ]
    steps = [
        {"phase": draw.pick(["decode", "prefill", "", None]), "bytes": draw.pick(numbers), "flops": draw.pick(numbers)}
        for _ in range(draw.integer(0, 3))
    ]
    manifest = {
        "schema_version": 1,
        "ceilings": draw.pick([None, {"copy_bytes_per_s": draw.pick(numbers), "flops_per_s": draw.pick(numbers)}]),
        "baseline_step_ms": draw.pick([{}, {"decode": draw.pick(numbers)}, [], 3]),
        "baseline_steps": draw.pick([[], [{"phase": "decode", "steps": draw.pick(numbers), "wall_ms": 3}], [{}], 3]),
        "steps": steps,
        "graphs": draw.pick([[], [{"key": 1, "events": events}], [{}], {}, None]),
    }
    return json.dumps(manifest).encode()


def damaged(draw: Draw, text: bytes) -> bytes:
    """Return the text, perhaps truncated, with flipped bytes, with a part repeated, or as damaged gzip."""
    if draw.integer(0, 3) == 0:
        text = text[: draw.integer(0, len(text))]
    if text and draw.integer(0, 3) == 0:
        changed = bytearray(text)
        for _ in range(draw.pick([1, 2, 8, 64])):
            changed[draw.integer(0, len(changed) - 1)] = draw.integer(0, 255)
        text = bytes(changed)
    if text and draw.integer(0, 7) == 0:
        low = draw.integer(0, len(text) - 1)
        text = text[:low] + text[draw.integer(0, low) :]
    if draw.integer(0, 7) == 0:
        packed = bytearray(gzip.compress(text, 1))
        if draw.integer(0, 1):
            packed[draw.integer(0, len(packed) - 1)] ^= 1 << draw.integer(0, 7)
        text = bytes(packed[: draw.integer(0, len(packed))] if draw.integer(0, 2) == 0 else packed)
    return text


def seeds() -> list[bytes]:
    """Return small valid traces in every layout, and the start and the end of a recorded trace."""
    events: list[dict[str, Any]] = [event("user_annotation", f"ProfilerStep#{one}", 100 * one, 90) for one in range(3)]
    for one in range(6):
        events += [
            launch(50 * one, 5, one + 1),
            kernel(50 * one + 10, 8, one + 1),
            event("cpu_op", "aten::mm", 50 * one, 9),
        ]
    recorded = gzip.decompress(MATMUL.read_bytes())
    head, tail = recorded.index(b'"traceEvents"'), recorded.rindex(b"]")
    return [as_text(events, layout) for layout in LAYOUTS] + [
        recorded[: head + 12_000],
        recorded[:head] + recorded[tail - 9_000 :],
    ]


def try_trace(path: Path, *, render: bool = True) -> None:
    """Summarize and render the trace; raise for a finding.

    Findings are wrong sums, hangs, and all exceptions except a RoseinferError with a one-line message.
    """
    try:
        summary = summarize_trace(path)
    except RoseinferError as error:
        refused = str(error)
        assert "\n" not in refused, refused
        return
    check_sums(summary)
    assert 2 * bool(summary.gpu) <= len(summary.verdict.evidence) <= 5, summary.verdict
    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary) == summary
    if render:
        for baseline in (_BASELINE, summary):
            shown = summary
            with contextlib.suppress(UsageError):  # the traces have nothing in common to compare
                shown = compare(summary, baseline)
            to_markdown(shown)
            to_html(shown)
            print_summary(Console(file=io.StringIO(), width=80), shown)


def _hang(*_: object) -> None:
    raise TimeoutError(f"no answer after {HANG_SECONDS} s")


def guarded(make: Callable[[], bytes], folder: Path, findings: Path, *, render: bool) -> None:
    """Try one input; if it is a finding, save it with its manifest and raise."""
    path = folder / "trace.json"
    path.write_bytes(make())
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(HANG_SECONDS)
    try:
        try_trace(path, render=render)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        kept = findings / str(time.time_ns())
        kept.mkdir(parents=True)
        for file in folder.glob("*.json"):
            shutil.copy(file, kept)
        sys.stderr.write(f"failed: {type(error).__name__}: {error}; the input is in {kept}\n")
        raise
    finally:
        signal.alarm(0)


def by_chance(seconds: float, seed: int, folder: Path, findings: Path) -> int:
    """Try random hostile and damaged traces until the time is up; return their number."""
    good, until, count = seeds(), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        draw = Chance(seed + count)
        write_manifest(draw, folder)
        make = draw.pick([hostile_trace, lambda draw: damaged(draw, draw.pick(good))])
        guarded(lambda make=make, draw=draw: make(draw), folder, findings, render=count % 8 == 0)
        count += 1
    return count


def write_manifest(draw: Draw, folder: Path) -> None:
    """Write a hostile manifest next to the trace in one case of four, else remove the manifest."""
    manifest = folder / "manifest.json"
    manifest.unlink(missing_ok=True)
    if draw.integer(0, 3) == 0:
        manifest.write_bytes(hostile_manifest(draw))


def by_coverage(seconds: float, folder: Path, findings: Path) -> None:
    """Fuzz with atheris; does not return.

    The first byte of an input says whether its rest is the file itself or the choices that generate a file.
    """
    corpus = folder / "corpus"
    corpus.mkdir()
    for index, seed in enumerate(seeds()):
        (corpus / f"seed{index}").write_bytes(b"\0" + seed)
    for index in range(200):
        (corpus / f"choices{index}").write_bytes(b"\1" + random.Random(index).randbytes(1500))
    words = ['"ph"', '"X"', '"cat"', '"ts"', '"dur"', '"args"', '"traceEvents"', "},{", "  },\\x0a", "1e999", "null"]
    words += [
        f'"{name}"' for name in NAMES + CATEGORIES if isinstance(name, str) and name.isascii() and name.isprintable()
    ]
    (folder / "words").write_text(
        "\n".join(f'"{word.replace(chr(34), chr(92) + chr(34))}"' for word in words if '"' in word)
    )
    tried = 0

    def one(data: bytes) -> None:
        nonlocal tried
        tried += 1
        draw = Bytes(data[1:])
        write_manifest(draw, folder)
        make = (lambda: hostile_trace(draw)) if data[:1] == b"\1" else (lambda: data[1:])
        guarded(make, folder, findings, render=tried % 8 == 0)

    findings.mkdir(parents=True, exist_ok=True)
    options = [
        f"-artifact_prefix={findings}/",
        f"-max_len={MAX_BYTES}",
        f"-max_total_time={int(seconds)}",
        "-rss_limit_mb=4096",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], str(corpus), f"-dict={folder / 'words'}", "-timeout=60", *options], one)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="time limit in s [default: %(default)s]")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="seed of the random mutations")
    parser.add_argument("--by-chance", action="store_true", help="use random mutations even if atheris is installed")
    parser.add_argument(
        "--findings", type=Path, default=Path("fuzz-findings"), help="folder for findings [default: %(default)s]"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run a saved input again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.replay:
            try_trace(args.replay)
        elif atheris is None or args.by_chance:
            tried = by_chance(args.seconds, args.seed, folder, args.findings)
            sys.stdout.write(f"{tried:,} inputs, no failure; seed {args.seed}\n")
        else:
            by_coverage(args.seconds, folder, args.findings)


if __name__ == "__main__":
    main()
