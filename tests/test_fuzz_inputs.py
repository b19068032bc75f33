"""A few damaged inputs of each kind are refused in one line, or give the same as whole ones. `make fuzz` tries more."""

from pathlib import Path

import pytest
from fuzz_inputs import Tally, try_one
from fuzz_kinds import KINDS

COUNT = 40
"""Damaged inputs per kind."""

pytestmark = pytest.mark.usefixtures("single_threaded", "own_cache")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSEINFER_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_damaged_inputs_are_refused_or_the_same(
    make: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(make)
    kind, tally = make(tmp_path), Tally()
    for seed in range(COUNT):
        try_one(kind, seed, tally)
    assert tally.wrong == 0, capsys.readouterr().err
    assert tally.refused + tally.same == COUNT
    assert kind.name == "request lines" or tally.refused > 0
