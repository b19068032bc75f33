"""Tell from the name of a copy between which memories it runs, on CUDA, HIP, XPU and MTIA devices."""

import re
from typing import Literal

CopyDirection = Literal["to_device", "to_host", "between_devices"]

_SEPARATORS = re.compile(r"[\s_>-]+")
_PARTS: dict[CopyDirection, tuple[str, ...]] = {
    "to_device": ("htod", "hosttodevice", "hostdevice", "h2d", "m2d"),
    "to_host": ("dtoh", "devicetohost", "devicehost", "devicepageable", "devicepinned", "d2h", "d2m"),
    "between_devices": ("ptop", "peertopeer", "p2p"),
}
"""Parts of names in lower case, without separators."""


def copy_direction(name: str) -> CopyDirection | None:
    """Return the direction of a copy; None inside a device, and for names that do not tell.

    Names are written as `Memcpy HtoD (Pinned -> Device)`, `CopyHostToDevice` or `Memcpy M2D`, by device.
    """
    plain = _SEPARATORS.sub("", name.lower())
    return next((way for way, parts in _PARTS.items() if any(part in plain for part in parts)), None)
