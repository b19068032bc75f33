"""The callback through which long work reports its progress."""

from collections.abc import Callable

ProgressCallback = Callable[[int, int], None]
"""Called with (done, total), both in one unit, while work proceeds.

The function that accepts a callback documents the unit: bytes read, steps run, or passes over a workload.
"""
