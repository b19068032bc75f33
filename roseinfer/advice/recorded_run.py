"""A run directory of `roseinfer profile`, read as what can be run again: its settings, its device, its summary."""

from pathlib import Path
from typing import Any

import msgspec

from roseinfer.advice.levers import Situation
from roseinfer.config import EngineConfig, RunConfig
from roseinfer.errors import UsageError
from roseinfer.trace.summary.trace_summary import Summary

MANIFEST = "manifest.json"


class _Limits(msgspec.Struct, frozen=True):
    max_batch_size: int
    max_batch_tokens: int


class _Host(msgspec.Struct, frozen=True):
    threads: int = 0
    cores: int = 0


class _Model(msgspec.Struct, frozen=True):
    name: str | None = None
    parameters: int = 0


class _Report(msgspec.Struct, frozen=True):
    requests: int = 0
    prompt_tokens: int = 0
    elapsed_total_s: float = 0.0


class _Manifest(msgspec.Struct, frozen=True):
    """The part of a manifest that defines the run."""

    config: dict[str, Any]
    device: str = ""
    limits: _Limits | None = None
    host: _Host = _Host()
    model: _Model = _Model()
    report: _Report = _Report()


class RecordedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that can be run again."""

    run_dir: Path
    config: RunConfig
    """Configuration, in which the limits of a step and the number of drawn requests are those that the run had."""
    device: str
    """Name of the device; "" if unknown."""
    model: str | None
    parameters: int
    """Parameters of the model; 0 if unknown."""
    threads: int
    cores: int
    requests: int
    """Requests of the workload; all turns of a conversation count."""
    prompt_tokens: int
    """Tokens of all prompts of the workload."""
    pass_s: float
    """Time of a pass over the workload without a profiler, in s; 0 if unknown."""

    @property
    def is_gpu(self) -> bool:
        """True if the run was on a GPU."""
        return not self.device.startswith("CPU")

    def situation(self, num_gpus: int, summary: Summary) -> Situation:
        """Return what decides which settings are worth a try."""
        workload, model = self.config.workload, self.config.engine.model
        conversations = self.requests // workload.turns
        repeated = workload.prompt_length is None and len(workload.prompts) < self.requests
        return Situation(
            engine=self.config.engine,
            is_gpu=self.is_gpu,
            num_gpus=num_gpus,
            threads=self.threads,
            cores=self.cores,
            requests=conversations * self.config.sampling.n,
            prompt_tokens=self.prompt_tokens,
            mode=workload.mode,
            shares_prefixes=bool(repeated or workload.shared_prefix_length or workload.turns > 1),
            is_quantized_file=model.endswith(".gguf") and (summary.recording.quantize or "auto") == "auto",
        )


def read_config(run_dir: Path, option: str) -> RunConfig:
    """Return the configuration of a run. Raises UsageError, naming `option`, for anything but a run directory."""
    return _read(run_dir, option)[1]


def read_run(run_dir: Path, option: str) -> RecordedRun:
    """Return a run with its limits filled in. Raises UsageError, naming `option`, for anything but a run directory."""
    manifest, config = _read(run_dir, option)
    workload, engine = config.workload, config.engine
    if workload.prompts_file == "-":
        raise UsageError(f"cannot run {run_dir / MANIFEST} again: its prompts came from stdin; give them in a file")
    if workload.prompt_length is not None and workload.num_requests is None and manifest.report.requests:
        # A limit of the batch that is filled in below would change how many requests are drawn.
        workload = msgspec.structs.replace(workload, num_requests=manifest.report.requests // workload.turns)
    return RecordedRun(
        run_dir=run_dir,
        config=msgspec.structs.replace(config, engine=_as_it_ran(engine, manifest), workload=workload),
        device=manifest.device,
        model=manifest.model.name,
        parameters=manifest.model.parameters,
        threads=manifest.host.threads,
        cores=manifest.host.cores,
        requests=manifest.report.requests or 1,
        prompt_tokens=manifest.report.prompt_tokens,
        pass_s=manifest.report.elapsed_total_s,
    )


def _as_it_ran(engine: EngineConfig, manifest: _Manifest) -> EngineConfig:
    """Return the settings with the device, and with the limits that followed its memory, since engines now share it."""
    limits = manifest.limits
    if engine.device == "auto" and manifest.device.startswith("CPU"):
        engine = msgspec.structs.replace(engine, device="cpu")
    if limits is None:
        return engine
    return msgspec.structs.replace(
        engine,
        max_batch_size=engine.max_batch_size or limits.max_batch_size,
        max_batch_tokens=engine.max_batch_tokens or limits.max_batch_tokens,
    )


def _read(run_dir: Path, option: str) -> tuple[_Manifest, RunConfig]:
    path = run_dir / MANIFEST
    if not path.is_file():
        raise UsageError(f"{option} takes a run directory of `roseinfer profile`: {run_dir} has no {MANIFEST}")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=_Manifest)
        config = msgspec.convert(manifest.config, RunConfig, str_keys=True)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot run {path} again: {error}") from None
    if set(manifest.config) != set(config.__struct_fields__):
        raise UsageError(f"cannot run {path} again: profile_session recorded it, not `roseinfer profile`")
    return manifest, config
