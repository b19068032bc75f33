"""The time that a command is connected to a Ray cluster, with its progress.

Imports Ray: commands import this module only when they run.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from roseinfer.cli import console
from roseinfer.cli.progress_line import Progress, Stages
from roseinfer.native_stderr import only_python_stderr
from roseinfer.ray.cluster import connected
from roseinfer.trace.naming import counted


class RayProgress:
    """Shows the stages of a job on stderr; shows nothing without `stages`."""

    def __init__(self, stages: Stages | None) -> None:
        self._stages = stages

    def show(self, what: str) -> None:
        """Show a stage that reports no progress."""
        if self._stages is not None:
            self._stages(what, ticks=True)

    def start_actors(self, count: int) -> None:
        """Show that actors start."""
        self.show(f"Starting {counted(count, 'actor')}")

    def begin(self, what: str) -> Progress | None:
        """Show the next stage, and return the callback of its progress in requests; None if nothing is shown."""
        return None if self._stages is None else self._stages(what, "requests")

    def end(self) -> None:
        """Remove the line of the last stage."""
        if self._stages is not None:
            self._stages.end()


@contextmanager
def ray_session(address: str) -> Iterator[RayProgress]:
    """Connect to a cluster, see `connected`. Meanwhile, of all output on stderr only our own is shown."""
    with only_python_stderr(), console.stages() as stages:
        progress = RayProgress(stages)
        progress.show("Starting Ray")
        with connected(address):
            yield progress
