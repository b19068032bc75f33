"""The environment of commands that use the cluster of the tests."""

import os

from command import ENVIRONMENT


def with_token() -> dict[str, str]:
    """Return the environment of a command that may use the cluster, whose start set the token."""
    return {**ENVIRONMENT, **{name: value for name, value in os.environ.items() if name.startswith("RAY_")}}
