"""The callbacks through which long work reports its progress."""

from collections.abc import Callable

ProgressCallback = Callable[[int, int], None]
"""Called with (done, total), both in one unit, while work proceeds.

The function that accepts a callback documents the unit: bytes read, steps run, or passes over a workload.
"""

StageCallback = Callable[[str, str], ProgressCallback]
"""Called with (name, unit) when the next stage of the work starts; returns the callback of its progress.

An empty unit stands for a share, of which only the percentage has a meaning.
"""
