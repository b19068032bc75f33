"""Models from the Hugging Face Hub: found in its cache, or downloaded into it with `huggingface_hub`.

The library reads HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE, takes a lock per file, so that two processes
download a file once, and continues a transfer that breaks off. It does not check the bytes of a file that came over
HTTP, so they are compared here with the checksums that the hub states.
"""

import errno
import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import msgspec
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors
from tqdm.auto import tqdm

from roseinfer.errors import ModelError, RoseinferError, UsageError
from roseinfer.progress import ProgressCallback
from roseinfer.weights.hub_files import INDEX, gguf_files, is_complete, safetensors_files, small_files
from roseinfer.weights.hub_name import HubName

_CHUNK_BYTES = 1 << 20


class _RemoteFile(msgspec.Struct, frozen=True):
    """A file of a repository at one commit."""

    name: str
    size: int
    sha256: str | None
    """Checksum of a file in large-file storage."""
    git_sha1: str | None
    """Checksum of any other file: that of a git blob, which also covers its length."""


class _Listing(msgspec.Struct, frozen=True):
    """Description of one revision of a repository by the hub."""

    commit: str
    files: dict[str, _RemoteFile]


def fetch(name: HubName, *, with_weights: bool = True, on_progress: ProgressCallback | None = None) -> Path:
    """Return the path of a model's directory, or of its GGUF file, in the hub's cache.

    A model that the cache has whole is used without asking the hub, unless a branch or tag is named: then the hub
    says which commit that is now, and the cache serves if the hub cannot be reached. Otherwise the files that are
    missing are downloaded. `on_progress` counts bytes. Raises UsageError for a name that the hub does not know, and
    ModelError if the download fails.
    """
    cached = _cached(name, with_weights)
    # Which GGUF file an unnamed one is depends on all files of the repository.
    is_certain = name.is_commit or (
        name.revision is None and (name.file is not None or cached is None or cached.is_dir())
    )
    if cached is not None and (is_certain or constants.is_offline_mode()):
        return cached
    if constants.is_offline_mode():
        raise ModelError(
            f"{name} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids a download: "
            "unset HF_HUB_OFFLINE, or give a directory"
        )
    # Warnings about transfers that the library continues would break the progress line.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        listing = _listed(name)
    except _UnreachableError as error:
        if cached is not None:
            return cached
        raise ModelError(f"{error}: check the network and HF_ENDPOINT, or give a directory") from None
    try:
        return _Download(name, listing, on_progress).model(with_weights)
    except _UnreachableError as error:
        raise ModelError(f"{error}: the files that arrived whole are kept; run the command again to go on") from None


class _UnreachableError(Exception):
    """The hub did not answer, or not as a hub does."""


def _cached(name: HubName, with_weights: bool) -> Path | None:
    """Return the path in the cache of a model that is whole; None if anything is missing."""
    storage = Path(constants.HF_HUB_CACHE) / f"models--{name.repo.replace('/', '--')}"
    ref = storage / "refs" / (name.revision or constants.DEFAULT_REVISION)
    commit = name.revision if name.is_commit else _text(ref)
    folder = storage / "snapshots" / (commit or "none")
    if not folder.is_dir():
        return None
    if name.file is None and is_complete(folder, with_weights=with_weights):
        return folder
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    try:
        parts = gguf_files(name.repo, names, name.file)
    except UsageError:
        return None  # the hub knows which files there are
    return folder / parts[0] if parts is not None and all(part in names for part in parts) else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _listed(name: HubName) -> _Listing:
    """Ask the hub for the commit and the files of a revision."""
    api = huggingface_hub.HfApi(constants.ENDPOINT)
    info = _asked(name, lambda: api.model_info(name.repo, revision=name.revision, files_metadata=True))
    files = (
        _RemoteFile(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else None, each.blob_id)
        for each in info.siblings or ()
    )
    return _Listing(str(info.sha), {file.name: file for file in files})


class _Download:
    """One download: the files of one commit that the cache lacks."""

    def __init__(self, name: HubName, listing: _Listing, on_progress: ProgressCallback | None) -> None:
        self._name = name
        self._listing = listing
        self._on_progress = on_progress
        self._done = 0
        self._total = 0

    def model(self, with_weights: bool) -> Path:
        """Download what is missing, and return the path of the model's directory, or of its GGUF file."""
        names = self._listing.files.keys()
        if (parts := gguf_files(self._name.repo, names, self._name.file)) is not None:
            path = self._get(parts)[0]
            self._note_revision(path)
            return path
        if "config.json" not in names:
            raise ModelError(f"{self._name} has no config.json: it is not a model that roseinfer can run")
        small = dict(zip(files := small_files(names), self._get(files), strict=True))
        folder = small["config.json"].parent
        if with_weights:
            weights = safetensors_files(self._name.repo, names, small.get(INDEX))
            if missing := [file for file in weights if file not in names]:
                raise ModelError(
                    f"{self._name} lacks the weights {missing[0]}, which its index names: use another copy"
                )
            self._get(weights)
        self._note_revision(small["config.json"])
        return folder

    def _get(self, names: list[str]) -> list[Path]:
        """Return the paths of files in the cache, each downloaded and checked if the cache lacked the file."""
        files = [self._listing.files[name] for name in names]
        paths = {file.name: self._in_cache(file) for file in files}
        lacking = [file for file in files if paths[file.name] is None]
        self._done, self._total = 0, sum(file.size for file in lacking)
        if lacking:
            self._check_disk()
        for file in lacking:
            paths[file.name] = self._download(file)
        return [path for name in names if (path := paths[name]) is not None]

    def _in_cache(self, file: _RemoteFile) -> Path | None:
        found = huggingface_hub.try_to_load_from_cache(
            self._name.repo, file.name, cache_dir=constants.HF_HUB_CACHE, revision=self._listing.commit
        )
        return Path(found) if isinstance(found, str) else None

    def _download(self, file: _RemoteFile) -> Path:
        before = self._done
        path = Path(
            _asked(
                self._name,
                lambda: huggingface_hub.hf_hub_download(
                    self._name.repo,
                    file.name,
                    revision=self._listing.commit,
                    cache_dir=constants.HF_HUB_CACHE,
                    endpoint=constants.ENDPOINT,
                    tqdm_class=self._bar(),
                ),
            )
        )
        _check(path, file, self._name)
        self._done = before + file.size
        self._report()
        return path

    def _check_disk(self) -> None:
        cache = Path(constants.HF_HUB_CACHE)
        existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        if free < self._total:
            raise ModelError(
                f"the download of {self._name} needs {_gib(self._total)}, but {cache} has {_gib(free)} free: "
                "delete other files, or set HF_HOME to a folder on another disk"
            )

    def _report(self) -> None:
        if self._on_progress is not None and self._total:
            self._on_progress(min(self._done, self._total), self._total)

    def _bar(self) -> type[Any]:
        """Return a class with which the library reports the bytes of one file."""
        download = self

        class Bar(tqdm):  # type: ignore[misc] # tqdm has no types
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **{**options, "disable": True})

            def update(self, n: float | None = 1) -> bool | None:
                download._done += int(n or 0)
                download._report()
                return None

        return Bar

    def _note_revision(self, path: Path) -> None:
        """Write which commit a branch or tag is, now that all of its files are there. `path` is one of them."""
        if self._name.is_commit:
            return
        snapshots = next(folder for folder in path.parents if folder.name == "snapshots")
        ref = snapshots.parent / "refs" / (self._name.revision or constants.DEFAULT_REVISION)
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(self._listing.commit, encoding="utf-8")


def _check(path: Path, file: _RemoteFile, name: HubName) -> None:
    """Compare a file with the checksum that the hub states. Deletes a file that differs, and raises ModelError."""
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as data:
        while chunk := data.read(_CHUNK_BYTES):
            digest.update(chunk)
    stated = file.sha256 or file.git_sha1
    if stated is None or digest.hexdigest() == stated:
        return
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    raise ModelError(
        f"{file.name} of {name} arrived damaged: its checksum is {digest.hexdigest()[:12]}..., not {stated[:12]}...; "
        "it was deleted, so run the command again"
    )


def _asked(name: HubName, request: Any) -> Any:
    """Return what a request to the hub returns. Raises a one-line error for what the hub or the disk refuses."""
    endpoint = constants.ENDPOINT
    try:
        return request()
    except RoseinferError:
        raise
    except hub_errors.GatedRepoError:
        raise ModelError(
            f"{name} is gated: accept its terms at {endpoint}/{name.repo}, then set HF_TOKEN to a token of that account"
        ) from None
    except hub_errors.RevisionNotFoundError:
        raise UsageError(f"{name.repo} has no revision {name.revision!r}: give a branch, a tag or a commit") from None
    except hub_errors.RepositoryNotFoundError:
        raise UsageError(
            f"{name.repo} is neither a path nor a model at {endpoint}: check the name; a private model needs HF_TOKEN"
        ) from None
    except hub_errors.HFValidationError as error:
        raise UsageError(f"{name} is no name of a model: {_one_line(error)}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(
                f"the disk of {constants.HF_HUB_CACHE} is full: delete other files, or set HF_HOME to another disk"
            ) from None
        if isinstance(error, PermissionError):
            raise ModelError(f"cannot write to {constants.HF_HUB_CACHE}: set HF_HOME to a folder of yours") from None
        # Which exceptions a lost connection raises depends on the library's version.
        raise _UnreachableError(f"cannot get {name} from {endpoint} ({_one_line(error)})") from None


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _one_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    words = " ".join(str(cause).split())
    return f"{type(cause).__name__}: {words[:120]}" if words else type(cause).__name__
