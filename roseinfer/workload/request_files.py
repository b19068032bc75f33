"""Which files hold the requests of a call, and reading those that are Parquet tables."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roseinfer.errors import UsageError

_SUFFIXES = (".jsonl", ".parquet")
_WILDCARDS = "*?["
_ROWS_READ = 1024
"""Rows of a table that are read at once."""


def request_files(name: str) -> list[str]:
    """Return the files that a value of --input names, in alphabetical order.

    A folder stands for its .jsonl and .parquet files, a pattern such as `parts/*.jsonl` for those that match it. Any
    other name, `-` included, stands for itself. Raises UsageError for a folder or a pattern without files.
    """
    path = Path(name)
    if path.is_dir():
        files = sorted(str(file) for file in path.iterdir() if file.suffix in _SUFFIXES)
        if not files:
            raise UsageError(f"{name} has no {' or '.join(_SUFFIXES)} files: name another folder, or a file")
    elif any(sign in name for sign in _WILDCARDS) and not path.exists():
        root = Path(path.anchor)
        files = sorted(str(file) for file in root.glob(str(path.relative_to(path.anchor))))
        if not files:
            raise UsageError(f"no file matches {name}: name a file, a folder or another pattern")
    else:
        files = [name]
    return files


def is_table(file: str) -> bool:
    """True for a Parquet file, by its suffix."""
    return file.endswith(".parquet")


def num_rows(file: str) -> int:
    """Return the number of rows of a Parquet file. Raises UsageError for a file that cannot be read."""
    return int(_opened(file).metadata.num_rows)


def table_rows(file: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file as the objects that JSON lines would hold: columns that are null are left out.

    Raises UsageError for a file that cannot be read.
    """
    for batch in _opened(file).iter_batches(batch_size=_ROWS_READ):
        yield from map(without_nulls, batch.to_pylist())


def without_nulls(value: Any) -> Any:
    """Return a value of a table without the keys that are null, since all structs of a column have the same keys."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def _opened(file: str) -> Any:
    """Return the file as a pyarrow.parquet.ParquetFile."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError(f"{file} needs pyarrow: python -m pip install 'roseinfer[ray]', or give JSON lines") from None
    try:
        return parquet.ParquetFile(file)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from None
    except pyarrow.ArrowException as error:
        raise UsageError(f"cannot read {file}: not a Parquet file: {error}") from None
