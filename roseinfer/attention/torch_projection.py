"""Queries, keys and values of a projection by torch operations, for backends without a fused kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.kernels.attention.projection import Projection
from roseinfer.kernels.attention.torch_rotation import rotate, rotation_at

RotationCache = dict[int, tuple[Tensor, Tensor]]
"""Rotations at the positions of one step, by the id of the rotary table: layers with the same table share them."""


def split_projection(projection: Projection, rotations: RotationCache) -> tuple[Tensor, Tensor, Tensor]:
    """Return q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim], normalized and rotated."""
    qkv, positions, layer = projection
    spec = layer.spec
    heads = qkv.view(len(qkv), -1, spec.head_dim)
    qk, v = heads[:, : -spec.num_kv_heads], heads[:, -spec.num_kv_heads :]
    if layer.q_norm is not None or layer.k_norm is not None:
        q, k = qk[:, : spec.num_heads], qk[:, spec.num_heads :]
        shape = (spec.head_dim,)
        if layer.q_norm is not None:
            q = F.rms_norm(q, shape, layer.q_norm, layer.eps)
        if layer.k_norm is not None:
            k = F.rms_norm(k, shape, layer.k_norm, layer.eps)
        qk = torch.cat((q, k), dim=1)
    if layer.table is not None:
        rotation = rotations.get(id(layer.table))
        if rotation is None:
            rotation = rotations[id(layer.table)] = rotation_at(layer.table, positions)
        # Queries and keys are rotated together: half as many operations as one after the other.
        qk = rotate(qk, rotation)
    return qk[:, : spec.num_heads], qk[:, spec.num_heads :], v
