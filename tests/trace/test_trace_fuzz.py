"""A short run of the fuzzer with fixed seeds; `python tests/trace/fuzz.py --seconds 600` is a long run."""

from pathlib import Path

import fuzz
import pytest


@pytest.mark.parametrize("first", range(0, 240, 24))
def test_hostile_and_damaged_traces_end_in_a_summary_or_one_line(tmp_path: Path, first: int) -> None:
    good = fuzz.seeds()
    path = tmp_path / "trace.json"
    for seed in range(first, first + 24):
        draw = fuzz.Chance(seed)
        fuzz.write_manifest(draw, tmp_path)
        path.write_bytes(fuzz.hostile_trace(draw) if seed % 2 else fuzz.damaged(draw, draw.pick(good)))
        fuzz.try_trace(path, render=seed % 8 == 1)
