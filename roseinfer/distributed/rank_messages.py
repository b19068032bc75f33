"""Payloads of messages between ranks: plain data in MessagePack, so that no message can run code."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from roseinfer import errors
from roseinfer.errors import RoseinferError

T = TypeVar("T")


def encoded(value: Any) -> bytes:
    """Encode structs, numbers, texts, bytes, lists and paths."""
    return msgspec.msgpack.encode(value, enc_hook=str)


def decoded(payload: bytes, kind: type[T]) -> T:
    """Decode a value of a known type. Raises RoseinferError for anything else."""
    try:
        return msgspec.msgpack.decode(payload, type=kind, dec_hook=_path)
    except msgspec.MsgspecError as error:
        raise RoseinferError(f"a rank of --tensor-parallel sent an invalid message: {error}") from None


def decoded_plain(payload: bytes) -> Any:
    """Decode numbers, texts and lists of them."""
    return msgspec.msgpack.decode(payload)


def encoded_error(error_type: type[RoseinferError], text: str) -> bytes:
    """Encode an error of this package."""
    return encoded((error_type.__name__, text))


def decoded_error(payload: bytes, process: str) -> RoseinferError:
    """Decode the error of another process, which the message then names."""
    name, text = decoded(payload, tuple[str, str])
    kind: Any = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, RoseinferError)):
        kind = RoseinferError
    error: RoseinferError = kind(f"{process}: {text}")
    return error


def _path(kind: type, value: Any) -> Any:
    if issubclass(kind, Path):
        return Path(value)
    raise NotImplementedError(f"{kind} is not sent")
