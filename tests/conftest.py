"""Fixtures that many tests share, and the settings of a test run with or without a GPU."""

import gc
import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import save_gpt2, save_llama, save_ministral

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined, so set before any import
    if importlib.util.find_spec("triton") is not None:
        from triton_interpreter import prepare_the_language_once

        prepare_the_language_once()


def pytest_configure(config: pytest.Config) -> None:
    """Give the tests a cache folder of their own, and let Ctrl-C interrupt them.

    Engines use the compiled kernels in a cache folder, so the user's folder would change the tests. A shell that runs
    the tests in the background ignores SIGINT, and the processes that the tests start would inherit that.

    Several workers divide the cores: threads that wait for each other's cores spin.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    os.environ["ROSEINFER_CACHE_DIR"] = str(config.rootpath / ".pytest_cache" / "roseinfer")
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONG_FILES = {"test_pages_run.py", "test_generate_on_ray.py"}
"""Files that take longest. They run first, so that no worker still runs one when the others have finished."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that need a GPU if there is none."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)
    if torch.cuda.is_available():
        return
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing:
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


@pytest.fixture(scope="module", autouse=True)
def _frozen_heap() -> None:
    """Exempt what exists before a file's first test from garbage collection.

    Thousands of collected tests and the imported libraries make each `gc.collect()` of a benchmark take half a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny random Llama with a byte-level tokenizer and a context of 128 tokens."""
    return save_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_ministral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny random Ministral: three layers, two of them with a window of 6 tokens."""
    return save_ministral(tmp_path_factory.mktemp("models") / "tiny-ministral")


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny random GPT-2 with a byte-level tokenizer and a context of 128 tokens."""
    return save_gpt2(tmp_path_factory.mktemp("models") / "tiny-gpt2")


@pytest.fixture(scope="module")
def single_threaded() -> Iterator[None]:
    """Compute with one thread. For tiny models, synchronizing with a second thread costs more than it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
