"""Limits of a model's files, and one boundary for everything that reading them can raise.

A model's files come from strangers. Whatever they hold, reading ends in a model or in a ModelError that names the file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roseinfer.errors import ModelError, RoseinferError, lacks_memory

MAX_JSON_BYTES = 64 << 20
"""Maximum size of a JSON file that describes a model, in bytes. The largest published index files have 10 MB."""
MAX_TOKENIZER_BYTES = 512 << 20
"""Maximum size of a tokenizer file, in bytes. The largest published ones have 40 MB."""
MAX_QUOTED = 120
"""Maximum characters of a value or a message that an error quotes."""

_ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit)


@contextmanager
def reading(
    what: str | Path, remedy: str = "download it again", kind: type[RoseinferError] = ModelError
) -> Iterator[None]:
    """Turn whatever is raised inside into a ModelError that names the file `what` and says what to do.

    That includes RecursionError, MemoryError and the panics of libraries in Rust, which are no `Exception`. A
    RoseinferError passes unchanged. `kind` is another class of the error.
    """
    try:
        yield
    except (RoseinferError, *_ENDS):
        raise
    except BaseException as error:
        raise kind(f"cannot read {what}: {reason(error)}; {remedy}") from error


def reason(error: BaseException) -> str:
    """Return one line that says what an exception of any kind means for a file."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if lacks_memory(error):
        return "it needs more memory than this machine has"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    message = shortened(str(error))
    if isinstance(error, KeyError):
        return f"it lacks {message}"
    return f"{message} ({type(error).__name__})" if message else type(error).__name__


def shortened(text: str) -> str:
    """Return a text as one line of at most `MAX_QUOTED` characters, with an ellipsis if something was cut off."""
    line = " ".join(text[: 4 * MAX_QUOTED].split())
    return line if len(line) <= MAX_QUOTED and len(text) <= 4 * MAX_QUOTED else f"{line[:MAX_QUOTED]}..."


def quoted(value: object) -> str:
    """Return a value as an error message shows it, cut off if it is long."""
    if isinstance(value, (list, tuple)) and len(value) > MAX_QUOTED:
        return f"a list of {len(value)} items"
    try:
        return shortened(repr(value[: 2 * MAX_QUOTED] if isinstance(value, (str, bytes)) else value))
    except (RecursionError, ValueError):  # too deep, or an integer of too many digits
        return f"a value of type {type(value).__name__}"


def check_size(path: Path, limit: int) -> None:
    """Raise ModelError for a file above the limit in bytes. OSError passes."""
    size = path.stat().st_size
    if size > limit:
        raise ModelError(f"{path} has {size / 2**20:,.0f} MiB, and the limit is {limit >> 20:,} MiB: download it again")
