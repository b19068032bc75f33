"""Versions and model of a run, as benchmark results and manifests record them."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import torch

from roseinfer.engine.loaded_model import LoadedModel
from roseinfer.version import __version__


class Versions(msgspec.Struct, frozen=True):
    """Versions of the software that ran."""

    roseinfer: str
    git_commit: str | None
    """Commit of the source tree; None for an installed package."""
    python: str
    torch: str
    cuda: str | None
    triton: str | None


class ModelInfo(msgspec.Struct, frozen=True):
    """The model that ran."""

    name: str
    architecture: str
    parameters: int
    dtype: str
    active_parameters: int | None = None
    """Parameters that one token uses, of a model with experts; None: all of them."""

    @classmethod
    def of(cls, engine: LoadedModel) -> "ModelInfo":
        config = engine.model_config
        idle = config.idle_parameters
        active = engine.num_parameters - idle if idle else None
        return cls(engine.model_name, config.architecture, engine.num_parameters, engine.dtype_name, active)


def current_versions() -> Versions:
    """Return the versions of the running process."""
    return Versions(
        roseinfer=__version__,
        git_commit=_git_commit(),
        python=platform.python_version(),
        torch=str(torch.__version__),
        cuda=torch.version.cuda,
        triton=_installed("triton"),
    )


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    source = Path(__file__).resolve().parents[2]
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
