"""Model files: the demo GGUF, small GGUFs, and tiny directories saved by transformers."""

from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch

from roseinfer.weights.resolve import demo_gguf


@pytest.fixture(scope="session")
def demo_path() -> Path:
    return demo_gguf()


@pytest.fixture(scope="session")
def demo_by_gguf(demo_path: Path) -> gguf.GGUFReader:
    """The demo model, opened by the gguf package's own reader, which takes two seconds."""
    return gguf.GGUFReader(demo_path)


@pytest.fixture
def write_gguf(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a small GGUF. Its argument adds metadata and tensors to the writer."""

    def write(fill: Callable[[gguf.GGUFWriter], None], name: str = "small.gguf") -> Path:
        path = tmp_path / name
        writer = gguf.GGUFWriter(path, "llama")
        fill(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture(scope="session")
def llama() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="session")
def llama_directory(llama: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one safetensors file."""
    folder = tmp_path_factory.mktemp("llama")
    llama.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sharded_directory(llama: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with several safetensors files and their index."""
    folder = tmp_path_factory.mktemp("sharded")
    llama.save_pretrained(folder, max_shard_size="20KB")
    return folder
