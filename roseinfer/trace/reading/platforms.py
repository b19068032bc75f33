"""Tell on which kind of device a trace was recorded, and name devices whose names are missing."""

from collections.abc import Iterable

from roseinfer.trace.reading.event_schema import DeviceProperties, Metadata
from roseinfer.trace.summary.device_structs import Platform

_CATEGORIES: dict[str, Platform] = {"xpu_": "xpu", "mtia_": "mtia", "hip_": "rocm", "privateuse1_": "other"}
_UNNAMED: dict[Platform, str] = {"cuda": "", "rocm": "AMD GPU", "xpu": "Intel GPU", "mtia": "MTIA", "other": ""}
_GIB = 1 << 30


def platform_of(categories: Iterable[str], calls: Iterable[str], metadata: Metadata) -> Platform:
    """Return the kind of device, from the categories, the names of runtime calls and the metadata of a trace."""
    for category in categories:
        for start, platform in _CATEGORIES.items():
            if category.lower().startswith(start):
                return platform
    is_rocm = metadata.hip_runtime_version is not None or metadata.roctracer_version is not None
    return "rocm" if is_rocm or any(name.startswith("hip") for name in calls) else "cuda"


def device_name(properties: DeviceProperties | None, metadata: Metadata, platform: Platform) -> str:
    """Return the name of a device; if the trace has none, its vendor and memory; "" if nothing is known.

    A device without properties has the name of the others, if these agree: ROCm numbers devices anew in a trace.
    """
    if properties is None:
        names = {known.name for known in metadata.deviceProperties}
        if len(names) == 1 and platform == "rocm":
            properties = metadata.deviceProperties[0]
    if properties is not None and properties.name.strip():
        return properties.name
    name = _UNNAMED[platform]
    memory = properties.totalGlobalMem if properties is not None else None
    if name and isinstance(memory, int) and memory >= _GIB:
        return f"{name} ({round(memory / _GIB)} GiB)"
    return name
