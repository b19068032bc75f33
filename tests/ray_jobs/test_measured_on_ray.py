"""`bench --ray` and `profile --ray`."""

import json
from pathlib import Path

from command import roseinfer
from ray_environment import with_token


def test_a_job_is_measured_and_one_of_its_actors_recorded(cluster: str, tiny_llama: Path, tmp_path: Path) -> None:
    load = ["--model", tiny_llama, "--prompt-length", 8, "--max-new-tokens", 6, "--num-requests", 9, "--json"]
    on_ray = [*load, "--ray", cluster, "--actors", 1]
    done = roseinfer("bench", *on_ray, "--repeats", 2, environment=with_token())
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["job"]
    assert (job["requests"], job["completion_tokens"], len(job["actors"])) == (18, 108, 1)
    assert job["actors"][0]["busy_percent"] > 0

    done = roseinfer("profile", *on_ray, "--profile-dir", tmp_path / "profiles", environment=with_token())
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [step["phase"] for step in json.loads((tmp_path / "profiles/latest/manifest.json").read_text())["steps"]]
    assert document["summary"]["trace"]["path"].startswith(document["run_dir"])
    assert document["traces"] == [f"{document['run_dir']}/rank0-cycle0.pt.trace.json.gz"]
