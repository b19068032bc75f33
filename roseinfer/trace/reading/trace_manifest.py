"""Read those parts of a run directory's manifest.json that explain its traces."""

from pathlib import Path
from typing import Any

import msgspec


class ManifestCeilings(msgspec.Struct, frozen=True):
    """Measured maximum rates of the device."""

    copy_bytes_per_s: float = 0.0
    flops_per_s: float = 0.0


class ManifestStep(msgspec.Struct, frozen=True):
    """Work of one profiled step."""

    index: int = 0
    cycle: int = 0
    phase: str = ""
    batch: int = 0
    tokens: int = 0
    bytes: float = 0.0
    """Bytes that the step must at least move: weights, keys and values, logits."""
    flops: float = 0.0


class ManifestBaseline(msgspec.Struct, frozen=True):
    """Unprofiled steps of one phase with as many requests and tokens."""

    phase: str = ""
    batch: int = 0
    tokens: int = 0
    steps: int = 0
    wall_ms: float = 0.0
    """Median wall time of a step."""
    bytes: float = 0.0
    """Median bytes that a step must at least move."""
    flops: float = 0.0


class ManifestHost(msgspec.Struct, frozen=True):
    """Threads, and cores used, of the pass without a profiler."""

    threads: int = 0
    cores: int = 0
    """Physical cores that the process may run on."""
    cores_used: float = 0.0
    cores_idle: float | None = None
    """Mean number of these cores that no program used; None if unknown."""
    threads_waiting: float | None = None
    """Mean number of threads of the run that had to wait for a core; None if unknown."""


class GraphEvent(msgspec.Struct, frozen=True):
    """A GPU event of a captured graph, and the innermost span under which it was captured."""

    name: str
    span: str | None = None


class Graph(msgspec.Struct, frozen=True):
    """A captured graph: its GPU events in replay order."""

    events: list[GraphEvent]
    key: Any = None
    """Key of the graph, such as `decode bs=8 greedy`."""
    parents: dict[str, str] | None = None
    """Parent of each span; outermost spans have no entry. None if the nesting is unknown."""


class ManifestModel(msgspec.Struct, frozen=True):
    """The model that ran."""

    name: str | None = None
    dtype: str | None = None


class ManifestVersions(msgspec.Struct, frozen=True):
    """Versions of the software that ran."""

    roseinfer: str | None = None
    python: str | None = None
    torch: str | None = None
    cuda: str | None = None
    triton: str | None = None


class ManifestEngineOptions(msgspec.Struct, frozen=True):
    """Options of the engine that decide how many bytes of weights a step reads."""

    quantize: str | None = None


class ManifestProfileOptions(msgspec.Struct, frozen=True):
    """Options of the profiler that slow down the recorded program."""

    with_stack: bool = False
    profile_memory: bool = False
    record_shapes: bool = False


class ManifestConfig(msgspec.Struct, frozen=True):
    """Configuration of the run."""

    engine: ManifestEngineOptions = ManifestEngineOptions()
    profile: ManifestProfileOptions = ManifestProfileOptions()


class TraceManifest(msgspec.Struct, frozen=True):
    """The manifest. Any part may be missing or, in a manifest of another version, unreadable."""

    device: str | None = None
    versions: ManifestVersions = ManifestVersions()
    model: ManifestModel = ManifestModel()
    config: ManifestConfig = ManifestConfig()
    ceilings: ManifestCeilings | None = None
    host: ManifestHost | None = None
    baseline_step_ms: dict[str, float] = {}
    """Step time by phase, measured without the profiler; in older manifests the median over launches of any length."""
    baseline_steps: list[ManifestBaseline] = []
    """Unprofiled steps by work; empty in older manifests."""
    steps: list[ManifestStep] = []
    graphs: list[Graph] = []
    warnings: list[str] = []
    damage: str | None = None
    """Unreadable parts of the file and the reason, or None. Set by the reader; not a field of the file."""


def find_manifest(trace: Path) -> TraceManifest | None:
    """Return the manifest in the folder of a trace, or None if there is none or if another tool wrote it.

    If parts of the manifest are unreadable, the other parts are returned and `damage` names the unreadable ones.
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
