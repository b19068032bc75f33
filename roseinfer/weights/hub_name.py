"""Names of models on the Hugging Face Hub: `org/name`, with a revision and a GGUF file if wanted."""

import re

import msgspec

_NAME = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?(:(?P<file>[^:\\]+\.gguf))?", re.ASCII
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE_SUFFIXES = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".json", ".model")


class HubName(msgspec.Struct, frozen=True):
    """A model on the hub, as `org/name[@revision][:file.gguf]` names it."""

    repo: str
    revision: str | None = None
    """Branch, tag or commit. None is the cached model if there is one, else the branch main."""
    file: str | None = None
    """A GGUF file of the repository. None chooses the weights."""

    @property
    def is_commit(self) -> bool:
        """True if the revision can never change."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        """Return the repository and its revision, for messages."""
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def parse_hub_name(model: str) -> HubName | None:
    """Return the parts of a hub name, or None for anything else, such as a path of several folders or of a file."""
    match = _NAME.fullmatch(model)
    if match is None or match["repo"].lower().endswith(_FILE_SUFFIXES):
        return None
    file = match["file"]
    if file is not None and any(part in ("", ".", "..") for part in file.split("/")):
        return None
    return HubName(match["repo"], match["revision"], file)
