"""Fuzz every kind of input: a damaged one is refused in one line, or gives the same as the whole one.

Run `make fuzz`, or this file with `--count` or `--seconds`. Inputs follow from `--seed` and a number, so each can be
tried again with `--kind` and `--first`. `--table FILE` writes the results into a page. `tests/trace/fuzz.py` tries more
traces.
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_kind import Kind
from fuzz_kinds import KINDS

from roseinfer.cache_folder import UntrustedCacheError
from roseinfer.errors import RoseinferError

MARK = "<!-- written by tests/fuzz_inputs.py -->"


@dataclass
class Tally:
    """Results of one kind."""

    tried: int = 0
    refused: int = 0
    same: int = 0
    wrong: int = 0
    worst_s: float = 0.0
    peak_mib: float = 0.0

    def row(self, name: str) -> str:
        """Return the results as a row of `table`."""
        counts = " | ".join(f"{count:,}" for count in (self.tried, self.refused, self.same, self.wrong))
        return f"| {name} | {counts} | {self.worst_s:.2f} | {self.peak_mib:.0f} |"


_WORST = ("worst_s", "peak_mib")


def try_one(kind: Kind, seed: int, tally: Tally) -> None:
    """Try one damaged input, and report a finding on stderr."""
    data = kind.damage(random.Random(f"{kind.name} {seed}"))
    before, started = _peak_mib(), time.perf_counter()
    tally.tried += 1
    try:
        if kind.is_same(kind.run(data)):
            tally.same += 1
        else:
            raise AssertionError("it ran, with another result")
    except (RoseinferError, UntrustedCacheError) as error:
        message = str(error)
        if "\n" in message or len(message) > 2000:
            _report(kind, seed, f"a message of {len(message)} characters")
            tally.wrong += 1
        else:
            tally.refused += 1
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        _report(kind, seed, f"{type(error).__name__}: {str(error)[:300]}")
        tally.wrong += 1
    tally.worst_s = max(tally.worst_s, time.perf_counter() - started)
    tally.peak_mib = max(tally.peak_mib, _peak_mib() - before)


def _report(kind: Kind, seed: int, what: str) -> None:
    sys.stderr.write(f"finding: --kind {kind.name!r} --first {seed}: {what}\n")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(tallies: dict[str, Tally], title: str) -> str:
    """Return the results as a Markdown table below a title."""
    rows = [one.row(name) for name, one in tallies.items()]
    sums = [sum(getattr(one, field) for one in tallies.values()) for field in ("tried", "refused", "same", "wrong")]
    rows.append(Tally(*sums, *(max(getattr(one, field) for one in tallies.values()) for field in _WORST)).row("all"))
    head = "| kind of input | tried | refused | same | wrong | slowest, s | most memory, MiB |\n| --- |" + " ---: |" * 6
    return "\n".join([MARK, "", title, "", head, *rows, "", MARK])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help="inputs per kind [default: no limit]")
    parser.add_argument("--seconds", type=float, help="time limit in s over all kinds [default: none]")
    parser.add_argument("--seed", type=int, default=0, help="seed of all inputs [default: %(default)s]")
    parser.add_argument("--kind", help="try this kind only")
    parser.add_argument("--first", type=int, help="number of the first input, as a finding names it")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the results into this page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    count = args.count or (1 if args.first is not None else 1 << 60)
    until = time.monotonic() + (args.seconds or (60.0 if args.count is None else float("inf")))
    with tempfile.TemporaryDirectory() as name:
        made = (make(Path(name)) for make in KINDS)
        chosen = [kind for kind in made if args.kind in (None, kind.name)]
        tallies = {kind.name: Tally() for kind in chosen}
        first = args.seed * 1_000_000_000 if args.first is None else args.first
        for place in range(count):
            for kind in chosen:
                try_one(kind, first + place, tallies[kind.name])
            if time.monotonic() > until:
                break
    text = table(tallies, f"`tests/fuzz_inputs.py` with seed {args.seed}:")
    sys.stdout.write(text + "\n")
    if args.table is not None:
        before, _, after = args.table.read_text(encoding="utf-8").split(MARK)
        args.table.write_text(before + text + after, encoding="utf-8")
    sys.exit(any(one.wrong for one in tallies.values()))


if __name__ == "__main__":
    main()
