"""The ranks of one engine, and the collectives in which all of them take part.

Each rank is a process with one device. All ranks call the same collectives in the same order.
"""

import os
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch import Tensor

from roseinfer.distributed.background import Background
from roseinfer.distributed.peer_memory import PeerMemory, new_peer_memory
from roseinfer.distributed.stores import Store, torch_distributed
from roseinfer.kernels.norms import Norm
from roseinfer.kernels.ranks.joined_argmax import joined_argmax, joins_argmax
from roseinfer.kernels.sampling.argmax import argmax
from roseinfer.spans import span

_TIMEOUT = timedelta(hours=1)
"""Maximum duration of a collective. Ranks that end or hang are noticed much earlier, by `RankTeam`."""

COLLECTIVES_VARIABLE = "ROSEINFER_COLLECTIVES"
"""Environment variable that is "nccl" to measure NCCL's collectives instead of those of this package, on GPUs."""

_MAX_PEER_RANKS = 8
"""Maximum ranks that join by peer memory: as many GPUs of one host are connected to each other."""

_LIBRARY_SETTINGS = {
    "NCCL_NVLS_ENABLE": "0",  # multicast needs rights that containers often lack, and failed on shared hosts
    "TORCH_NCCL_ENABLE_MONITORING": "0",  # its thread ends the process while a profiler or debugger stops it
}


class JoinedNorm(Protocol):
    """A norm whose input is the sum of what all ranks computed."""

    @property
    def description(self) -> Norm:
        """The norm's parameters, for kernels that compute the norm themselves."""
        ...

    def normalized(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return norm(x + residual) and x + residual, [rows, size] each, on this rank alone."""
        ...


class RankGroup:
    """Collectives between the ranks of an engine, by gloo on a CPU and NCCL on GPUs."""

    def __init__(self, store: Store, rank: int, size: int, device: torch.device) -> None:
        """Connect to the other ranks, which create their groups with the same store. Blocks until all have."""
        self.rank = rank
        """Number of this rank, from 0."""
        self.size = size
        """Number of ranks."""
        self.device = device
        self._store, self._num_exchanges = store, 0
        self._peers: PeerMemory | None = None
        self._wants_peers = size <= _MAX_PEER_RANKS and os.environ.get(COLLECTIVES_VARIABLE) != "nccl"
        dist = torch_distributed()
        # On a GPU, collectives run on the stream of the kernels around them, instead of one of their own.
        self._sums, self._gathers = dist.AllreduceOptions(), dist.distributed_c10d.AllgatherOptions()
        for options in (self._sums, self._gathers):
            options.asyncOp = False
        self._host: Any = _gloo(dist.PrefixStore("host", store), rank, size)
        self._device: Background[Any] | None = None
        if device.type == "cuda":
            # NCCL connects while the caller loads its weights.
            device_store = dist.PrefixStore("device", store)
            self._device = Background(lambda: _nccl(device_store, rank, size, device), "roseinfer-nccl")

    def join(self, partial: Tensor, residual: Tensor | None, norm: JoinedNorm) -> tuple[Tensor, Tensor]:
        """Return norm(stream) and the stream: the sum of `partial` over all ranks, plus the residual.

        partial and residual: [rows, size]; without a residual, the stream is the sum alone. Every rank gets the same
        bits. `partial` is overwritten. This is the only place in a layer where ranks meet.
        """
        with span("roseinfer.join"):
            if self._peers is not None:
                joined = self._peers.join(partial, residual, norm.description)
                if joined is not None:
                    return joined
            return norm.normalized(self.all_reduce(partial), residual)

    @property
    def _backend(self) -> Any:
        """The library's collectives on the group's device."""
        return self._host if self._device is None else self._device.result()

    @property
    def uses_peer_memory(self) -> bool:
        """True if small joins run in one kernel, which exchanges data through the memory of the other GPUs."""
        return self._peers is not None

    def argmax(self, logits: Tensor, first: int) -> Tensor:
        """Return the token with the largest logit of each row over all ranks, [rows], int64. The lowest of equals wins.

        logits: [rows, tokens] of this rank, whose first token is `first`.
        """
        if self._peers is not None and joins_argmax(self._peers.keys, logits):
            return joined_argmax(self._peers.keys, logits, first)
        best = argmax(logits)[:, None]
        # float64 holds every logit and every token id.
        pairs = self.gather(torch.cat((logits.gather(1, best).double(), best.double() + first), 1))
        values, tokens = pairs[:, 0::2], pairs[:, 1::2]
        return tokens.masked_fill(values < values.amax(1, keepdim=True), torch.inf).amin(1).long()

    def prepare_joins(self, size: int, dtype: torch.dtype) -> None:
        """Prepare joins of rows of `size` elements by peer memory, where they are faster than the library's.

        Returns once all memory that collectives need is allocated. All ranks call this together, before any of them
        captures a CUDA graph.
        """
        _ = self._backend
        self._peers = None
        if self.device.type == "cuda" and self._wants_peers:
            self._peers = new_peer_memory(self, size, dtype)
            self.meet()

    def all_reduce(self, x: Tensor) -> Tensor:
        """Replace a contiguous tensor by its sum over all ranks, and return it."""
        _finish(self._backend.allreduce([x], self._sums))
        return x

    def gather(self, x: Tensor) -> Tensor:
        """Return the columns of all ranks next to each other: [rows, columns] -> [rows, ranks * columns]."""
        rows, columns = x.shape
        every = x.new_empty((self.size * rows, columns))
        _finish(self._backend._allgather_base(every, x.contiguous(), self._gathers))
        return every.view(self.size, rows, columns).transpose(0, 1).reshape(rows, self.size * columns)

    def least(self, value: int) -> int:
        """Return the smallest of the ranks' values, on the host."""
        smallest = torch.tensor([value], dtype=torch.int64, device="cpu")
        dist = torch_distributed()
        options = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp.MIN
        self._host.allreduce([smallest], options).wait()
        return int(smallest)

    def exchange(self, payload: bytes) -> list[bytes]:
        """Return the payloads of all ranks, by rank."""
        self._num_exchanges += 1
        keys = [f"exchange/{self._num_exchanges}/{rank}" for rank in range(self.size)]
        self._store.set(keys[self.rank], payload)
        return [bytes(self._store.get(key)) for key in keys]

    def meet(self) -> None:
        """Wait until all ranks have called this."""
        self.least(0)

    def abort(self) -> None:
        """End collectives that wait for a rank that is gone. The group cannot be used afterwards."""
        if self._peers is not None:
            self._peers.abort()
        if self._device is not None:
            self._device.give_up()
            if (backend := self._device.finished) is not None:
                backend.abort()
        self._host.abort()


def _finish(work: Any) -> None:
    """Wait for a collective. NCCL returns None for one that runs on the current stream, in order."""
    if work is not None:
        work.wait()


def _gloo(store: Store, rank: int, size: int) -> Any:
    dist = torch_distributed()
    options = dist.ProcessGroupGloo._Options()
    options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = _TIMEOUT
    return dist.ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Store, rank: int, size: int, device: torch.device) -> Any:
    for name, value in _LIBRARY_SETTINGS.items():
        os.environ.setdefault(name, value)
    dist = torch_distributed()
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = _TIMEOUT
    options.group_name = "tensor_parallel"
    torch.cuda.set_device(device)
    group = dist.ProcessGroupNCCL(store, rank, size, options)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        # The first collective creates the communicator, which a CUDA graph capture must not.
        _finish(group.allreduce([torch.zeros(1, device=device)]))
    stream.synchronize()
    return group
