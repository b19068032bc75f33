"""The use of AMX by the compiled CPU kernels: products and attention of many bfloat16 rows (cpp/tiles.h)."""

import ctypes
from enum import IntEnum

import torch

from roseinfer.kernels.cpu.native_library import functions


class TileMode(IntEnum):
    """When the kernels multiply by tiles: `TileMode` in cpp/tiles.h."""

    NEVER = 0
    BY_PROCESSOR = 1
    """If the processor has AMX and the operating system permits it: the mode of a library that was just loaded."""
    ALWAYS = 2
    """Without AMX by portable code, which is slow: for tests."""


def set_tile_mode(mode: TileMode) -> bool:
    """Set the mode of the loaded kernels, for the whole process. Return True if they now multiply by tiles."""
    uses = ctypes.c_int64()
    functions["set_tile_mode", torch.bfloat16](mode, ctypes.byref(uses))
    return bool(uses.value)
