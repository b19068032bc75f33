"""When requests arrive, whatever the engine is busy with: an open loop."""

import random

from roseinfer.errors import UsageError


def arrival_times_s(count: int, request_rate: float | None, burst_size: int, seed: int) -> list[float]:
    """Seconds after the start at which each of `count` requests arrives, in order; the first at 0.

    Without a rate all arrive at once. With one, bursts of `burst_size` requests arrive as a Poisson process that
    brings `request_rate` requests per second on average; bursts of one are plain Poisson arrivals.
    """
    if request_rate is None:
        if burst_size != 1:
            raise UsageError("burst_size needs a request_rate: without one, all requests arrive at once anyway")
        return [0.0] * count
    rng = random.Random(f"arrivals {seed}")  # of their own: another rate sends the same prompts
    times_s: list[float] = []
    now_s = 0.0
    while len(times_s) < count:
        times_s += [now_s] * min(burst_size, count - len(times_s))
        now_s += rng.expovariate(request_rate / burst_size)
    return times_s
