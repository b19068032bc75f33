"""Options of commands that run on a Ray cluster, and what they refuse."""

from typing import Annotated

import typer

from roseinfer.config import RunConfig
from roseinfer.errors import UsageError

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="local|auto|HOST:PORT",
        help="Ray cluster to run on; local starts one on this machine.",
        rich_help_panel="Ray",
    ),
]
Actors = Annotated[
    int | None,
    typer.Option(
        "--actors", min=1, metavar="N", help="Engines on the Ray cluster [default: one per GPU].", rich_help_panel="Ray"
    ),
]


def check_actors(address: str | None, actors: int | None) -> None:
    """Raise UsageError for a number of actors without a cluster."""
    if address is None and actors is not None:
        raise UsageError("--actors is the number of engines on a Ray cluster: add --ray, or drop it")


def check_device(device: str) -> None:
    """Raise UsageError for a GPU that is named by its number."""
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"invalid --device {device}: Ray chooses the GPU of an actor: give cuda, or drop it")


def check_offline(config: RunConfig, command: str) -> None:
    """Raise UsageError unless all requests of the workload are there at the start."""
    check_device(config.engine.device)
    if config.workload.request_rate is not None or config.workload.turns > 1:
        option = "--turns" if config.workload.request_rate is None else "--request-rate"
        raise UsageError(f"{option} is for one engine, and {command} --ray sends all requests at once: drop one")
