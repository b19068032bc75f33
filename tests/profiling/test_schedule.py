"""The profiler's schedule as a state machine, without a profiler."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roseinfer.config import ProfileConfig
from roseinfer.profiling.schedule import Action, Schedule, steps_needed

SCHEDULES = [
    ProfileConfig(skip_first=skip, wait=wait, warmup=warmup, active=active, repeat=repeat)
    for skip, wait, warmup, active, repeat in product((0, 1, 2), (0, 1, 2), (0, 1), (1, 3), (1, 2, 3))
]


def actions(config: ProfileConfig, matches: list[bool]) -> list[tuple[Action, int]]:
    """Return the action and the cycle of each step of a loop."""
    schedule = Schedule(config)
    seen = []
    for match in matches:
        action = schedule.upcoming(match)
        seen.append((action, schedule.cycle))
        schedule.advance()
    return seen


@pytest.mark.parametrize("config", SCHEDULES, ids=str)
def test_every_cycle_has_its_waiting_warm_up_and_recorded_steps(config: ProfileConfig) -> None:
    idle, warm, record = Action.IDLE, Action.WARM, Action.RECORD
    expected = [(idle, 0)] * config.skip_first
    for cycle in range(config.repeat):
        expected += [(idle, cycle)] * config.wait + [(warm, cycle)] * config.warmup + [(record, cycle)] * config.active
    expected += [(idle, config.repeat)] * 3
    assert len(expected) == steps_needed(config) + 3
    assert actions(config, [True] * len(expected)) == expected


def test_a_cycle_stays_in_warm_up_until_a_step_has_the_phase_to_record() -> None:
    config = ProfileConfig(wait=1, warmup=1, active=2)
    seen = [action for action, _ in actions(config, [True, True, False, False, True, True, True])]
    assert seen == [Action.IDLE, Action.WARM, Action.WARM, Action.WARM, Action.RECORD, Action.RECORD, Action.IDLE]


def test_a_cycle_without_warm_up_waits_with_the_profiler_off() -> None:
    config = ProfileConfig(wait=0, warmup=0, active=1)
    assert [action for action, _ in actions(config, [False, True])] == [Action.IDLE, Action.RECORD]


def test_a_cycle_ends_early_when_the_phase_does_and_the_next_one_begins() -> None:
    config = ProfileConfig(wait=0, warmup=1, active=3, repeat=2)
    seen = actions(config, [True, True, False, True, True, True])
    assert seen == [
        (Action.WARM, 0),
        (Action.RECORD, 0),
        (Action.WARM, 1),
        (Action.RECORD, 1),
        (Action.RECORD, 1),
        (Action.RECORD, 1),
    ]


@given(st.sampled_from(SCHEDULES), st.lists(st.booleans(), max_size=60))
@settings(max_examples=200, deadline=None)
def test_only_matching_steps_are_recorded_and_at_most_active_per_cycle(
    config: ProfileConfig, matches: list[bool]
) -> None:
    seen = actions(config, matches)
    recorded = [
        cycle for (action, cycle), match in zip(seen, matches, strict=True) if action is Action.RECORD and match
    ]
    assert recorded == [cycle for action, cycle in seen if action is Action.RECORD]
    assert all(recorded.count(cycle) <= config.active for cycle in recorded)
    assert recorded == sorted(recorded)
    assert all(cycle < config.repeat for cycle in recorded)
