"""`roseinfer bench`: the origin's report for every mode, and the same as JSON."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command import succeeds

MODES = ["naive", "offline", "online"]
REPORT = [
    r"Mode: (\w+)",
    r"Requests: (\d+)",
    r"Elapsed \(prefill/add\): (\d+\.\d+) s",
    r"Elapsed \(decode/run\): (\d+\.\d+) s",
    r"Elapsed \(total\): (\d+\.\d+) s",
    r"Prompt tokens: (\d+)",
    r"Completion tokens: (\d+)",
    r"Total tokens: (\d+)",
    r"Throughput \(completion\): (\d+\.\d+) tokens/s",
    r"Throughput \(total\): (\d+\.\d+) tokens/s",
]
LATENCY = {"mean", "p50", "p90", "p99"}
SPREAD = {"mean", "std", "median", "min", "max"}


def reports(stdout: str) -> list[tuple[str, ...]]:
    """The values of each report in the output, in the order of REPORT."""
    return re.findall("\n".join(REPORT), stdout)


def test_the_origins_run_reports_256_completion_tokens_in_each_mode() -> None:
    done = succeeds("bench", "--config", "origin-gpt2", "--mode", "all", "--repeats", 1)
    found = reports(done.stdout)
    assert [report[0] for report in found] == MODES
    for _, requests, add_s, run_s, total_s, prompt, completion, total, completion_rate, total_rate in found:
        assert (requests, prompt, completion, total) == ("16", "16", "256", "272")
        assert float(total_s) == pytest.approx(float(add_s) + float(run_s), abs=2e-6)
        assert float(completion_rate) == pytest.approx(256 / float(total_s), rel=1e-3)
        assert float(total_rate) == pytest.approx(272 / float(total_s), rel=1e-3)
    assert "Latencies" in done.stdout


@pytest.fixture(scope="module")
def document(tiny_llama: Path) -> dict[str, Any]:
    """`bench --json` of five requests of two prompts on the tiny model, in all modes."""
    prompts = ["--prompt", "one", "--prompt", "three", "--num-requests", 5]
    sampling = ["--max-new-tokens", 4, "--no-stop-on-eos", "--temperature", 0.5, "--top-k", 9, "--seed", 3]
    engine = ["--model", tiny_llama, "--dtype", "float32", "--max-batch-size", 4]
    done = succeeds("bench", *prompts, *sampling, *engine, "--mode", "all", "--repeats", 2, "--json")
    assert done.stderr == ""
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def test_json_says_what_ran_where(document: dict[str, Any], tiny_llama: Path) -> None:
    assert document["schema_version"] == 1
    environment = document["environment"]
    assert set(environment["versions"]) >= {"roseinfer", "git_commit", "python", "torch", "cuda", "triton"}
    assert environment["device"]
    assert environment["threads"] >= 1
    model = document["model"]
    assert (model["name"], model["architecture"], model["dtype"]) == (str(tiny_llama), "llama", "float32")
    assert model["parameters"] > 0
    assert document["engine"]["model"] == str(tiny_llama)
    assert document["engine"]["max_batch_size"] == 4
    assert document["engine"]["seed"] == 3


@pytest.mark.parametrize("index", range(3), ids=MODES)
def test_json_holds_every_figure_of_a_run(document: dict[str, Any], index: int) -> None:
    run = document["runs"][index]
    assert (run["name"], run["mode"], run["workload"]["mode"]) == (MODES[index],) * 3
    assert (run["seed"], run["repeats"], run["requests"], run["preemptions"]) == (3, 2, 5, 0)
    assert run["workload"]["prompts"] == ["one", "three"]
    assert run["sampling"]["top_k"] == 9
    # Three requests of "one" and two of "three", a token a byte.
    assert (run["prompt_tokens"], run["completion_tokens"], run["total_tokens"]) == (19, 20, 39)
    elapsed = run["elapsed_s"]
    assert elapsed["total"] == pytest.approx(elapsed["add"] + elapsed["run"])
    for rate in ("completion_tokens_per_s", "total_tokens_per_s"):
        assert set(run[rate]) == SPREAD
        assert 0 < run[rate]["min"] <= run[rate]["mean"] <= run[rate]["max"]
    for latency in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"):
        assert set(run[latency]) == LATENCY
        assert 0 < run[latency]["p50"] <= run[latency]["p90"] <= run[latency]["p99"]
    assert run["ttft_ms"]["p50"] < run["e2e_ms"]["p50"]
    assert run["decode"]["steps"] == {"naive": 15, "offline": 6, "online": 6}[run["mode"]]
    assert run["decode"]["median_step_ms"] > 0
    assert run["decode"]["tokens_per_s"] > 0
    assert run["prefill"]["tokens_per_s"] > 0


def test_all_modes_are_measured_in_order(document: dict[str, Any]) -> None:
    assert [run["mode"] for run in document["runs"]] == MODES
