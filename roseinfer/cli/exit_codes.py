"""Exit codes of the command line."""

RUN_FAILED = 1
WRONG_CALL = 2
REGRESSION = 3
"""A comparison found a change that is worse than `--fail-above` allows."""
INTERRUPTED = 130
"""Ctrl-C, as shells report it: 128 plus the number of SIGINT."""
