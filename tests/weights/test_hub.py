"""Models of the Hugging Face Hub: downloaded once, checked, and used from the cache; tried on a local server."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_server import HubServer, Repository
from huggingface_hub import constants

from roseinfer.errors import ModelError, RoseinferError, UsageError
from roseinfer.weights import hub
from roseinfer.weights.hub_name import HubName, parse_hub_name
from roseinfer.weights.resolve import ModelSource, resolve

SMALL = {"config.json": b"{}", "tokenizer.json": b'{"model": {}}'}
FILES = {
    **SMALL,
    "README.md": b"# A model",
    "pytorch_model.bin": b"pickle",
    "original/consolidated.safetensors": b"twice",
    "model.safetensors": b"weights" * 1000,
    "additional_chat_templates/rag.jinja": b"rag",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub that this process asks, and an empty cache."""
    with HubServer() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.endpoint + constants_path())
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "a-token")
        running.repositories["org/name"] = Repository()
        running.repositories["org/name"].commit(FILES, "main")
        yield running
        running.shutdown()


def constants_path() -> str:
    return "/{repo_id}/resolve/{revision}/{filename}"


def found(model: str = "org/name", load_format: str = "auto", **options: Any) -> ModelSource:
    return resolve(model, load_format, (), **options)


def refusal(model: str = "org/name", kind: type[RoseinferError] = ModelError) -> str:
    with pytest.raises(kind) as caught:
        found(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def gets(server: HubServer) -> set[str]:
    """Return the files that were transferred."""
    return {request.removeprefix("GET ") for request in server.requests if request.startswith("GET ")} - {"api", ""}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen3-0.6B", HubName("Qwen/Qwen3-0.6B")),
        ("org/name@v1.0", HubName("org/name", "v1.0")),
        ("org/name@refs/pr/1", HubName("org/name", "refs/pr/1")),
        ("org/name:q4.gguf", HubName("org/name", None, "q4.gguf")),
        ("org/name@main:folder/q4-00001-of-00002.gguf", HubName("org/name", "main", "folder/q4-00001-of-00002.gguf")),
        ("smollm2-135m", None),
        ("a/b/c", None),
        ("./org/name", None),
        ("../name", None),
        ("/org/name", None),
        ("models/q4.gguf", None),
        ("models/model.safetensors", None),
        ("org/name:../../q4.gguf", None),
        ("org/name:model.bin", None),
        ("org/", None),
        ("", None),
    ],
)
def test_what_is_a_hub_name_and_what_is_a_path(model: str, name: HubName | None) -> None:
    assert parse_hub_name(model) == name


def test_the_first_call_downloads_the_files_needed_and_the_second_asks_nothing(server: HubServer) -> None:
    progress: list[tuple[int, int]] = []
    source = found(on_download=lambda done, total: progress.append((done, total)))
    assert source.format == "safetensors"
    assert source.path is not None
    assert (source.path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert gets(server) == {*SMALL, "model.safetensors", "additional_chat_templates/rag.jinja"}
    assert progress[-1] == (7000, 7000)
    assert all(done <= total for done, total in progress)
    server.requests.clear()
    assert found() == source
    assert not server.requests


def test_an_existing_path_wins(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(FILES[name])
    monkeypatch.chdir(tmp_path)
    assert found().path == Path("org/name")
    assert not server.requests


def test_dummy_weights_need_no_download_of_weights(server: HubServer) -> None:
    source = found(load_format="dummy")
    assert source.format == "dummy"
    assert gets(server) == {*SMALL, "additional_chat_templates/rag.jinja"}
    assert found(load_format="dummy") == source
    found()  # the copy without weights is not taken for a whole one
    assert "model.safetensors" in gets(server)


def test_a_transfer_that_breaks_off_is_continued(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    server.breaks_after["model.safetensors"] = 3000
    source = found()
    assert server.ranges == ["bytes=3000-"]
    assert source.weight_files[0].read_bytes() == FILES["model.safetensors"]


def test_a_download_that_failed_half_way_goes_on_with_the_files_that_lack(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    shards = {"model-1.safetensors": b"one", "model-2.safetensors": b"two"}
    server.repositories["org/name"].commit({**SMALL, **shards, "model.safetensors.index.json": index}, "main")
    download = hub.huggingface_hub.hf_hub_download

    def broken(repo: str, name: str, **options: Any) -> str:
        if name == "model-2.safetensors":
            raise ConnectionError("the cable was pulled")
        return download(repo, name, **options)

    monkeypatch.setattr(hub.huggingface_hub, "hf_hub_download", broken)
    assert "the cable was pulled" in (message := refusal())
    assert "run the command again" in message
    monkeypatch.setattr(hub.huggingface_hub, "hf_hub_download", download)
    server.requests.clear()
    assert [path.name for path in found().weight_files] == list(shards)
    assert gets(server) == {"model-2.safetensors"}


def test_a_name_without_a_revision_stays_with_its_copy_and_a_branch_is_asked_for(server: HubServer) -> None:
    old = found()
    new_files = {**FILES, "config.json": b'{"new": true}'}
    new = server.repositories["org/name"].commit(new_files, "main", "v2")
    server.requests.clear()
    assert found() == old
    assert not server.requests
    newer = found("org/name@main").path
    assert newer is not None
    assert newer.name == new
    assert gets(server) == {"config.json"}  # files that did not change are not downloaded again
    assert found().path == newer
    assert found("org/name@v2").path == newer
    server.requests.clear()
    assert old.path is not None
    assert found(f"org/name@{old.path.name}").path == old.path
    assert not server.requests


def test_a_damaged_file_is_deleted_and_the_next_call_gets_it_again(server: HubServer) -> None:
    for name in ("config.json", "model.safetensors"):
        server.damaged.add(name)
        assert f"{name} of org/name arrived damaged" in refusal()
    assert found().weight_files[0].read_bytes() == FILES["model.safetensors"]


def test_two_processes_at_once_download_each_file_once(server: HubServer, tmp_path: Path) -> None:
    program = "import sys\nfrom roseinfer.weights.resolve import resolve\nprint(resolve('org/name', 'auto', ()).path)"
    environment = {**os.environ, "HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home")}
    environment.pop("HF_HUB_CACHE", None)
    environment.pop("HF_HUB_OFFLINE", None)
    both = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    (folder,) = folders
    assert Path(folder).is_relative_to(tmp_path / "home" / "hub")
    assert (Path(folder) / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert server.requests["GET model.safetensors"] == 1


def test_offline_the_cache_serves_and_a_missing_model_is_named(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = found()
    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert found() == source
    assert found("org/name@main").path == source.path
    assert "HF_HUB_OFFLINE" in (message := refusal("org/other"))
    assert constants.HF_HUB_CACHE in message
    assert not server.requests


def test_a_hub_that_cannot_be_reached_is_named_and_the_cache_serves(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = found()
    server.shutdown()
    server.server_close()
    monkeypatch.setattr(hub, "_listed", unreachable(server.endpoint))
    assert found("org/name@main").path == source.path
    assert "check the network and HF_ENDPOINT" in (message := refusal("org/other"))
    assert server.endpoint in message


def unreachable(endpoint: str) -> Any:
    """Return a stand-in for the listing that asks the dead server once, without the library's pauses."""

    def listed(name: HubName) -> Any:
        return hub._asked(name, lambda: (_ for _ in ()).throw(ConnectionError("refused")))

    return listed


def test_an_unknown_model_and_an_unknown_revision_are_wrong_calls(server: HubServer) -> None:
    assert "neither a path nor a model" in refusal("org/other", UsageError)
    assert "has no revision 'v9'" in refusal("org/name@v9", UsageError)


def test_a_gated_model_needs_a_token_with_access(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repositories["org/name"].is_gated = True
    server.token = "another-token"
    assert f"accept its terms at {server.endpoint}/org/name" in (message := refusal())
    assert "HF_TOKEN" in message
    monkeypatch.setenv("HF_TOKEN", "another-token")
    assert found().format == "safetensors"


def test_a_disk_without_room_is_noticed_before_and_during_the_download(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
        assert "needs 0.0 GiB, but" in (message := refusal())
        assert "HF_HOME" in message
    with monkeypatch.context() as patch:

        def full(*_: Any, **__: Any) -> str:
            raise OSError(28, "No space left on device")

        patch.setattr(hub.huggingface_hub, "hf_hub_download", full)
        assert "is full" in refusal()
    assert found().format == "safetensors"


class TestGguf:
    @pytest.fixture(autouse=True)
    def repository(self, server: HubServer) -> Repository:
        files = {
            "q4.gguf": b"GGUF four",
            "q8/big-00001-of-00002.gguf": b"GGUF one",
            "q8/big-00002-of-00002.gguf": b"GGUF two",
        }
        server.repositories["org/name-GGUF"] = Repository()
        server.repositories["org/name-GGUF"].commit(files, "main")
        return server.repositories["org/name-GGUF"]

    def test_a_file_is_chosen_by_name_and_a_split_one_comes_whole(self, server: HubServer) -> None:
        assert found("org/name-GGUF:q4.gguf").format == "gguf"
        assert gets(server) == {"q4.gguf"}
        server.requests.clear()
        split = found("org/name-GGUF:q8/big-00001-of-00002.gguf")
        assert [path.read_bytes() for path in split.weight_files] == [b"GGUF one", b"GGUF two"]
        server.requests.clear()
        assert found("org/name-GGUF:q8/big-00001-of-00002.gguf") == split
        assert not server.requests

    def test_several_files_are_listed_for_a_choice(self) -> None:
        message = refusal("org/name-GGUF", UsageError)
        assert "org/name-GGUF:q4.gguf, org/name-GGUF:q8/big-00001-of-00002.gguf" in message
        assert "has no file q5.gguf" in refusal("org/name-GGUF:q5.gguf", UsageError)

    def test_the_only_file_needs_no_name(self, repository: Repository) -> None:
        repository.commit({"q4.gguf": b"GGUF four", "mmproj-f16.gguf": b"GGUF image"}, "main")
        source = found("org/name-GGUF")
        assert source.path is not None
        assert source.path.name == "q4.gguf"
        assert found("org/name-GGUF") == source


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({**SMALL, "pytorch_model.bin": b"x"}, "pickled weights only"),
        (SMALL, "no weights"),
        ({"model.safetensors": b"x"}, "no config.json"),
        ({**SMALL, "a.safetensors": b"x", "b.safetensors": b"x"}, "2 .safetensors files but no"),
    ],
)
def test_a_repository_that_cannot_run_says_why(server: HubServer, files: dict[str, bytes], named: str) -> None:
    server.repositories["org/name"].commit(files, "main")
    assert named in refusal()
