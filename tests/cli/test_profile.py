"""`roseinfer profile` records the engine's spans of exactly the active steps, into a run directory."""

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command import succeeds

LABEL = re.compile(r"roseinfer\.step\[(prefill|decode|mixed) bs=(\d+) tokens=(\d+)\]")
IN_EVERY_STEP = [
    "roseinfer.schedule",
    "roseinfer.prepare_inputs",
    "roseinfer.model.forward",
    "roseinfer.sample",
    "roseinfer.read_tokens",
    "roseinfer.commit",
    "roseinfer.detokenize",
]


@dataclass
class Profiled:
    """The output of one call of `profile`, and the folder of its run directory."""

    stdout: str
    stderr: str
    folder: Path

    @property
    def run_dir(self) -> Path:
        return (self.folder / "latest").resolve()

    @property
    def manifest(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads((self.run_dir / "manifest.json").read_text())
        return parsed

    @property
    def trace(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(gzip.decompress(self.trace_path.read_bytes()))
        return parsed

    @property
    def trace_path(self) -> Path:
        return self.run_dir / "rank0-cycle0.pt.trace.json.gz"

    @property
    def spans(self) -> list[dict[str, Any]]:
        """The engine's spans, ordered by start."""
        events = [event for event in self.trace["traceEvents"] if event.get("cat") == "user_annotation"]
        return sorted((e for e in events if e["name"].startswith("roseinfer.")), key=lambda event: event["ts"])

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [span for span in self.spans if span["name"].startswith("roseinfer.step[")]


def profile(folder: Path, *arguments: object) -> Profiled:
    done = succeeds("profile", "--profile-dir", folder, *arguments)
    return Profiled(done.stdout, done.stderr, folder)


def count(spans: Iterable[dict[str, Any]]) -> Counter[str]:
    """Count spans by name without its label."""
    return Counter(span["name"].partition("[")[0] for span in spans)


def inside(outer: dict[str, Any], inner: dict[str, Any]) -> bool:
    ends = (inner["ts"] + inner["dur"], outer["ts"] + outer["dur"])
    return inner["tid"] == outer["tid"] and outer["ts"] <= inner["ts"] and ends[0] <= ends[1]


@pytest.fixture(
    scope="module",
    params=[(mode, tokens) for mode in ("naive", "offline", "online") for tokens in (8, 1)],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def profiled(
    request: pytest.FixtureRequest, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Profiled, str]:
    """A profile of three requests with 8 or 1 new tokens, for each mode; and the mode."""
    mode, tokens = request.param
    prompts = ["--prompt", "one", "--prompt", "two three", "--num-requests", 3]
    engine = ["--model", tiny_llama, "--dtype", "float32", "--max-new-tokens", tokens, "--no-stop-on-eos"]
    schedule = ["--wait", 1, "--warmup", 1, "--active", 4]
    folder = tmp_path_factory.mktemp("profiles") / "of" / "mine"
    return profile(folder, *prompts, *engine, *schedule, "--mode", mode), mode


def test_each_part_of_a_step_occurs_exactly_once_in_each_active_step(profiled: tuple[Profiled, str]) -> None:
    spans, steps = profiled[0].spans, profiled[0].steps
    assert len(steps) == 4
    for name in IN_EVERY_STEP:
        parts = [span for span in spans if span["name"] == name]
        assert len(parts) == 4, name
        assert all(inside(step, part) for step, part in zip(steps, parts, strict=True)), name
    plans = [span for span in spans if span["name"] == "roseinfer.plan"]
    assert len(plans) == 4, "planning precedes each step"
    assert all(plan["ts"] + plan["dur"] <= step["ts"] for plan, step in zip(plans, steps, strict=True))


def test_a_step_says_what_it_computed(profiled: tuple[Profiled, str]) -> None:
    run, mode = profiled
    labels = [LABEL.fullmatch(step["name"]) for step in run.steps]
    recorded = run.manifest["steps"]
    assert len(recorded) == 4
    for index, (label, step) in enumerate(zip(labels, recorded, strict=True)):
        assert label is not None
        assert label.groups() == (step["phase"], str(step["batch"]), str(step["tokens"]))
        assert (step["index"], step["cycle"]) == (index + 2, 0)
        assert step["batch"] == (1 if mode == "naive" else 3)
        assert step["tokens"] >= step["batch"]
        assert step["context_tokens"] >= step["tokens"]
        assert (step["phase"] == "decode") == (step["tokens"] == step["batch"])


def test_attention_and_kv_append_happen_in_the_forward_once_a_layer(profiled: tuple[Profiled, str]) -> None:
    spans = profiled[0].spans
    forwards = [span for span in spans if span["name"] == "roseinfer.model.forward"]
    for name in ("roseinfer.attention", "roseinfer.kv.append"):
        parts = [span for span in spans if span["name"] == name]
        assert len(parts) == 2 * len(forwards), name  # the tiny model has two layers
        assert all(any(inside(forward, part) for forward in forwards) for part in parts), name


def test_the_trace_is_kinetos(profiled: tuple[Profiled, str]) -> None:
    trace = profiled[0].trace
    assert {"schemaVersion", "traceEvents", "baseTimeNanoseconds"} <= trace.keys()
    categories = {event.get("cat") for event in trace["traceEvents"]}
    assert {"cpu_op", "user_annotation"} <= categories


def test_the_run_directory_is_complete(profiled: tuple[Profiled, str]) -> None:
    run, mode = profiled
    assert re.fullmatch(rf"\d{{8}}-\d{{6}}-{mode}", run.run_dir.name)
    assert sorted(path.name for path in run.folder.iterdir()) == [run.run_dir.name, "latest"]
    files = {path.name for path in run.run_dir.iterdir()}
    assert files == {"rank0-cycle0.pt.trace.json.gz", "manifest.json", "summary.json"}
    summary = json.loads((run.run_dir / "summary.json").read_text())
    assert summary["schema_version"] == 2
    assert summary["steps"]["count"] == 4


def test_the_manifest_says_how_it_was_made(profiled: tuple[Profiled, str], tiny_llama: Path) -> None:
    run, mode = profiled
    manifest = run.manifest
    assert manifest["schema_version"] == 1
    assert {"roseinfer", "git_commit", "python", "torch", "cuda", "triton"} <= manifest["versions"].keys()
    assert (manifest["rank"], manifest["world_size"]) == (0, 1)
    assert manifest["config"].keys() == {"engine", "sampling", "workload", "profile"}
    assert manifest["config"]["workload"]["mode"] == mode
    model = manifest["model"]
    assert (model["name"], model["architecture"], model["dtype"]) == (str(tiny_llama), "llama", "float32")
    assert manifest["schedule"].items() >= {"wait": 1, "warmup": 1, "active": 4}.items()
    assert manifest["traces"] == ["rank0-cycle0.pt.trace.json.gz"]
    assert manifest["baseline_step_ms"]["prefill"] > 0
    assert manifest["report"]["requests"] == 3


def test_the_report_comes_before_the_table_and_the_path_last(profiled: tuple[Profiled, str]) -> None:
    run, mode = profiled
    lines = run.stdout.splitlines()
    assert lines[:2] == [f"Mode: {mode}", "Requests: 3"]
    assert any("aten::" in line for line in lines)
    assert lines[-1] == f"[profile] wrote: {run.run_dir / run.trace_path.name}"


def test_nothing_but_profile_itself_speaks_on_stderr(profiled: tuple[Profiled, str]) -> None:
    """Torch prints lines of its own for each session, which the user must not see."""
    assert all(line.startswith("[profile] ") for line in profiled[0].stderr.splitlines())


def test_without_wait_and_warmup_the_first_steps_are_recorded(tiny_llama: Path, tmp_path: Path) -> None:
    schedule = ["--wait", 0, "--warmup", 0, "--active", 2]
    run = profile(tmp_path, "--model", tiny_llama, "--prompt", "one", "--max-new-tokens", 5, *schedule)
    assert [step["name"] for step in run.steps] == [
        "roseinfer.step[prefill bs=1 tokens=3]",
        "roseinfer.step[decode bs=1 tokens=1]",
    ]
    assert [step["index"] for step in run.manifest["steps"]] == [0, 1]


@pytest.fixture(scope="module")
def looped(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    """A profile with --json whose schedule has 13 steps, over a workload of two steps."""
    workload = ["--prompt", "one", "--max-new-tokens", 2, "--no-stop-on-eos"]
    return profile(
        tmp_path_factory.mktemp("looped"), "--model", tiny_llama, *workload, "--active", 11, "--json", "--quiet"
    )


def test_a_short_workload_repeats_until_the_schedule_is_done(looped: Profiled) -> None:
    assert len(looped.steps) == 11
    assert count(looped.spans)["roseinfer.sample"] == 11
    assert Counter(step["phase"] for step in looped.manifest["steps"]) == {"prefill": 6, "decode": 5}
    # The report covers one unprofiled pass of the workload, however often the recording repeats the workload.
    assert looped.manifest["report"]["completion_tokens"] == 2


def test_json_is_the_run_its_report_and_its_summary(looped: Profiled) -> None:
    document = json.loads(looped.stdout)
    assert document.keys() == {"run_dir", "traces", "report", "summary"}
    assert Path(document["run_dir"]).resolve() == looped.run_dir
    assert [Path(trace).resolve() for trace in document["traces"]] == [looped.trace_path]
    assert document["report"] == looped.manifest["report"]
    assert document["summary"] == json.loads((looped.run_dir / "summary.json").read_text())
    assert looped.stderr == ""


def test_summarize_reads_the_recorded_trace(looped: Profiled) -> None:
    summary = json.loads(succeeds("summarize", looped.trace_path, "--json").stdout)
    assert summary["steps"]["source"] == "roseinfer.step"
    phases = {phase: row["count"] for phase, row in summary["steps"]["phases"].items()}
    assert phases == {"prefill": 6, "decode": 5}
    calls = {span["name"]: span["calls"] for span in summary["spans"]}
    assert calls["roseinfer.model.forward"] == 11


def test_a_second_run_moves_latest(tiny_llama: Path, tmp_path: Path) -> None:
    arguments = ["--model", tiny_llama, "--prompt", "one", "--max-new-tokens", 1, "--active", 1]
    first = profile(tmp_path, *arguments).run_dir
    second = profile(tmp_path, *arguments).run_dir
    assert first != second
    assert first.is_dir()
    assert (tmp_path / "latest").is_symlink()


def test_a_load_of_drawn_prompts_is_profiled_as_bench_runs_it(tiny_llama: Path, tmp_path: Path) -> None:
    load = ["--prompt-length", "5..9", "--num-requests", 3, "--max-new-tokens", 2, "--workload-seed", 7]
    found = profile(tmp_path, "--model", tiny_llama, *load, "--no-stop-on-eos", "--wait", 0, "--warmup", 0)
    assert found.manifest["report"]["requests"] == 3
    assert 15 <= found.manifest["report"]["prompt_tokens"] <= 27
    assert found.manifest["config"]["workload"]["prompt_length"] == "5..9"
