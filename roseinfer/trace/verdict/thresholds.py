"""Thresholds of the verdict. Shares are percentages of the wall time; docs/verdicts.md explains each threshold."""

from roseinfer.disturbance import WAITING_PERCENT as WAITING_PERCENT  # listed on the page with the others

HEALTHY_PERCENT = 10.0
"""A run is healthy if everything but computation takes less than this share."""
BOUND_PERCENT = 30.0
"""If everything but computation takes at least this share, the largest cause gives the verdict its kind."""
LARGE_PERCENT = 20.0
"""A single cause of at least this share gives the verdict its kind, however small the other causes are."""
SHOWN_PERCENT = 2.0
"""Smallest share that is worth a finding."""
ADVISED_PERCENT = 5.0
"""Smallest share that a healthy run gets advice about."""
CAPTURE_PERCENT = 50.0
"""Share of the recording in which graphs are captured from which the trace says nothing about speed."""

LONG_STRETCH_US = 200.0
"""Mean idle time at one place from which the place itself is slow. Launching a kernel eagerly takes 5 to 100 us."""
MANY_EVENTS = 50
"""GPU events per step launched one by one; with fewer, a graph gains little."""
MANY_LAUNCHES = 20
"""Launches per step of graph replays; with fewer, one graph for the whole step gains little."""
SPAN_PERCENT = 10.0
"""Share of the idle time between launches that a span must cause to be the first to optimize."""
SMALL_COLLECTIVE_US = 50.0
"""Mean duration of collectives below which their latency, not their size, is the cost."""
SMALL_CPU_COLLECTIVE_US = 500.0
"""The same between processes on CPUs, over sockets."""
MANY_COLLECTIVES = 10
"""Collectives of one kind per step from which bucketing them gains something."""
ONE_WAIT = 0.5
"""Share of the idle time in the queue from which a single wait, or the longest of several, is named."""
SMALL_GAP_US = 10.0
"""Mean idle time between launched GPU events below which it is the gap that every kernel has."""

MORE_WORK = 1.05
"""Calls or tokens of a rank, relative to the median of the other ranks, from which it has more work."""

SMALL_OPERATOR_US = 10.0
"""Mean self time of operators below which calling them is much of their cost."""
MANY_OPERATORS = 500
"""Operator calls in a trace from which small operators are a pattern."""
OPERATORS_PERCENT = 60.0
"""Share of a CPU run in operators below which the time outside them is the first thing to change."""
NEAR_CEILING_PERCENT = 60.0
"""MBU or MFU of a CPU run from which the hardware, and not the program, bounds the step."""
IDLE_CORES_PERCENT = 25.0
"""Share of the cores that were idle from which a run that has fewer threads than cores is told to use more."""
DISTURBED = 1.2
"""Ratio of unprofiled to profiled step time from which other programs must have used the machine."""
FAR_FROM_BOUND_PERCENT = 50.0
"""Share of its bound below which an operator is told to be slow."""
