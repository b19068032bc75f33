"""The tensors of the KV cache. `block_pool` decides which request uses which block."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from roseinfer.upload import upload


class KVCache:
    """Keys and values of all layers, in `data` [num_layers, 2, num_blocks, block_size, kv_heads, head_dim].

    Each block belongs to one group of layers (`LayerGroups`), and `num_layers` is the number of layers per group.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        num_groups: int = 1,
    ) -> None:
        self.num_layers = num_layers
        self.num_groups = num_groups
        self.num_blocks = num_blocks
        self.block_size = block_size
        shape = (num_layers, 2, num_blocks, block_size, num_kv_heads, head_dim)
        self.data = _zeros(shape, dtype, device)
        # Views are created once: on a CPU, creating one takes as long as a small operation on it.
        self.flat = [(keys, values) for keys, values in self.data.flatten(2, 3)]
        """Keys and values per layer of a group, indexed by slot: [num_blocks * block_size, kv_heads, head_dim] each."""

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store new keys and values [tokens, kv_heads, head_dim] at `slots` [tokens]."""
        keys, values = self.flat[layer]
        keys.index_copy_(0, slots, k)
        values.index_copy_(0, slots, v)

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks, in all layers of their groups. Each pair is (source block, target block)."""
        if copies:
            sources, targets = upload(self.data.device, *np.array(copies, dtype=np.int64).T)
            self.data[:, :, targets] = self.data[:, :, sources]

    def read(self, layer: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Return a copy of one request's keys and values, [len(blocks) * block_size, kv_heads, head_dim] each."""
        keys, values = self.data[layer]
        return keys[blocks].flatten(0, 1), values[blocks].flatten(0, 1)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Allocate zeros, because a NaN in a masked slot would survive its multiplication by zero.

    On a CPU, NumPy gets zeroed pages from the operating system when they are first touched. A large pool therefore
    costs neither start-up time nor memory that no request uses. torch.zeros would write every page.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(pages).view(dtype).view(shape)
