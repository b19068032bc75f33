"""Exit codes of the command line, and the decision for a comparison."""

RUN_FAILED = 1
WRONG_CALL = 2
REGRESSION = 3
"""A comparison found a change that is worse than `--fail-above` allows."""


def comparison_exit_code(is_past_limit: bool) -> int:
    """Return the exit code of a comparison: REGRESSION for a change past the `--fail-above` limit, else 0."""
    return REGRESSION if is_past_limit else 0
