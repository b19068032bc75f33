"""Every rank knows where the areas of all ranks are, and the areas do not overlap."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch

from roseinfer.distributed import peer_memory
from roseinfer.distributed.peer_memory import JoinLimits, PeerMemory, new_peer_memory
from roseinfer.kernels.norms import Norm
from roseinfer.kernels.ranks import joined_norm

RANKS, SIZE = 3, 256


class Meeting:
    """Exchanges the payloads of threads that are the ranks."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(RANKS)
        self.payloads: dict[int, bytes] = {}


class ThreadGroup:
    """The part of a group of ranks that sets memory up, between threads."""

    size, device = RANKS, torch.device("cpu")

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting, self.rank = meeting, rank

    def least(self, value: int) -> int:
        return min(map(int, self.exchange(str(int(value)).encode())))

    def exchange(self, payload: bytes) -> list[bytes]:
        self.meeting.barrier.wait()
        self.meeting.payloads[self.rank] = payload
        self.meeting.barrier.wait()
        return [self.meeting.payloads[rank] for rank in range(RANKS)]


class SameProcess:
    """Memory of another thread, whose address is the payload."""

    def __init__(self, payload: bytes) -> None:
        self.address = int(payload)


def exported(words: torch.Tensor) -> bytes:
    return str(words.data_ptr()).encode()


@pytest.fixture(autouse=True)
def _without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: RANKS)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda here, other: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(peer_memory, "MappedMemory", SameProcess)
    monkeypatch.setattr(peer_memory, "exported", exported)


def memories(dtype: torch.dtype = torch.bfloat16) -> list[PeerMemory | None]:
    """The memory of each rank, for joins of two rows whole and five rows divided."""
    meeting, row_bytes = Meeting(), SIZE * 2
    limits = JoinLimits(2 * row_bytes, 5 * row_bytes)
    with ThreadPoolExecutor(RANKS) as threads:
        return list(
            threads.map(lambda rank: new_peer_memory(ThreadGroup(meeting, rank), SIZE, dtype, limits), range(RANKS))
        )


def test_areas_of_all_ranks_are_known_and_apart() -> None:
    found = [memory for memory in memories() if memory is not None]
    assert len(found) == RANKS
    for kind, rows in (("whole", 2), ("divided", 5), ("keys", 1024)):
        starts = [getattr(memory, kind).words.data_ptr() for memory in found]
        for memory in found:
            area = getattr(memory, kind)
            assert (area.max_rows, area.addresses.tolist()) == (rows, starts)
    for memory in found:
        areas = sorted(
            (area.words.data_ptr(), area.words.data_ptr() + area.words.nbytes)
            for area in (memory.whole, memory.divided, memory.keys)
        )
        assert all(stop <= start for (_, stop), (start, _) in pairwise(areas))


def test_nobody_uses_memory_that_one_rank_cannot_share(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = iter([False, True, False])
    lock = threading.Lock()

    def sometimes(words: torch.Tensor) -> bytes:
        with lock:
            if next(failing):
                raise RuntimeError("no IPC here")
        return exported(words)

    monkeypatch.setattr(peer_memory, "exported", sometimes)
    assert memories() == [None] * RANKS


def test_other_element_types_have_no_memory() -> None:
    assert memories(torch.float32) == [None] * RANKS


def test_few_rows_are_joined_whole_more_are_divided_and_many_are_left_to_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joined_norm, "runs_triton", lambda *tensors: True)  # in the interpreter, on the CPU
    found = [memory for memory in memories() if memory is not None]
    norm, used = Norm(torch.ones(SIZE, dtype=torch.bfloat16), 1e-5), []
    for rows in (2, 3, 5, 6):
        for memory in found:
            memory.whole.counters.zero_()
            memory.divided.counters.zero_()
        joined = found[0].join(torch.ones(rows, SIZE, dtype=torch.bfloat16), None, norm)
        used.append((joined is not None, bool(found[0].whole.counters.any()), bool(found[0].divided.counters.any())))
    assert used == [(True, True, False), (True, False, True), (True, False, True), (False, False, False)]
