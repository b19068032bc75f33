"""Arrival times of requests in an open loop: independent of the engine's progress."""

import random

from roseinfer.errors import UsageError


def arrival_times_s(count: int, request_rate: float | None, burst_size: int, seed: int) -> list[float]:
    """Return the arrival times of `count` requests in ascending order, in seconds after the start; the first is 0.

    Without a request rate, all requests arrive at 0. With a rate, bursts of `burst_size` requests arrive as a Poisson
    process with a mean of `request_rate` requests per second. A burst size of 1 is a plain Poisson process.
    """
    if request_rate is None:
        if burst_size != 1:
            raise UsageError(
                f"--burst-size {burst_size} needs a request rate: give --request-rate, or leave --burst-size out"
            )
        return [0.0] * count
    rng = random.Random(f"arrivals {seed}")  # own generator, so that another rate sends the same prompts
    times_s: list[float] = []
    now_s = 0.0
    while len(times_s) < count:
        times_s += [now_s] * min(burst_size, count - len(times_s))
        now_s += rng.expovariate(request_rate / burst_size)
    return times_s
