"""Tiles of decode attention on a GPU of 132 multiprocessors, such as an H200."""

import pytest
import torch

from roseinfer.kernels.attention import decode_tiles as decode_tiles_module
from roseinfer.kernels.attention.decode_tiles import DecodeTiles, decode_tiles


@pytest.fixture(autouse=True)
def multiprocessors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_tiles_module, "num_multiprocessors", lambda device: 132)


def tiles_of(requests: int, head_dim: int = 128, max_tokens: int = 4096) -> DecodeTiles:
    """Tiles for 32 query heads that share 8 heads of keys and values in 16 bits."""
    key_cache = torch.empty(1, 16, 8, head_dim, dtype=torch.bfloat16)
    return decode_tiles(requests, 32, key_cache, max_tokens)


def test_programs_start_in_order_only_if_they_do_not_all_run_at_once() -> None:
    assert not tiles_of(66).ordered, "four programs per multiprocessor run at once"
    assert tiles_of(67).ordered


def test_heads_of_more_than_128_numbers_have_fewer_tokens_per_tile() -> None:
    assert [tiles_of(128, head_dim).tile for head_dim in (64, 128, 256)] == [64, 64, 32]


def test_keys_are_cut_until_the_multiprocessors_are_busy() -> None:
    assert [tiles_of(requests).num_splits for requests in (1, 8, 32, 33, 128)] == [32, 16, 4, 1, 1]
    assert tiles_of(1, max_tokens=100).num_splits == 4, "no more than there are tiles"


def test_programs_of_one_warp_read_long_contexts_in_larger_tiles() -> None:
    assert [tiles_of(8, max_tokens=max_tokens).tile for max_tokens in (256, 2048, 2064, 8192)] == [16, 16, 32, 32]
    assert tiles_of(8, head_dim=256).tile == 16, "tiles of wide heads stay small"
