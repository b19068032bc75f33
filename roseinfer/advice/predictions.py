"""`predictions.json` of a run directory: what advice promised, and what following it gave."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from roseinfer.advice.paired_gains import Outcome
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.whole_file import write_whole

FILE = "predictions.json"
SCHEMA_VERSION = 1
BY_HAND = "by hand"
"""Value of `Prediction.lever` for a change that a person made."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of advice: its bound, and the measured effect of following it. Shares are of the time per token."""

    finding: str
    """Key of the finding, or id of the what-if bound, whose advice was followed."""
    rule: str
    """Rule of the finding, or id of the bound without its place."""
    lever: str
    """Setting that was changed, such as `graphs`; `by hand` for a change of the program."""
    change: str
    """The change: options of the command line; for a change by hand, the run or trace that has it."""
    source: Literal["try", "baseline", "rerun"]
    """Command that measured the change."""
    bound_percent: float | None
    """Upper bound of what the change saves; None if nothing bounds it."""
    saves_percent: float
    """Measured saving; negative if the change costs time."""
    noise_percent: float | None
    """Half the width of the confidence interval of `saves_percent`; None if it is unknown."""
    outcome: Outcome
    above_bound: bool
    """True if the saving without its noise exceeds the bound: a fault of the analysis."""
    device: str
    model: str | None
    measured_at: str
    """Time in UTC, in ISO 8601."""


class Predictions(msgspec.Struct, frozen=True, kw_only=True):
    """Content of predictions.json."""

    schema_version: int = SCHEMA_VERSION
    predictions: list[Prediction] = []


def exceeds(bound_percent: float | None, saves_percent: float, noise_percent: float | None) -> bool:
    """Return whether a measured saving is above its bound, by more than the noise."""
    return bound_percent is not None and saves_percent - (noise_percent or 0.0) > bound_percent


def utc_now() -> str:
    """Return the time as predictions have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def add_predictions(run_dir: Path, new: list[Prediction]) -> None:
    """Append predictions to those of a run directory. Raises RoseinferError if the file cannot be read or written."""
    document = Predictions(predictions=[*known_predictions(run_dir), *new])
    write_whole(run_dir / FILE, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def known_predictions(run_dir: Path) -> list[Prediction]:
    """Return the predictions of a run directory, none before the first. Raises RoseinferError as `read_predictions`."""
    path = run_dir / FILE
    return read_predictions(path) if path.exists() else []


def read_predictions(path: Path) -> list[Prediction]:
    """Return the predictions of a file. Raises RoseinferError for a file of another kind or version."""
    try:
        document = msgspec.json.decode(path.read_bytes(), type=Predictions)
    except OSError as error:
        raise RoseinferError(f"cannot read {path}: {error.strerror or error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RoseinferError(f"{path} is no list of predictions ({error}): remove it") from None
    if document.schema_version != SCHEMA_VERSION:
        raise RoseinferError(f"{path} has schema version {document.schema_version}, not {SCHEMA_VERSION}: remove it")
    return document.predictions


def predictions_below(folder: Path) -> list[Prediction]:
    """Return the predictions of all run directories in a folder, which are none if no time was left to measure any.

    Raises UsageError if nothing was tried below the folder.
    """
    if not folder.is_dir():
        raise UsageError(f"--scores takes a folder of run directories: {folder} is none")
    # A link such as `latest` would count a run twice; rglob does not follow links to folders.
    paths = sorted(folder.rglob(FILE))
    if not paths:
        raise UsageError(f"{folder} has no {FILE}: `roseinfer summarize RUN --try` writes one into a run directory")
    return [prediction for path in paths for prediction in read_predictions(path)]
