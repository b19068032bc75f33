"""`roseinfer bench`: the text report of every mode, and the JSON document."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import roseinfer as run_roseinfer
from command import succeeds
from jsonschema import Draft202012Validator

import roseinfer

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
    r"Throughput \(requests\): (\d+\.\d+) requests/s",
]
LATENCY = {"mean", "p50", "p90", "p99"}
SPREAD = {"mean", "std", "median", "min", "max"}


def reports(stdout: str) -> list[tuple[str, ...]]:
    """Return the values of each report in the output, in the order of REPORT."""
    return re.findall("\n".join(REPORT), stdout)


def test_the_tutorial_engines_run_reports_256_completion_tokens_in_each_mode(tiny_gpt2: Path, tmp_path: Path) -> None:
    """The model is narrow, and has GPT-2's vocabulary: the run's numbers of tokens depend on nothing else."""
    config = json.loads((tiny_gpt2 / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 50257, "n_positions": 1024}))
    model = ["--model", tmp_path, "--tokenizer", "gpt2"]
    done = succeeds("bench", "--config", "tutorial-gpt2", *model, "--mode", "all", "--repeats", 1)
    found = reports(done.stdout)
    assert [report[0] for report in found] == MODES
    for _, requests, add_s, run_s, total_s, prompt, completion, total, *rates in found:
        assert (requests, prompt, completion, total) == ("16", "16", "256", "272")
        assert float(total_s) == pytest.approx(float(add_s) + float(run_s), abs=2e-6)
        for rate, count in zip(rates, (256, 272, 16), strict=True):
            assert float(rate) == pytest.approx(count / float(total_s), rel=1e-3, abs=0.006)
    assert "Latencies" in done.stdout


@pytest.fixture(scope="module")
def document(tiny_llama: Path) -> dict[str, Any]:
    """Output of `bench --json` for five requests with two prompts on the tiny model, in all modes."""
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
    # Three requests with prompt "one" and two with "three", at one token per byte.
    assert (run["prompt_tokens"], run["completion_tokens"], run["total_tokens"]) == (19, 20, 39)
    elapsed = run["elapsed_s"]
    assert elapsed["total"] == pytest.approx(elapsed["add"] + elapsed["run"])
    for rate in ("requests_per_s", "completion_tokens_per_s", "total_tokens_per_s"):
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


def test_json_validates_against_the_published_schema_in_every_mode(document: dict[str, Any]) -> None:
    schema = json.loads((Path(roseinfer.__file__).parent / "bench" / "bench.schema.json").read_bytes())
    Draft202012Validator(schema).validate(document)
    assert {run["mode"] for run in document["runs"]} == set(MODES)


def test_all_modes_are_measured_in_order(document: dict[str, Any]) -> None:
    assert [run["mode"] for run in document["runs"]] == MODES


def test_every_figure_follows_by_hand_from_the_saved_requests(tiny_llama: Path, tmp_path: Path) -> None:
    saved = tmp_path / "requests.jsonl"
    workload = ["--prompt-length", "3..20", "--completion-length", "2..6", "--num-requests", 7, "--request-rate", 400]
    engine = ["--model", tiny_llama, "--dtype", "float32", "--max-batch-size", 2]
    slo = ["--slo", "ttft=1s,tpot=1s"]
    done = succeeds("bench", *engine, *workload, *slo, "--repeats", 2, "--save-requests", saved, "--json")
    run = json.loads(done.stdout)["runs"][0]
    requests = [json.loads(line) for line in saved.read_text().splitlines()]
    assert [(request["repeat"], request["request_id"]) for request in requests] == [
        (r, i) for r in (0, 1) for i in range(7)
    ]
    assert {request["run"] for request in requests} == {run["name"]}

    for repeat in (0, 1):
        tokens = [len(request["token_times_s"]) for request in requests if request["repeat"] == repeat]
        assert sum(tokens) == run["completion_tokens"]
        elapsed_s = run["per_repeat"][repeat]["elapsed_s"]
        assert run["per_repeat"][repeat]["completion_tokens_per_s"] == pytest.approx(sum(tokens) / elapsed_s)
        last_s = max(request["token_times_s"][-1] for request in requests if request["repeat"] == repeat)
        assert last_s <= elapsed_s
    assert sum(request["prompt_tokens"] for request in requests) == 2 * run["prompt_tokens"]
    assert run["elapsed_s"]["total"] == min(repeat["elapsed_s"] for repeat in run["per_repeat"])
    assert run["elapsed_s"]["total"] == pytest.approx(run["elapsed_s"]["add"] + run["elapsed_s"]["run"])
    assert all(request["arrival_s"] <= request["submitted_s"] < request["token_times_s"][0] for request in requests)

    ttft = [request["token_times_s"][0] - request["arrival_s"] for request in requests]
    e2e = [request["token_times_s"][-1] - request["arrival_s"] for request in requests]
    itl = [gap for request in requests for gap in np.diff(request["token_times_s"])]
    tpot = [np.diff(request["token_times_s"]).mean() for request in requests]
    for name, values_s in (("ttft_ms", ttft), ("e2e_ms", e2e), ("itl_ms", itl), ("tpot_ms", tpot)):
        assert run[name]["mean"] == pytest.approx(np.mean(values_s) * 1e3)
        for part, percent in (("p50", 50), ("p90", 90), ("p99", 99)):
            assert run[name][part] == pytest.approx(np.percentile(values_s, percent) * 1e3)
    assert run["goodput"]["met_percent"] == 100


def test_a_grid_is_a_table_like_llama_benchs_in_every_format(tiny_llama: Path, tmp_path: Path) -> None:
    call = ["bench", "--model", tiny_llama, "--dtype", "float32", "--repeats", 1, "--max-batch-size", "1,2"]
    grid = [*call, "--prompt-length", 16, "--max-new-tokens", "4"]
    plot = tmp_path / "plot.svg"
    markdown = succeeds(*grid, "--format", "md", "--plot", plot).stdout
    for batch in (1, 2):
        assert re.search(rf"\| float32 \| online \| {batch} \| pp16 \| [\d.]+ \|", markdown)
        assert re.search(rf"\| float32 \| online \| {batch} \| tg4 @ d16 \| [\d.]+ \|", markdown)
    assert "| online pp16+tg4 bs=2 |" in markdown
    assert "<svg" in plot.read_text()

    rows = list(csv.DictReader(succeeds(*grid, "--format", "csv").stdout.splitlines()))
    assert [(row["max_batch_size"], row["prompt_length"], row["requests"]) for row in rows] == [
        ("1", "16", "1"),
        ("2", "16", "2"),
    ]
    lines = [json.loads(line) for line in succeeds(*grid, "--format", "jsonl").stdout.splitlines()]
    assert [line["run"]["max_batch_size"] for line in lines] == [1, 2]
    assert all(line["environment"]["device"] for line in lines)


def test_a_rate_without_end_is_all_at_once(tiny_llama: Path) -> None:
    call = ["bench", "--model", tiny_llama, "--prompt-length", 4, "--max-new-tokens", 4, "--repeats", 1]
    (run,) = json.loads(succeeds(*call, "--request-rate", "inf", "--json", "--format", "json").stdout)["runs"]
    assert run["workload"]["request_rate"] is None


def test_a_rate_search_whose_load_is_too_short_says_so_and_ends(tiny_llama: Path) -> None:
    call = ["bench", "--model", tiny_llama, "--dtype", "float32", "--prompt-length", 4, "--max-new-tokens", 4]
    search = [*call, "--num-requests", 6, "--repeats", 1, "--find-max-rate", "--slo", "ttft=10s"]
    done = succeeds(*search)
    (remark,) = [line for line in done.stdout.splitlines() if line.startswith("No limit found: ttft=10000ms")]
    assert re.search(r"is met at \d+(\.\d+)? requests/s \(about [\d.]+ requests/s are served\)", remark)
    assert "raise --num-requests" in remark
    assert not re.search(r"\de[+-]\d", done.stdout + done.stderr), "a rate is no power of ten"

    done = succeeds(*search, "--json")
    (run,) = json.loads(done.stdout)["runs"]
    assert run["search"]["load_too_short"]
    assert run["search"]["found"] == run["workload"]["request_rate"] == run["search"]["trials"][-1]["value"]
    assert run["requests_per_s"]["mean"] < run["search"]["found"]
    assert "No limit found" in done.stderr


@pytest.mark.parametrize("search", ["--find-max-rate", "--find-max-batch"])
def test_a_search_for_what_is_out_of_reach_fails_at_once_with_what_was_measured(search: str, tiny_llama: Path) -> None:
    call = ["bench", "--model", tiny_llama, "--prompt-length", 4, "--max-new-tokens", 4, "--num-requests", 40]
    done = run_roseinfer(*call, search, "--slo", "ttft=0.001ms", "--quiet")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert re.search(r"no --[\w-]+ meets ttft=0.001ms,share=90%: .*median TTFT [\d.]+ ms", line)


def test_a_run_of_one_repeat_claims_no_spread_and_says_one_throughput(tiny_llama: Path) -> None:
    call = ["bench", "--model", tiny_llama, "--dtype", "float32", "--prompt", "one", "--max-new-tokens", 4]
    once = succeeds(*call, "--repeats", 1).stdout
    assert "± std" in once
    assert not re.search(r"± *\d", once)
    assert "repeats, the one with the median time" not in once
    thrice = succeeds(*call, "--repeats", 3).stdout
    assert "Of 3 repeats, the one with the median time:\nMode: online" in thrice
    assert re.search(r"± *\d", thrice)
    (run,) = json.loads(succeeds(*call, "--repeats", 1, "--json").stdout)["runs"]
    assert run["completion_tokens_per_s"]["std"] is None


def test_a_regression_past_the_limit_exits_3_and_says_where(tiny_llama: Path, tmp_path: Path) -> None:
    call = ["bench", "--model", tiny_llama, "--dtype", "float32", "--prompt", "one", "--max-new-tokens", 4]
    document = json.loads(succeeds(*call, "--repeats", 1, "--json").stdout)
    old = tmp_path / "old.json"
    for faster, code in ((1000, 3), (1 / 1000, 0)):
        changed = json.loads(json.dumps(document))
        repeat = changed["runs"][0]["per_repeat"][0]
        repeat["completion_tokens_per_s"] *= faster
        for latency in ("ttft_ms", "tpot_ms", "decode_step_ms"):
            repeat[latency] /= faster
        old.write_text(json.dumps(changed))
        done = run_roseinfer(*call, "--repeats", 1, "--baseline", old, "--fail-above", "90%")
        assert done.returncode == code, done.stderr
        assert "Against the baseline" in done.stdout
        assert ("regression" in done.stdout) == (code == 3)
        assert "noise of one repeat is not known" in done.stdout
        assert "%" in done.stdout
        assert not re.search(r"± *\d", done.stdout)


def test_a_comparison_is_in_the_json_too_and_names_another_engine(tiny_llama: Path, tmp_path: Path) -> None:
    call = ["bench", "--model", tiny_llama, "--dtype", "float32", "--prompt", "one", "--max-new-tokens", 4, "--json"]
    old = tmp_path / "old.json"
    first = succeeds(*call).stdout
    assert json.loads(first)["comparison"] is None
    old.write_text(first)
    done = succeeds(*call, "--attention", "gather", "--baseline", old)
    document = json.loads(done.stdout)
    schema = json.loads((Path(roseinfer.__file__).parent / "bench" / "bench.schema.json").read_bytes())
    Draft202012Validator(schema).validate(document)
    found = document["comparison"]
    assert found["differences"] == ["attention: paged then, gather now"]
    assert (found["baseline"], found["limit_percent"], found["regressed"]) == (str(old), None, False)
    assert [change["metric"] for change in found["changes"]][:2] == ["completion tokens/s", "TTFT, ms"]
    assert all(change["noise_percent"] > 0 for change in found["changes"])
    assert "Not the same as the baseline: attention: paged then, gather now" in done.stderr
    assert "Against the baseline" in done.stderr


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--max-new-tokens", 5], "another workload (max_new_tokens: 4 then, 5 now)"),
        (["--prompt-length", 7], "prompt_length: unset then, 7 now"),
        (["--model", "gpt2", "--load-format", "dummy", "--tokenizer", "gpt2"], "(gpt2, 124.4 M parameters) now"),
    ],
)
def test_a_baseline_of_something_else_judges_nothing(
    changed: list[object], message: str, tiny_llama: Path, tmp_path: Path
) -> None:
    call = ["bench", "--model", tiny_llama, "--dtype", "float32", "--prompt", "one", "--max-new-tokens", 4]
    old = tmp_path / "old.json"
    old.write_text(succeeds(*call, "--repeats", 1, "--json").stdout)
    done = run_roseinfer(*call, *changed, "--repeats", 1, "--baseline", old, "--fail-above", "5%")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert message in line
    shown = succeeds(*call, *changed, "--repeats", 1, "--baseline", old).stdout
    assert "Not the same as the baseline:" in shown
    assert "Against the baseline" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-batch-size", "1,x"], "invalid --max-batch-size '1,x': give whole numbers separated by commas"),
        (["--max-batch-size", "1,0"], "invalid --max-batch-size 0: give a whole number of 1 or more"),
        (["--max-new-tokens", "-1"], "invalid --max-new-tokens -1: give a whole number of 0 or more"),
        (["--max-new-tokens", "4,4"], "it holds a value twice"),
        (["--request-rate", "-1"], "invalid --request-rate -1: give a rate above 0, or inf for all requests at once"),
        (["--request-rate", "0"], "invalid --request-rate 0: give a rate above 0"),
        (["--request-rate", "nan"], "give numbers separated by commas"),
        (["--json", "--format", "csv"], "--json and --format csv are two formats: choose one"),
        (
            ["--format", "out/results.json"],
            "invalid --format 'out/results.json': give one of table, md, csv, json, jsonl; results go to stdout",
        ),
        (["--output", "csv"], "bench has no --output or -o: use --format, one of table, md, csv, json, jsonl"),
        (["-o", "out/results.json"], "use --format, one of table, md, csv, json, jsonl; results go to stdout"),
        (["--prompt-length", "a"], "invalid --prompt-length 'a': give a number of tokens"),
        (["--plot", "x.pdf"], "ends in .svg or .png"),
        (["--plot", "none/x.svg"], "folder does not exist"),
        (["--find-max-batch"], "needs an objective"),
        (["--find-max-batch", "--find-max-rate", "--slo", "ttft=1s"], "choose one"),
        (["--find-max-rate", "--slo", "ttft=1s", "--max-batch-size", "1,2"], "one value of each option"),
        (["--find-max-rate", "--slo", "ttft=1s", "--request-rate", "3"], "leave --request-rate out"),
        (["--find-max-rate", "--slo", "ttft=1s", "--data-parallel", "2"], "leave --data-parallel out"),
        (["--slo", "ttft=200"], "has no unit: give ttft=200ms"),
        (["--slo", "fast"], "invalid --slo limit 'fast'"),
        (["--fail-above", "5%"], "needs a --baseline"),
        (
            ["--find-max-rate", "--slo", "ttft=1s", "--baseline", "{old}", "--fail-above", "5%"],
            "leave --fail-above out",
        ),
        (["--baseline", "{old}", "--mode", "offline"], "the baseline has no run named offline, only online"),
        (["--baseline", "none.json"], "cannot read --baseline"),
        (["--request-rate", "2", "--mode", "offline"], "--request-rate 2.0 needs --mode online"),
    ],
)
def test_wrong_calls_of_bench_are_refused(
    arguments: list[str], message: str, capsys: Any, tiny_llama: Path, tmp_path: Path, document: dict[str, Any]
) -> None:
    from roseinfer.cli.app import run

    (tmp_path / "old.json").write_text(json.dumps({**document, "runs": document["runs"][-1:]}))
    arguments = [argument.format(old=tmp_path / "old.json") for argument in arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["roseinfer", "bench", "--model", str(tiny_llama), *arguments])
        assert run() == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("output", ["--format=jsonl", "--json"])
def test_ctrl_c_keeps_what_was_measured_and_exits_130(
    output: str, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from roseinfer.bench import cell_measurement
    from roseinfer.cli.app import run

    measure_cell, names = cell_measurement.measure_cell, []

    def interrupted_in_the_second(engine: Any, cell: Any, **options: Any) -> Any:
        names.append(cell.name)
        if len(names) == 2:
            raise KeyboardInterrupt
        return measure_cell(engine, cell, **options)

    monkeypatch.setattr(cell_measurement, "measure_cell", interrupted_in_the_second)
    call = ["bench", "--model", str(tiny_llama), "--prompt-length", "8", "--max-new-tokens", "1,2,3", output]
    monkeypatch.setattr("sys.argv", ["roseinfer", *call])
    assert run() == 130
    out, err = capfd.readouterr()
    runs = json.loads(out)["runs"] if output == "--json" else [json.loads(line)["run"] for line in out.splitlines()]
    assert [run["name"] for run in runs] == names[:1]
    assert "interrupted after 1 of 3 configurations" in err


def test_ceilings_that_a_run_beats_are_measured_again(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    from roseinfer.cli.app import run
    from roseinfer.costs import ceilings as module
    from roseinfer.costs.ceilings import Ceilings

    rates = iter([Ceilings(1.0, 1.0), Ceilings(1e15, 1e15)])
    monkeypatch.setenv("ROSEINFER_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(module, "measure_ceilings", lambda device, dtype: next(rates))
    call = ["bench", "--model", str(tiny_llama), "--prompt-length", "8", "--max-new-tokens", "3", "--json"]
    monkeypatch.setattr("sys.argv", ["roseinfer", *call])
    assert run() == 0
    document = json.loads(capfdbinary.readouterr().out)
    assert document["environment"]["ceilings"] == {"copy_bytes_per_s": 1e15, "flops_per_s": 1e15}
    assert 0 < document["runs"][0]["decode"]["mbu_percent"] < 100
