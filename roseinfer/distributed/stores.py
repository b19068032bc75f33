"""Stores, by which processes find each other before they can exchange tensors."""

from importlib import import_module
from typing import Any

from roseinfer.distributed.torchrun import TorchrunRank

HOST = "127.0.0.1"
"""All ranks are processes of one host."""

Store = Any
"""A `torch.distributed.Store`, whose type torch does not export."""


def torch_distributed() -> Any:
    """Return the module torch.distributed, which only engines with several ranks import."""
    return import_module("torch.distributed")


def new_store() -> Store:
    """Return a new store of this process, which other processes reach at its `port`."""
    return torch_distributed().TCPStore(HOST, 0, None, True, wait_for_workers=False)


def store_at(port: int) -> Store:
    """Return the store of another process of this host."""
    return torch_distributed().TCPStore(HOST, port, None, False)


def torchrun_store(place: TorchrunRank) -> Store:
    """Return the store that the ranks of torchrun share."""
    dist = torch_distributed()
    store = next(iter(dist.rendezvous("env://", place.rank, place.size)))[0]
    return dist.PrefixStore("roseinfer", store)
