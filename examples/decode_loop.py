"""A decode loop in plain PyTorch with random weights, profiled by roseinfer: the example of docs/tutorial.md.

    python examples/decode_loop.py --cache lists
    python examples/decode_loop.py --cache preallocated

Prints the time of a decode step without the profiler, and the folder of the profiled run.
"""

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from roseinfer import ProfileConfig, profile_session

LAYERS, HEADS, HEAD_DIM, VOCABULARY = 4, 4, 64, 8192
HIDDEN = HEADS * HEAD_DIM
REQUESTS, PROMPT_TOKENS, NEW_TOKENS = 16, 128, 48


class ListCache:
    """Keys and values in one tensor [tokens, heads, head_dim] per layer and request."""

    def __init__(self, device: torch.device) -> None:
        empty = torch.empty(0, HEADS, HEAD_DIM, device=device)
        self.keys = [[empty] * REQUESTS for _ in range(LAYERS)]
        self.values = [[empty] * REQUESTS for _ in range(LAYERS)]

    def append(self, layer: int, start: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k and v [requests, new, heads, head_dim], and return all keys and values of the layer."""
        keys, values = self.keys[layer], self.values[layer]
        for request in range(REQUESTS):
            keys[request] = torch.cat([keys[request], k[request]])
            values[request] = torch.cat([values[request], v[request]])
        return torch.stack(keys), torch.stack(values)


class PreallocatedCache:
    """Keys and values in two tensors [layers, requests, tokens, heads, head_dim] of the final size."""

    def __init__(self, device: torch.device) -> None:
        shape = LAYERS, REQUESTS, PROMPT_TOKENS + NEW_TOKENS, HEADS, HEAD_DIM
        self.keys, self.values = torch.empty(shape, device=device), torch.empty(shape, device=device)

    def append(self, layer: int, start: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k and v [requests, new, heads, head_dim] at `start`, and return all keys and values of the layer."""
        end = start + k.shape[1]
        self.keys[layer, :, start:end] = k
        self.values[layer, :, start:end] = v
        return self.keys[layer, :, :end], self.values[layer, :, :end]


CACHES = {"lists": ListCache, "preallocated": PreallocatedCache}


class Layer(nn.Module):
    """Attention and an MLP, each after a norm."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index
        self.norm, self.mlp_norm = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.qkv, self.out = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.mlp = nn.Sequential(nn.Linear(HIDDEN, 4 * HIDDEN), nn.GELU(), nn.Linear(4 * HIDDEN, HIDDEN))

    def forward(self, x: Tensor, cache: ListCache | PreallocatedCache, start: int) -> Tensor:
        """Return the next hidden state of x [requests, new, hidden]."""
        q, k, v = self.qkv(self.norm(x)).view(REQUESTS, -1, 3, HEADS, HEAD_DIM).unbind(2)
        with record_function("append_to_cache"):
            k, v = cache.append(self.index, start, k, v)
        with record_function("attention"):
            q, k, v = (each.transpose(1, 2) for each in (q, k, v))
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=start == 0)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


class Model(nn.Module):
    """A small decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Layer(index) for index in range(LAYERS))

    def forward(self, tokens: Tensor, cache: ListCache | PreallocatedCache, start: int) -> Tensor:
        """Return the next token of each request, given tokens [requests, new] that follow `start` earlier ones."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, cache, start)
        with record_function("next_token"):
            return F.linear(x[:, -1:], self.embedding.weight).argmax(-1)


def decode(model: Model, cache: ListCache | PreallocatedCache, after_step: Callable[[], None]) -> None:
    """Complete REQUESTS random prompts; call `after_step` after each decode step."""
    prompts = torch.randint(VOCABULARY, (REQUESTS, PROMPT_TOKENS), device=model.embedding.weight.device)
    tokens = model(prompts, cache, 0)
    for position in range(PROMPT_TOKENS, PROMPT_TOKENS + NEW_TOKENS):
        tokens = model(tokens, cache, position)
        tokens.tolist()  # a server streams them
        after_step()


@torch.inference_mode()
def main() -> None:
    """Decode with a clock, then with the profiler."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", choices=CACHES, default="lists")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    model = Model().to(device)

    decode(model, CACHES[arguments.cache](device), lambda: None)  # warm up
    ends_s: list[float] = []
    decode(model, CACHES[arguments.cache](device), lambda: ends_s.append(time.perf_counter()))
    print(f"{median(end - start for start, end in pairwise(ends_s)) * 1e3:.2f} ms per decode step")

    config = ProfileConfig(skip_first=20, wait=1, warmup=2, active=5, profile_dir=f"profiles/{arguments.cache}")
    with profile_session(config, device=arguments.device) as session:
        decode(model, CACHES[arguments.cache](device), session.step)
    print(f"profiled: {session.result.run_dir}")


if __name__ == "__main__":
    main()
