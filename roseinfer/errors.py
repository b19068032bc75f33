"""Exceptions for users: each message is one line that says what is wrong and what to do.

Any other exception that reaches a user is a bug. The command line prints the message and exits with `exit_code`.
Library users catch `RoseinferError`.
"""


class RoseinferError(Exception):
    """A run failed. The message is one line."""

    exit_code = 1


class UsageError(RoseinferError):
    """A call is wrong: an option, a config key or a combination of them cannot work."""

    exit_code = 2


class ModelError(RoseinferError):
    """A model cannot be found, read or run."""


class TraceError(RoseinferError):
    """A file is not a readable trace."""


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error means that the CPU has no memory left. torch's allocator raises a plain RuntimeError."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)
