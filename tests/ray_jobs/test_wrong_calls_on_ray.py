"""`--ray` without a cluster: an address that is wrong, and options that do not fit, are refused in one line."""

import socket
from pathlib import Path

from command import roseinfer


def test_a_cluster_that_cannot_be_reached_is_one_line(tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text('{"prompt": "one"}\n')
    call = ["generate", "--input", file, "--model", tiny_llama]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    on_ray = ["--model", tiny_llama, "--prompt-length", 4, "--ray", "local"]
    wrong = {
        "cannot reach a Ray cluster at 127.0.0.1": (1, [*call, "--ray", f"127.0.0.1:{port}"]),
        "as `ray job submit": (2, [*call, "--ray", "ray://127.0.0.1:10001"]),
        "give local, auto or HOST:PORT": (2, [*call, "--ray", "nowhere"]),
        "add --ray, or drop it": (2, [*call, "--actors", 2]),
        "choose one": (2, [*call, "--ray", "local", "--shard", "0/2"]),
        "name them with --input": (2, ["generate", "--ray", "local", "--model", tiny_llama, "Hi"]),
        "Ray chooses the GPU": (2, [*call, "--ray", "local", "--device", "cuda:1"]),
        "--slo is for one engine": (2, ["bench", *on_ray, "--slo", "ttft=1s"]),
        "give one value of each option": (2, ["bench", *on_ray, "--max-batch-size", "1,2"]),
        "bench --ray sends all requests at once": (2, ["bench", *on_ray, "--request-rate", 1]),
        "profile --ray sends all requests at once": (2, ["profile", *on_ray, "--turns", 2]),
        "--no-loop is for one engine": (2, ["profile", *on_ray, "--no-loop"]),
    }
    for hint, (code, arguments) in wrong.items():
        done = roseinfer(*arguments)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), (arguments, done.stderr)
        assert hint in done.stderr, (arguments, done.stderr)
