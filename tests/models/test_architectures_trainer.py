"""Tests that a trainer checkpoint agrees with the trained module, and that other files are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architecture_models import engine_logits, random_prompt
from torch import Tensor, nn

from roseinfer.config import EngineConfig
from roseinfer.engine.factory import build_engine
from roseinfer.errors import ModelError, UsageError
from roseinfer.weights.resolve import resolve
from roseinfer.weights.weight_reader import open_weights

CONFIG = {
    "vocab_size": 64,
    "max_position_embeddings": 48,
    "n_layers": 2,
    "n_heads": 4,
    "d_model": 32,
    "d_ff": 80,
    "dropout": 0.1,
}


class Attention(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.qkv_proj = nn.Linear(32, 96, bias=bias)
        self.out_proj = nn.Linear(32, 32, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, 8)).transpose(0, 1) for part in self.qkv_proj(x).chunk(3, dim=-1))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).flatten(1))


class Mlp(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(32, 80, bias=bias)
        self.fc2 = nn.Linear(80, 32, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(32, bias=bias)
        self.attn = Attention(bias)
        self.ln2 = nn.LayerNorm(32, bias=bias)
        self.mlp = Mlp(bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Trained(nn.Module):
    """The trained module, written as plainly as possible."""

    def __init__(self, bias: bool = True, tied: bool = True, head_bias: bool = False) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(64, 32)
        self.position_embedding = nn.Embedding(48, 32)
        self.blocks = nn.ModuleList(Block(bias) for _ in range(2))
        self.ln_f = nn.LayerNorm(32, bias=bias)
        self.lm_head = nn.Linear(32, 64, bias=head_bias)
        if tied:
            self.lm_head.weight = self.token_embedding.weight
        generator = torch.Generator().manual_seed(3)
        for parameter in self.parameters():
            mean = 1.0 if parameter.dim() == 1 else 0.0
            nn.init.normal_(parameter, mean, 0.3, generator=generator)

    @torch.inference_mode()
    def forward(self, token_ids: Tensor) -> Tensor:
        x = self.token_embedding(token_ids) + self.position_embedding(torch.arange(len(token_ids)))
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def save(model: nn.Module, path: Path, /, **changes: Any) -> Path:
    """Save a checkpoint as the trainer does, with the state of an optimizer after one step."""
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "config": CONFIG, "step": 7}
    torch.save({key: value for key, value in (checkpoint | changes).items() if value is not None}, path)
    return path


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"tied": False},
        {"bias": False},
        {"bias": False, "tied": False, "head_bias": True},
        {"tied": True, "head_bias": True},
    ],
    ids=str,
)
def test_logits_equal_the_trained_modules(model: dict[str, bool], tmp_path: Path) -> None:
    trained = Trained(**model)
    path = save(trained, tmp_path / "run.pt")
    for token_ids, logits in engine_logits(path, [random_prompt(4), random_prompt(40)], 6, max_batch_tokens=15):
        assert (logits - trained(torch.tensor(token_ids))[:-1]).abs().max() < 1e-4
    engine = build_engine(EngineConfig(model=str(path), device="cpu"))
    assert engine.num_parameters == sum(parameter.numel() for parameter in trained.parameters())


def test_a_tied_head_may_be_left_out(tmp_path: Path) -> None:
    trained = Trained()
    state = {name: tensor for name, tensor in trained.state_dict().items() if name != "lm_head.weight"}
    path = save(trained, tmp_path / "run.pt", model=state)
    ((token_ids, logits),) = engine_logits(path, [random_prompt(9)], 3)
    assert (logits - trained(torch.tensor(token_ids))[:-1]).abs().max() < 1e-4


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists the mapped files")
def test_the_file_is_mapped_so_that_the_optimizer_takes_no_memory(tmp_path: Path) -> None:
    path = save(Trained(), tmp_path / "run.pt")
    reader = open_weights(resolve(str(path), "auto", ()))
    assert str(path) in Path("/proc/self/maps").read_text()
    assert not any(name.startswith(("optimizer", "exp_avg")) for name in reader.names())


class Unsafe:
    """A class that only a pickle can hold, such as a dataclass for the config."""


def without(key: str) -> dict[str, Any]:
    return {name: tensor for name, tensor in Trained().state_dict().items() if name != key}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model": None}, r"not a trainer checkpoint.*`model` is missing"),
        ({"config": None}, r"not a trainer checkpoint.*`config` is missing"),
        ({"config": [1]}, "`config` is of type list"),
        ({"config": Unsafe()}, "more than tensors and plain data"),
        ({"config": {**CONFIG, "n_heads": None}}, "needs n_heads as int, but it is missing"),
        ({"config": {**CONFIG, "n_heads": 5}}, "d_model 32 is not a multiple of n_heads 5"),
        ({"config": {**CONFIG, "d_ff": 81}}, r"mlp\.fc1\.\w+ has shape .*80.*81"),
        ({"model": {**Trained().state_dict(), "ema.weight": torch.ones(2)}}, r"ema\.weight is not part of"),
        ({"model": {**Trained().state_dict(), "epoch": 3}}, "epoch in `model` should be a tensor, not a int"),
        ({"model": without("blocks.1.mlp.fc2.weight")}, r"1 weights are missing, .*h\.1\.mlp\.c_proj\.weight"),
        ({"model": without("blocks.0.ln1.bias")}, "1 weights are missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_trainer_checkpoint_is_refused(changes: dict[str, Any], line: str, tmp_path: Path) -> None:
    refused(save(Trained(), tmp_path / "run.pt", **changes), line)


@pytest.mark.parametrize(
    ("write", "line"),
    [
        (lambda path: torch.save([1, 2], path), "but a list"),
        (
            lambda path: torch.save({"model": {}, "config": CONFIG}, path, _use_new_zipfile_serialization=False),
            "pickle",
        ),
        (lambda path: path.write_bytes(b"no checkpoint"), "is a pickle"),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut short"), "is not a valid checkpoint"),
    ],
)
def test_other_files_are_refused(write: Callable[[Path], Any], line: str, tmp_path: Path) -> None:
    write(tmp_path / "run.pt")
    refused(tmp_path / "run.pt", line)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run\.pt does not exist"):
        build_engine(EngineConfig(model=str(tmp_path / "run.pt")))


def refused(path: Path, line: str) -> None:
    with pytest.raises(ModelError, match=line) as refusal:
        build_engine(EngineConfig(model=str(path), device="cpu"))
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400
