"""Offline generation on a Ray cluster: `GenerateStage` for datasets of your own, and the jobs of the command line.

Needs the extra `ray`. Nothing else in roseinfer imports Ray. The public names are imported on first use, so that the
process that reads a job's requests does not load torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roseinfer.ray.generate_stage import GenerateStage, stage_options

__all__ = ["GenerateStage", "stage_options"]


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from roseinfer.ray import generate_stage

    value: object = getattr(generate_stage, name)
    globals()[name] = value
    return value
