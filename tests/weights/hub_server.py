"""A local server that speaks the part of the Hugging Face Hub's API that downloads need."""

import hashlib
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".gguf")
"""Suffixes of files in large-file storage, whose checksum is SHA-256. Others are git blobs."""


@dataclass
class Repository:
    """The files of a model by commit, and the branches and tags that name a commit."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    is_gated: bool = False

    def commit(self, files: dict[str, bytes], *refs: str) -> str:
        """Add a commit, to which `refs` then point; return its hash."""
        name = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[name] = files
        self.refs |= dict.fromkeys(refs, name)
        return name


class HubServer(ThreadingHTTPServer):
    """Serves `repositories`. The other attributes make it misbehave, and record what clients asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.token: str | None = None
        """Token that opens gated repositories."""
        self.breaks_after: dict[str, int] = {}
        """File -> bytes after which its next transfer breaks off."""
        self.damaged: set[str] = set()
        """Files whose next transfer has a wrong byte."""
        self.requests: Counter[str] = Counter()
        """Number of requests by method and path, such as `GET config.json` or `GET api`."""
        self.ranges: list[str] = []
        """Range headers, in the order of their arrival."""
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parameter's name in the base class
        pass

    def _answer(self, *, with_body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        org_and_name, rest = (parts[2:4], parts[4:]) if is_api else (parts[:2], parts[2:])
        repository = self.server.repositories.get("/".join(org_and_name))
        self.server.requests[f"{self.command} {'api' if is_api else '/'.join(rest[2:])}"] += 1
        if repository is None:
            return self._refuse(404, "RepoNotFound")
        revision = rest[1] if len(rest) > 1 else "main"
        commit = repository.refs.get(revision, revision)
        files = repository.commits.get(commit)
        if files is None:
            return self._refuse(404, "RevisionNotFound")
        if is_api:
            return self._send(json.dumps(_description(commit, files)).encode(), {}, with_body)
        if repository.is_gated and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._refuse(403, "GatedRepo")
        name = "/".join(rest[2:])
        if name not in files:
            return self._refuse(404, "EntryNotFound")
        large = name.endswith(LARGE)
        etag = _sha256(files[name]) if large else _git_sha1(files[name])
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(files[name]))}
        return self._send(files[name], headers, with_body, name)

    def _send(self, body: bytes, headers: dict[str, str], with_body: bool, name: str = "") -> None:
        start = 0
        if with_body and (span := self.headers.get("Range")):
            self.server.ranges.append(span)
            start = int(span.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if not with_body:
            return
        body = body[start:]
        if name in self.server.damaged:
            self.server.damaged.remove(name)
            body = bytes([body[0] ^ 1]) + body[1:]
        if name in self.server.breaks_after:
            body = body[: self.server.breaks_after.pop(name)]
            self.close_connection = True
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _description(commit: str, files: dict[str, bytes]) -> dict[str, Any]:
    return {
        "_id": "0",
        "id": "org/name",
        "modelId": "org/name",
        "sha": commit,
        "private": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": [_sibling(name, content) for name, content in files.items()],
    }


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": _git_sha1(content)}
    if name.endswith(LARGE):
        entry |= {"blobId": "0" * 40, "lfs": {"sha256": _sha256(content), "size": len(content), "pointerSize": 130}}
    return entry


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
