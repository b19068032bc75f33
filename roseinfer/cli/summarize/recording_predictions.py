"""`roseinfer summarize ... --finding ID`: remember what following a piece of advice gave."""

from pathlib import Path

from roseinfer.advice.followed_advice import followed_advice, named_advice
from roseinfer.advice.predictions import FILE, add_predictions, known_predictions
from roseinfer.advice.recorded_run import MANIFEST
from roseinfer.cli import console
from roseinfer.errors import UsageError
from roseinfer.trace.summary.trace_summary import Summary


def check_run_dir(older: Path) -> None:
    """Raise UsageError if the older run, whose predictions are kept, is no run directory."""
    if not (older / MANIFEST).is_file():
        raise UsageError(f"--finding keeps predictions in the older run's directory: {older} has no {MANIFEST}")
    known_predictions(older)  # a file that cannot be read is refused before anything is profiled


def check_finding(finding: str, old: Summary) -> None:
    """Raise UsageError if the older run has no such finding. Call this before long work."""
    named_advice(finding, old)


def record_prediction(older: Path, finding: str, old: Summary, new: Summary, *, is_rerun: bool) -> None:
    """Add a prediction to those of the older run, and say how good it was."""
    prediction = followed_advice(finding, old, new, "rerun" if is_rerun else "baseline")
    add_predictions(older, [prediction])
    from roseinfer.cli.rendering.advice_sheets import fault_line, verdict_on

    noise = "" if prediction.noise_percent is None else f" +- {prediction.noise_percent:.1f}"
    console.note(
        f"[predictions] {prediction.finding}: saves {prediction.saves_percent:.1f} %{noise} of at most "
        f"{prediction.bound_percent:.1f} %: {verdict_on(prediction)}; wrote {older / FILE}"
    )
    if prediction.above_bound:
        console.note(fault_line(prediction))
