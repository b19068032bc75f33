"""Memory that processes share between GPUs of one host: CUDA's interprocess communication, by the driver's library.

torch shares tensors too, but leaves a file in /dev/shm for each process that is killed.
"""

import ctypes
import functools
import weakref
from typing import Any

from torch import Tensor

from roseinfer.distributed.rank_messages import decoded, encoded

_OPENS_PEER_ACCESS = 1


class _Handle(ctypes.Structure):
    """CUipcMemHandle: what another process needs to map an allocation."""

    _fields_ = (("reserved", ctypes.c_ubyte * 64),)


class MappedMemory:
    """Memory of a tensor of another process, mapped into this one until the object is dropped."""

    def __init__(self, payload: bytes) -> None:
        """Map what `exported` describes, for the current device. Raises RuntimeError if that is not possible."""
        handle, offset = decoded(payload, tuple[bytes, int])
        base = ctypes.c_uint64()
        opened = _Handle.from_buffer_copy(handle)
        _check(_driver().cuIpcOpenMemHandle_v2(ctypes.byref(base), opened, ctypes.c_uint(_OPENS_PEER_ACCESS)))
        self.address = base.value + offset
        """Address of the tensor's first element."""
        weakref.finalize(self, _driver().cuIpcCloseMemHandle, base).atexit = False


def exported(tensor: Tensor) -> bytes:
    """Return what other processes need to map a tensor's memory. Raises RuntimeError if it cannot be shared."""
    base, size = ctypes.c_uint64(), ctypes.c_size_t()
    address = tensor.data_ptr()
    _check(_driver().cuMemGetAddressRange_v2(ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(address)))
    handle = _Handle()
    _check(_driver().cuIpcGetMemHandle(ctypes.byref(handle), base))
    return encoded((bytes(handle), address - base.value))


@functools.lru_cache
def _driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise RuntimeError(str(error)) from None


def _check(code: int) -> None:
    if code:
        raise RuntimeError(f"the CUDA driver returned error {code}")
