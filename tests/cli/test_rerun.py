"""`roseinfer summarize RUN --rerun` profiles a run's workload again and compares both runs."""

import json
from pathlib import Path

from command import roseinfer, succeeds


def test_a_run_is_profiled_again_from_its_manifest_and_compared(tmp_path: Path, tiny_llama: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        f'[engine]\nmodel = "{tiny_llama}"\ndtype = "float32"\n'
        "[sampling]\nmax_new_tokens = 12\nstop_on_eos = false\nlogit_bias = { 5 = 1.5 }\n"
        '[workload]\nprompts = ["abc"]\n'
    )
    succeeds("profile", "--config", config, "--profile-dir", tmp_path)
    first = (tmp_path / "latest").resolve()
    shown = json.loads(succeeds("summarize", tmp_path / "latest", "--rerun", "--json").stdout)
    second = (tmp_path / "latest").resolve()
    assert second != first
    assert second.parent == first.parent
    old, new = (json.loads((run / "manifest.json").read_text()) for run in (first, second))
    assert new["config"]["engine"] == old["config"]["engine"]
    assert new["config"]["sampling"] == old["config"]["sampling"]
    assert [step["phase"] for step in new["steps"]] == [step["phase"] for step in old["steps"]]
    assert shown["comparison"]["headline"]
    assert str(second.name) in shown["trace"]["path"]


def test_a_trace_that_is_no_run_directory_cannot_be_run_again(tmp_path: Path) -> None:
    trace = tmp_path / "some.json"
    trace.write_text('{"traceEvents": []}')
    done = roseinfer("summarize", trace, "--rerun")
    assert done.returncode == 2
    assert "--rerun takes a run directory" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_rerun_has_its_own_baseline(tmp_path: Path) -> None:
    done = roseinfer("summarize", tmp_path, "--rerun", "--baseline", tmp_path)
    assert done.returncode == 2
    assert "leave --baseline out" in done.stderr
