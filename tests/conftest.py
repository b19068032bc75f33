"""Models that many tests share, made once a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import save_gpt2, save_llama


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny random Llama with a byte-level tokenizer and a context of 128 tokens."""
    return save_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny random GPT-2 with a byte-level tokenizer and a context of 128 tokens."""
    return save_gpt2(tmp_path_factory.mktemp("models") / "tiny-gpt2")


@pytest.fixture(scope="module")
def single_threaded() -> Iterator[None]:
    """Compute with one thread: for tiny models, waiting for a second one costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
