"""`roseinfer summarize --try` runs a recorded workload with other settings; `--scores` judges the predictions."""

import json
import shutil
from pathlib import Path

import pytest
from command import roseinfer, succeeds

SLOW = ("--no-compile", "--max-batch-size", 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A run whose settings are slow: two of four requests at a time."""
    folder = tmp_path_factory.mktemp("profiles")
    workload = ("--prompt", "abc", "--num-requests", 4, "--max-new-tokens", 12, "--no-stop-on-eos")
    succeeds("profile", "--model", tiny_llama, "--dtype", "float32", *SLOW, *workload, "--profile-dir", folder)
    return (folder / "latest").resolve()


def test_advice_is_tried_ranked_kept_and_scored(run: Path) -> None:
    """What is measured depends on the machine's load, so the outcomes are those of tests with scripted engines."""
    before = {path.name for path in run.iterdir()}
    done = succeeds("summarize", run, "--try", "--budget", "10min", "--json")
    report = json.loads(done.stdout)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {"advised", "starting", "tried"} <= {event["event"] for event in events}
    saved = [each["saves_percent"] for each in report["predictions"]]
    assert saved == sorted(saved, reverse=True)
    kept = json.loads((run / "predictions.json").read_text())["predictions"]
    assert kept == report["predictions"]
    batch = next(each for each in kept if each["change"] == "--max-batch-size 4")
    assert batch["bound_percent"] == pytest.approx(50)
    [untried] = report["untried"]
    assert untried["change"] == "--compile"
    assert "no-compiler" in untried["reason"]
    written = {path.name for path in run.iterdir()} - before
    assert written == {"predictions.json"} | ({"fastest.toml"} if report["combined"] else set())
    card = json.loads(succeeds("summarize", "--scores", run.parent, "--json").stdout)
    assert card["total"]["tried"] == len(kept)
    assert card["total"]["helped"] == sum(each["outcome"] == "helped" for each in kept)
    table = succeeds("summarize", "--scores", run.parent).stdout
    assert "Scores by setting" in table
    assert "batch_size" in table


def test_a_change_by_hand_is_kept_with_the_advice_that_it_followed(run: Path, tmp_path: Path, tiny_llama: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run, old)
    (old / "predictions.json").unlink(missing_ok=True)
    findings = json.loads(succeeds("summarize", old, "--json").stdout)["findings"]
    done = succeeds("summarize", run, "--baseline", old, "--finding", findings[0]["key"])
    assert f"[predictions] {findings[0]['key']}: saves 0.0 %" in done.stderr
    [kept] = json.loads((old / "predictions.json").read_text())["predictions"]
    again = succeeds("summarize", old, "--json")
    assert "predictions.json" not in again.stdout, "it is no trace that was left out"
    assert kept["source"] == "baseline"
    assert kept["lever"] == "by hand"
    assert kept["bound_percent"] == findings[0]["share_percent"]
    assert kept["outcome"] == "no clear change"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--try",), "--try takes a run directory of `roseinfer profile`: TRACE has no manifest.json"),
        (("--try", "--budget", "long"), "invalid --budget 'long': give a time, such as 120s or 5min"),
        (("--budget", "10s"), "--budget limits --try: add --try"),
        (("--try", "--rerun"), "leave --rerun out"),
        (("--try", "--top", "3"), "leave --top out"),
        (("--scores", "--markdown"), "leave --markdown out"),
        (("--scores",), "has no predictions.json"),
        (("--finding", "x"), "--finding needs a --baseline or --rerun"),
        (("--baseline", "TRACE", "--finding", "x"), "has no manifest.json"),
    ],
)
def test_what_cannot_be_tried_is_refused_in_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    given = [str(tmp_path) if each == "TRACE" else each for each in arguments]
    done = roseinfer("summarize", tmp_path, *given)
    assert done.returncode == 2
    assert message.replace("TRACE", str(tmp_path)) in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "NVIDIA H100"}, "the run was recorded on NVIDIA H100, and this machine has no GPU"),
        ({"finding": "launches"}, "--finding 'launches' is none of the older run's: give one of"),
        ({"slow": 100.0}, "a pass of this workload takes 100 s: give 900s or more"),
        ({"slow": 13.37}, "a pass of this workload takes 13.37 s: give 121s or more"),
    ],
)
def test_a_run_that_cannot_run_here_is_refused_in_one_line(
    run: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["device"] = changes.get("device", manifest["device"])
    manifest["report"]["elapsed_total_s"] = changes.get("slow", 0.01)
    path.write_text(json.dumps(manifest))
    if "finding" in changes:
        done = roseinfer("summarize", copy, "--baseline", copy, "--finding", changes["finding"])
    else:
        done = roseinfer("summarize", copy, "--try", "--quiet")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
