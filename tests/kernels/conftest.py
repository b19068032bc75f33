"""Fixtures of the tests of kernels."""

from collections.abc import Iterator

import pytest
from native_builds import BUILDS, load_build


@pytest.fixture(scope="module", params=BUILDS)
def loaded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Load the compiled CPU kernels, each build in turn."""
    yield from load_build(request.param)
