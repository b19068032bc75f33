"""A Ray cluster of two CPUs for the tests of this folder."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "cli"))  # for `command`

HAS_RAY = importlib.util.find_spec("ray") is not None
collect_ignore_glob = [] if HAS_RAY else ["test_*.py"]


def pytest_configure() -> None:
    """Refuse to leave these tests out in CI."""
    if not HAS_RAY and os.environ.get("CI"):
        raise pytest.UsageError("Ray is not installed: install the extra `dev`")


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Address of a running cluster, to which this process is connected too."""
    import ray

    from roseinfer.ray.cluster import connected

    with connected("local", num_cpus=2):
        yield ray.get_runtime_context().gcs_address
