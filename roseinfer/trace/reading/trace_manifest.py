"""The parts of a run directory's manifest.json that help to read its traces."""

from pathlib import Path
from typing import Any

import msgspec


class ManifestCeilings(msgspec.Struct, frozen=True):
    """What the device reached in measurements."""

    copy_bytes_per_s: float = 0.0
    flops_per_s: float = 0.0


class ManifestStep(msgspec.Struct, frozen=True):
    """What one profiled step had to do."""

    index: int = 0
    cycle: int = 0
    phase: str = ""
    batch: int = 0
    tokens: int = 0
    bytes: float = 0.0
    flops: float = 0.0


class GraphEvent(msgspec.Struct, frozen=True):
    """One GPU event of a captured graph."""

    name: str
    span: str | None = None


class Graph(msgspec.Struct, frozen=True):
    """A captured graph: its events in replay order, with the innermost span each was captured under."""

    events: list[GraphEvent]
    key: Any = None
    parents: dict[str, str] | None = None
    """The span that each of those spans was in, none for the outermost; None where that is not known."""


class ManifestModel(msgspec.Struct, frozen=True):
    """Which model ran."""

    name: str | None = None
    dtype: str | None = None


class ManifestEngineOptions(msgspec.Struct, frozen=True):
    """The engine's options that decide which weights it reads."""

    quantize: str | None = None


class ManifestProfileOptions(msgspec.Struct, frozen=True):
    """The profiler's options that slow down what it records."""

    with_stack: bool = False
    profile_memory: bool = False
    record_shapes: bool = False


class ManifestConfig(msgspec.Struct, frozen=True):
    """The run's configuration."""

    engine: ManifestEngineOptions = ManifestEngineOptions()
    profile: ManifestProfileOptions = ManifestProfileOptions()


class TraceManifest(msgspec.Struct, frozen=True):
    """The manifest; every part may be missing or, in a manifest of another version, unreadable."""

    device: str | None = None
    model: ManifestModel = ManifestModel()
    config: ManifestConfig = ManifestConfig()
    ceilings: ManifestCeilings | None = None
    baseline_step_ms: dict[str, float] = {}
    steps: list[ManifestStep] = []
    graphs: list[Graph] = []
    warnings: list[str] = []
    damage: str | None = None
    """What of the file cannot be read, and why; the file itself never says this."""


def find_manifest(trace: Path) -> TraceManifest | None:
    """The manifest beside a trace, or in the folder; None without one, or where the file is another tool's.

    Of a manifest that is broken, or parts of which do not fit, the rest is kept, and `damage` says what is missing.
    """
    path = (trace if trace.is_dir() else trace.parent) / "manifest.json"
    try:
        fields = msgspec.json.decode(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return TraceManifest(damage=f"it cannot be read: {error.strerror or error}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return TraceManifest(damage="it is no valid JSON")
    if not isinstance(fields, dict) or not {"schema_version", "traces", "steps", "graphs"} & fields.keys():
        return None
    known: dict[str, Any] = {}
    unread: list[str] = []
    for name in TraceManifest.__struct_fields__:
        if name == "damage" or fields.get(name) is None:
            continue
        try:
            known[name] = getattr(msgspec.convert({name: fields[name]}, TraceManifest), name)
        except (msgspec.ValidationError, RecursionError):
            unread.append(name)
    damage = f"these parts of it do not fit: {', '.join(unread)}" if unread else None
    return TraceManifest(**known, damage=damage)
